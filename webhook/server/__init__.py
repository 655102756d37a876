"""The HTTPS server: worker processes of gunicorn, from the connection to the response."""
