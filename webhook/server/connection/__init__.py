"""Connections: TLS, HTTP/1.1, their limits, and the gunicorn worker that accepts them."""
