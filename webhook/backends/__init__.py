"""Stores the records of the range engine in SQLite."""
