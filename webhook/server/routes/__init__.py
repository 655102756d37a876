"""The hot routes, and the table that leads a request to its route."""
