"""Where the range engine's records are stored: SQLite, behind the protocol of ``webhook.rbac``."""
