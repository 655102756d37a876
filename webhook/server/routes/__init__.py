"""The routes without Flask, and the dispatcher, which finds the route of each request.

They are the reviews, the health checks, and public documents such as the JWKS.
"""
