"""Kubernetes' reviews and token requests: parses them, decides access, renders answers. No I/O.

Each review has a module that parses its bytes to a value, and renders the answer. Requests for
access become ranges of keys, which ``webhook.rbac`` decides; ``webhook.token`` verifies the tokens.
"""
