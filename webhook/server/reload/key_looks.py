"""Looks for newer signing keys in a thread, for requests with a token of an unknown key."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class KeyLooks:
    """Calls ``look`` in a thread. To be used on one event loop.

    Anybody can show a token with an unknown key, and a look may wait for the store. So at most one
    waits for its turn: it begins after the requests that share it, and finds what they need.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._thread = ThreadPoolExecutor(1, "leeway-key-look")
        self._next: Future[None] | None = None

    def ask(self) -> Future[None]:
        """Return a future that is done once a look is that began after this call."""
        waiting = self._next
        if waiting is None or waiting.running() or waiting.done():
            waiting = self._next = self._thread.submit(self._look)
        return waiting
