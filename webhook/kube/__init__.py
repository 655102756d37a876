"""Kubernetes' objects as Leeway serves them: bytes in, bytes out. Pure."""
