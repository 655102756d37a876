"""The store, read and written beside the server, as ``leeway revoke`` does it."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

from webhook.assembly import lifetimes_of
from webhook.backends.sqlite import SQLiteBackend
from webhook.config.load import load_configuration
from webhook.rbac import revocations
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreUnavailableError
from webhook.rbac.state import AuthState

from .machine import Machine

_BUSY_SECONDS = 30.0
T = TypeVar("T")


class StoreSide:
    """Opens the store for each call, in one thread.

    One, because who closes a file of SQLite's lets go of the locks of the whole process.
    """

    def __init__(self, machine: Machine):
        self._machine = machine
        self._thread = ThreadPoolExecutor(1, "store")

    def close(self) -> None:
        self._thread.shutdown()

    async def read(self) -> AuthState:
        """Return what is stored, as soon as it can be read. Raises StoreUnavailableError."""
        return await self._in_thread(self._read)

    async def revoke(self, jti: str, began: Callable[[], None]) -> None:
        """Revoke a token; ``began`` is called when it is its turn. Raises StoreUnavailableError."""

        def write() -> None:
            began()
            lifetimes = lifetimes_of(load_configuration(self._machine.data_dir, {}, {}))
            with closing(self._open()) as store:
                store.change(revocations.revoke_jti, jti, lifetimes, self._machine.clock.now())

        await self._in_thread(write)

    def _read(self) -> AuthState:
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                with closing(self._open()) as store:
                    return store.state
            except StoreUnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _open(self) -> AuthStore:
        return AuthStore.loaded(SQLiteBackend(self._machine.database, create=False))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
