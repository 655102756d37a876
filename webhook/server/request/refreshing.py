"""Waits for what an answer needs of a store, beside the event loop.

A store that another process keeps locked can be read in a moment; a proof that nothing is missing
comes with the next read of the backend; a position that another replica has reached comes with the
next news.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from math import inf
from time import monotonic, sleep
from typing import Final

from webhook.rbac.auth_store import AuthStore
from webhook.rbac.basis import Basis
from webhook.rbac.errors import StoreError, StoreLockedError, StoreUnavailableError

BRIEF_SECONDS: Final = 1.0
"""For several commits in a row, each of which waits for a slow disk more than once."""
_BETWEEN_TRIES_SECONDS: Final = 0.001
_BETWEEN_LATE_TRIES_SECONDS: Final = 0.02
_BETWEEN_LOOKS_SECONDS: Final = 0.005


class Refreshing:
    """Refreshes a store that is locked. However many requests wait, one task tries again."""

    def __init__(self, store: AuthStore) -> None:
        self._store = store
        self._trying: asyncio.Task[StoreError | StoreUnavailableError | None] | None = None
        self._began = 0.0
        self._since = -inf

    async def wait(self, locked: StoreLockedError, since: float = -inf) -> Basis:
        """Wait until the store, which was found ``locked``, has a basis; return it.

        ``since`` is that of ``AuthStore.basis``: requests that came one after the other are served
        by one read. Raises the error once the store has been locked for longer than BRIEF_SECONDS,
        or a request has waited so long, and the other errors of ``AuthStore.basis``.
        """
        arrived = monotonic()
        while True:
            await self._wait_for_try(locked, arrived, since)
            try:
                return self._store.basis(since)
            except StoreLockedError as error:
                locked = error

    async def _wait_for_try(self, locked: StoreLockedError, arrived: float, since: float) -> None:
        # Of all that wait, the last: otherwise each would look for its own proof.
        self._since = max(self._since, since)
        if self._trying is None or self._trying.done():
            self._began = monotonic()
            self._trying = asyncio.create_task(self._try(self._since))
        deadline = min(self._began, arrived) + BRIEF_SECONDS
        try:
            async with asyncio.timeout(deadline - monotonic()):
                # It continues for the others if one that waits is cancelled.
                error = await asyncio.shield(self._trying)
        except TimeoutError:
            raise locked from None
        if error is not None:
            raise error from None

    async def _try(self, since: float) -> StoreError | StoreUnavailableError | None:
        while True:
            is_late = monotonic() - self._began > BRIEF_SECONDS
            await asyncio.sleep(_BETWEEN_LATE_TRIES_SECONDS if is_late else _BETWEEN_TRIES_SECONDS)
            try:
                self._store.basis(since)
            except StoreLockedError:
                continue
            except (StoreError, StoreUnavailableError) as error:
                return error
            return None


async def reached(reaches: Callable[[], bool], refresh: Callable[[], object]) -> bool:
    """Wait until a store reaches a position, for BRIEF_SECONDS at most; return whether it does.

    Raises what the two functions raise, but for StoreLockedError, which passes.
    """
    deadline = monotonic() + BRIEF_SECONDS
    while not reaches():
        if monotonic() > deadline:
            return False
        await asyncio.sleep(_BETWEEN_LOOKS_SECONDS)
        try:
            refresh()
        except StoreLockedError:
            continue
    return True


def basis_in_thread(store: AuthStore) -> Basis:
    """Take a basis in a thread beside the event loop, and wait for it as ``Refreshing`` does.

    Raises what ``AuthStore.basis`` raises.
    """
    deadline = monotonic() + BRIEF_SECONDS
    while True:
        found: list[Basis | Exception] = []
        store.run_apply(partial(_take, store, found))
        (basis,) = found
        if isinstance(basis, Basis):
            return basis
        if not isinstance(basis, StoreLockedError) or monotonic() > deadline:
            raise basis
        sleep(_BETWEEN_TRIES_SECONDS)


def _take(store: AuthStore, found: list[Basis | Exception]) -> None:
    try:
        found.append(store.basis())
    except Exception as error:
        found.append(error)
