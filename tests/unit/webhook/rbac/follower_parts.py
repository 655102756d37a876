"""A clock that is set, steps of a backend that are held, and an event loop that applies."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from threading import Event, Thread, get_ident

from tests.feed_backend import FeedBackend
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreLockedError
from webhook.rbac.state import AuthState


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Held:
    """A hook that is held until it is let go."""

    def __init__(self) -> None:
        self._here, self._go = Event(), Event()

    def __call__(self) -> None:
        self._here.set()
        assert self._go.wait(10)

    def wait(self) -> None:
        assert self._here.wait(10)

    def let_go(self) -> None:
        self._go.set()


@contextmanager
def held(backend: FeedBackend, step: str, job: Callable[[], object]) -> Iterator[None]:
    """Run a job in a thread, and the body while the job is held in a step of the backend."""
    hook, failures = Held(), []

    def run() -> None:
        try:
            job()
        except BaseException as error:
            failures.append(error)

    backend.hooks[step] = hook
    thread = Thread(target=run)
    thread.start()
    hook.wait()
    # Only that one.
    del backend.hooks[step]
    try:
        yield
    finally:
        hook.let_go()
        thread.join()
    assert not failures


def refreshed(store: AuthStore) -> AuthState:
    """Return the state of the next basis, as soon as there is one."""
    while True:
        try:
            return store.basis().state
        except StoreLockedError:
            Event().wait(0.001)


class Server:
    """An event loop in a thread, on which everything is applied, as a worker has one."""

    def __init__(self, store: AuthStore) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = Thread(target=self.loop.run_forever)
        self.thread.start()
        store.run_apply = self._run

    def _run(self, apply: Callable[[], None]) -> None:
        async def run() -> None:
            apply()

        if get_ident() == self.thread.ident:
            apply()
        else:
            self.do(run())

    def do(self, what: Coroutine[object, object, None]) -> None:
        """Run it on the loop, and wait until that is done."""
        asyncio.run_coroutine_threadsafe(what, self.loop).result(10)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
