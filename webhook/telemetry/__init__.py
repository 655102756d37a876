"""Metrics, the log and the audit log."""
