"""Runs what other threads apply on the event loop, between two requests.

An answer that is made without awaiting anything then sees one state of the store from its first
line to its last, and no thread changes a dictionary that the loop is reading.

Invariants:

1. A call returns once its function has run, and it runs exactly once.
2. A thread that waits for the loop does not outlive it: what the loop has not begun when it is
   closed runs in the thread, for then nobody else uses the state.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import get_ident
from typing import Final

_LOOK_SECONDS: Final = 0.1


class OnLoop:
    """Runs functions on an event loop, in whatever thread it is called; see ``run_apply``.

    Before ``begin`` it calls them where it is called.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def begin(self) -> None:
        """Use the loop that runs in this thread."""
        self._loop, self._thread = asyncio.get_running_loop(), get_ident()

    def __call__(self, run: Callable[[], None]) -> None:
        """Run a function, and return when it has returned. Raises what it raises."""
        loop = self._loop
        if loop is None or get_ident() == self._thread:
            run()
            return
        done: Future[None] = Future()
        try:
            loop.call_soon_threadsafe(_run, run, done)
        except RuntimeError:  # It is closed (invariant 2).
            run()
            return
        while not wait((done,), _LOOK_SECONDS).done:
            if loop.is_closed() and done.cancel():  # Invariant 2.
                run()
                return
        done.result()


def _run(run: Callable[[], None], done: "Future[None]") -> None:
    if not done.set_running_or_notify_cancel():
        return  # Invariant 1: its thread has run it.
    try:
        run()
    except BaseException as error:
        done.set_exception(error)
    else:
        done.set_result(None)
