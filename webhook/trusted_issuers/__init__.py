"""The verification keys of other issuers, read from files or fetched from URLs."""
