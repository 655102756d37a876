"""Persistence: each backend behind the protocol of ``webhook.rbac.records``."""
