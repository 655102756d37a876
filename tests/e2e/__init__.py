"""End to end: a real server, real TLS, real clients."""
