"""Creates the application of a worker, and another when the configuration or a file changes."""
