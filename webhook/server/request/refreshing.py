"""Waits for a store whose news somebody else keeps locked, beside the event loop."""

import asyncio
from time import monotonic
from typing import Final

from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreError, StoreLockedError, StoreUnavailableError
from webhook.server.request.message import Later

BRIEF_SECONDS: Final = 1.0
"""For several commits in a row, each of which waits for a slow disk more than once."""
_BETWEEN_TRIES_SECONDS: Final = 0.001


class StoreBusyError(StoreLockedError):
    """News that has not been locked for longer than commits may take."""


class Refreshing:
    """Refreshes a store for one event loop. However many requests wait, one task tries again."""

    def __init__(self, store: AuthStore) -> None:
        self._store = store
        self._locked_since: float | None = None
        self._trying: asyncio.Task[StoreError | StoreUnavailableError | None] | None = None

    def now(self) -> None:
        """Do what ``AuthStore.refresh`` does.

        Raises StoreBusyError for a lock of less than BRIEF_SECONDS, and StoreUnavailableError and
        StoreError as that does.
        """
        try:
            self._store.refresh()
        except StoreLockedError as error:
            now = monotonic()
            if self._locked_since is None:
                self._locked_since = now
            if now - self._locked_since < BRIEF_SECONDS:
                raise StoreBusyError(str(error)) from error
            raise
        self._locked_since = None

    def soon(self) -> Later[None] | None:
        """Do what ``AuthStore.refresh`` does, or return what is to be awaited for a busy store.

        Either raises StoreUnavailableError and StoreError as that does.
        """
        try:
            self.now()
        except StoreBusyError:
            return self._wait()
        return None

    async def _wait(self) -> None:
        if self._trying is None or self._trying.done():
            self._trying = asyncio.create_task(self._try())
        # It goes on for the others where one that waits is cancelled.
        error = await asyncio.shield(self._trying)
        if error is not None:
            raise error from None

    async def _try(self) -> StoreError | StoreUnavailableError | None:
        while True:
            await asyncio.sleep(_BETWEEN_TRIES_SECONDS)
            try:
                self.now()
            except StoreBusyError:
                continue
            except (StoreError, StoreUnavailableError) as error:
                return error
            return None
