"""What every request needs: its caller, permissions, the response to an error, the log."""
