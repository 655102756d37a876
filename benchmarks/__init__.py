"""Measures every claim about speed: ``python -m benchmarks``. One module a claim."""
