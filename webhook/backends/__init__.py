"""Stores the records of ``webhook.rbac``, the range engine, in one SQLite file."""
