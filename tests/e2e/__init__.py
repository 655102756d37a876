"""The whole product from the outside: a real server, real TLS, real clients."""
