"""Creates the application of a worker, and another when the configuration or a file changes.

It also runs the periodic work of a worker, and keeps it within its memory limit.
"""
