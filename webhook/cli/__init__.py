"""The ``leeway`` command: a module for each command, and what they share in options and output."""
