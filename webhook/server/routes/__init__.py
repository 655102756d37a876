"""The hot routes, and the dispatcher, which finds the route of each request."""
