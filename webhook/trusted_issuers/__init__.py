"""The keys of other issuers, read from files or fetched from URLs, and refreshed."""
