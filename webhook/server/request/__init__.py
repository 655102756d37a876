"""What the routes share: requests and responses, the caller, permissions, errors, the log."""
