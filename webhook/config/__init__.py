"""``leeway.yaml``: its model and limits, how it is read, and the paths of a data directory."""
