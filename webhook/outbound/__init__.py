"""The HTTPS client for all requests that Leeway sends to other servers."""
