"""Flask, imported late, so that no review waits for it when a server starts.

The first request that needs it, or ``load``, imports it in a thread beside the event loop.

Invariants:

1. A request takes a thread once its body is complete. No thread waits for a client.
2. Log-ins, which anybody can try and which hash a password each, have threads of their own, and a
   bounded queue that one address cannot fill for the others.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Final

from webhook.rbac.errors import TooManyRequestsError
from webhook.server.request.fair_queue import FairQueue, NoTurnError, network_of
from webhook.server.request.message import Request, Response

if TYPE_CHECKING:
    from webhook.server.flask.app import FlaskApp

THREADS: Final = 8
LOG_IN_THREADS: Final = 4
MAX_WAITING_LOG_INS: Final = 256
LOG_IN_WAIT_SECONDS: Final = 5.0
"""Longer than one check of a password takes at the highest cost."""
LOG_IN_PATH: Final = "/v3/auth/authenticate"


class FlaskThreads:
    """Pools of threads and the queue of log-ins, which outlive an application.

    At most ``at_once`` passwords are checked at a time. ``refused`` is called for each log-in that
    is refused.
    """

    def __init__(self, at_once: int = 1, refused: Callable[[], None] = lambda: None) -> None:
        self.others = ThreadPoolExecutor(THREADS, "leeway-flask")
        self.log_ins = ThreadPoolExecutor(LOG_IN_THREADS, "leeway-log-in")
        slots = min(at_once, LOG_IN_THREADS)
        self.queue = FairQueue(slots, MAX_WAITING_LOG_INS, LOG_IN_WAIT_SECONDS, refused)


class LateFlask:
    """A Flask application behind bounded pools of threads, as a route."""

    def __init__(self, make: "Callable[[], FlaskApp]", threads: FlaskThreads) -> None:
        self._make = make
        self._threads = threads
        self._making = Lock()
        self._flask: FlaskApp | None = None

    async def __call__(self, request: Request) -> Response:
        """Answer a request, which is complete (invariant 1).

        Raises TooManyRequestsError for a log-in that is refused.
        """
        flask = self._flask
        if flask is None:
            flask = await asyncio.to_thread(self.load)
        run = asyncio.get_running_loop().run_in_executor
        if request.path != LOG_IN_PATH:
            return await run(self._threads.others, flask.answer, request)
        # Invariant 2.
        try:
            async with self._threads.queue.turn(_client_of(request)):
                checking = run(self._threads.log_ins, flask.answer, request)
                try:
                    return await asyncio.shield(checking)
                except asyncio.CancelledError:
                    # A client that leaves does not stop the thread, which keeps the turn.
                    await asyncio.wait([checking])
                    checking.exception()  # Nobody else retrieves it.
                    raise
        except NoTurnError as error:
            raise TooManyRequestsError from error

    def load(self) -> "FlaskApp":
        """Make the application if there is none yet; in any thread but the event loop's."""
        with self._making:
            if self._flask is None:
                self._flask = self._make()
            return self._flask

    def routes(self) -> list[tuple[str, str]]:
        """Return the method and the path of every route."""
        return self.load().routes()


def _client_of(request: Request) -> tuple[str, str]:
    if request.caller is not None:
        return "user", request.caller.username
    return "address", network_of(request.client[0]) if request.client else ""
