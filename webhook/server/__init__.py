"""HTTP: the ASGI application, its routes, and the gunicorn worker that runs it."""
