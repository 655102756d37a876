"""Flask, which comes late: no review waits for it when a server starts.

It is imported, and its application made, by the first request that needs it or by ``load``, in
a thread beside the event loop.
"""

import asyncio
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, cast

from webhook.server.http import Receive, Route, Scope, Send

if TYPE_CHECKING:
    from flask import Flask

THREADS: Final = 8


class LateFlask:
    """A Flask application behind a bounded pool of threads, as a route."""

    def __init__(self, make: "Callable[[], Flask]") -> None:
        self._make = make
        self._making = Lock()
        self._route: Route | None = None
        self._routes: list[tuple[str, str]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope of type ``http``."""
        route = self._route
        if route is None:
            route = await asyncio.to_thread(self.load)
        await route(scope, receive, send)

    def load(self) -> Route:
        """Make the application where it is not there yet; in any thread but the event loop's."""
        with self._making:
            if self._route is None:
                from webhook.server.flask_app import routes_of

                flask = self._make()
                self._routes = routes_of(flask)
                self._route = _mounted(flask)
            return self._route

    def routes(self) -> list[tuple[str, str]]:
        """Return the method and the path of every route."""
        self.load()
        return list(self._routes)


def _mounted(flask: "Flask") -> Route:
    from a2wsgi import WSGIMiddleware

    def application(environ: Any, start_response: Any) -> Any:
        # The server has taken the body apart already, chunked or not.
        environ["wsgi.input_terminated"] = True
        return flask.wsgi_app(environ, start_response)

    # a2wsgi has its own names for the types of PEP 3333 and of ASGI.
    return cast(Route, WSGIMiddleware(application, workers=THREADS))
