"""The ``leeway`` command: one module for each group of commands."""
