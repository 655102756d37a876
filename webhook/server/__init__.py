"""The HTTPS server: one worker process of gunicorn, from the connection to the answer."""
