"""Kubernetes' reviews and token requests: bytes in, values out, and back. Pure."""
