"""Verifies and signs service account tokens: bytes and the time in, an outcome out. Pure."""
