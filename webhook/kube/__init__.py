"""Kubernetes' reviews and token requests, and its requests as ranges of keys. No I/O.

Each review has a module that parses its bytes to a value, and renders the answer.
"""
