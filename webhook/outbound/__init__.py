"""The HTTPS client for all requests, GET only, that Leeway sends to other servers."""
