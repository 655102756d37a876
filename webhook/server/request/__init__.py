"""What every request goes through: who calls, what is allowed, what an error becomes, the log."""
