"""Puts the routes together, and again when the configuration, a key or a file changes."""
