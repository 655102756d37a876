"""Verifies and signs service account tokens. No I/O: the time is an argument."""
