"""Flask, which comes late: no review waits for it when a server starts.

It is imported, and its application made, by the first request that needs it or by ``load``, in
a thread beside the event loop.

Invariants:

1. A request takes a thread once its body is here as a whole. A thread that waited for a client
   would be one that nobody else has, and Flask cannot tell half a body from a whole one.
2. Log-ins, which anybody may try and which hash a password each, have threads of their own, and
   a bounded queue for them that no address can fill for the others.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from webhook.rbac.errors import TooManyRequestsError
from webhook.server.request.caller import CALLER, Caller
from webhook.server.request.fair_queue import FairQueue, NoTurnError, network_of
from webhook.server.request.http import BODY, Receive, RequestError, Route, Scope, Send, read_body

if TYPE_CHECKING:
    from flask import Flask

THREADS: Final = 8
LOG_IN_THREADS: Final = 4
MAX_WAITING_LOG_INS: Final = 256
LOG_IN_WAIT_SECONDS: Final = 5.0
"""Longer than one check of a password takes at the highest cost."""
LOG_IN_PATH: Final = "/v3/auth/authenticate"
ANONYMOUS_BODY_BYTES: Final = 16 * 1024
"""What anybody may send, as a name and a password: it is in memory until it is whole."""


class LateFlask:
    """A Flask application behind bounded pools of threads, as a route.

    Bodies of more than ``max_body_bytes`` are refused, and from callers without an identity those
    of more than ``ANONYMOUS_BODY_BYTES``. ``log_ins`` is the queue of log-ins; it and
    the ``threads`` outlive this.
    """

    def __init__(
        self,
        make: "Callable[[], Flask]",
        max_body_bytes: int,
        log_ins: FairQueue,
        threads: "Threads",
    ) -> None:
        self._make = make
        self._max_body_bytes = max_body_bytes
        self._log_ins = log_ins
        self._threads = threads
        self._making = Lock()
        self._mounted: Mounted | None = None
        self._routes: list[tuple[str, str]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope of type ``http``.

        Raises DisconnectedError, and TooManyRequestsError for a log-in that gets no turn.
        """
        limit = self._max_body_bytes
        if not isinstance(scope.get(CALLER), Caller):
            limit = min(limit, ANONYMOUS_BODY_BYTES)
        try:
            scope[BODY] = await read_body(scope, receive, limit)
        except RequestError as error:
            # For the views that want a body: what is not there is 404, whatever is sent to it.
            scope[BODY] = error
        mounted = self._mounted
        if mounted is None:
            mounted = await asyncio.to_thread(self.load)
        if scope["path"] != LOG_IN_PATH:
            await mounted.others(scope, receive, send)
            return
        try:
            async with self._log_ins.turn(_client_of(scope)):
                await mounted.log_ins(scope, receive, send)
        except NoTurnError as error:
            raise TooManyRequestsError from error

    def load(self) -> "Mounted":
        """Make the application where it is not there yet; in any thread but the event loop's."""
        with self._making:
            if self._mounted is None:
                from webhook.server.flask.app import routes_of

                flask = self._make()
                self._routes = routes_of(flask)
                self._mounted = Mounted(
                    _mount(flask, self._threads.log_ins), _mount(flask, self._threads.others)
                )
            return self._mounted

    def routes(self) -> list[tuple[str, str]]:
        """Return the method and the path of every route."""
        self.load()
        return list(self._routes)


def log_in_queue(at_once: int, refused: Callable[[], None] = lambda: None) -> FairQueue:
    """Make the queue of log-ins for so many checks of passwords at once."""
    slots = min(at_once, LOG_IN_THREADS)
    return FairQueue(slots, MAX_WAITING_LOG_INS, LOG_IN_WAIT_SECONDS, refused)


def _client_of(scope: Scope) -> tuple[str, str]:
    caller = scope.get(CALLER)
    if isinstance(caller, Caller):
        return "user", caller.username
    client = scope.get("client")
    return "address", network_of(client[0]) if client else ""


class Threads(NamedTuple):
    """The pools of threads, which every application of a worker uses in its time."""

    log_ins: Executor
    others: Executor


def flask_threads() -> Threads:
    """Make the pools; a thread of theirs begins when it is needed."""
    return Threads(
        ThreadPoolExecutor(LOG_IN_THREADS, "leeway-log-in"),
        ThreadPoolExecutor(THREADS, "leeway-flask"),
    )


class Mounted(NamedTuple):
    """One application, behind one pool of threads for each."""

    log_ins: Route
    others: Route


def _mount(flask: "Flask", threads: Executor) -> Route:
    from a2wsgi import WSGIMiddleware

    # a2wsgi has its own names for the types of PEP 3333 and of ASGI.
    mounted: Any = WSGIMiddleware(cast(Any, flask.wsgi_app))
    # It would make a pool of its own, whose threads stay when it is no longer used.
    mounted.executor = threads
    return cast(Route, mounted)
