"""Looks up the objects that tokens are bound to, in a file or from an API server.

They are ServiceAccounts, Pods, Secrets and Nodes. What a missing one means for a token is decided
in ``webhook.token``.
"""
