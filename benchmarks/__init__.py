"""Measures every claim about speed: ``python -m benchmarks``. Each claim has a module."""
