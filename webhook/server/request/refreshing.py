"""Waits for a store that another process keeps locked, beside the event loop."""

import asyncio
from time import monotonic
from typing import Final

from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreError, StoreLockedError, StoreUnavailableError

BRIEF_SECONDS: Final = 1.0
"""For several commits in a row, each of which waits for a slow disk more than once."""
_BETWEEN_TRIES_SECONDS: Final = 0.001
_BETWEEN_LATE_TRIES_SECONDS: Final = 0.02


class Refreshing:
    """Refreshes a store that is locked. However many requests wait, one task tries again."""

    def __init__(self, store: AuthStore) -> None:
        self._store = store
        self._trying: asyncio.Task[StoreError | StoreUnavailableError | None] | None = None
        self._began = 0.0

    async def wait(self, locked: StoreLockedError) -> None:
        """Wait until the store, which was found ``locked``, is up to date.

        Raises that error once the store has been locked for longer than BRIEF_SECONDS, and the
        other errors of ``AuthStore.refresh``.
        """
        if self._trying is None or self._trying.done():
            self._began = monotonic()
            self._trying = asyncio.create_task(self._try())
        try:
            async with asyncio.timeout(self._began + BRIEF_SECONDS - monotonic()):
                # It continues for the others if one that waits is cancelled.
                error = await asyncio.shield(self._trying)
        except TimeoutError:
            raise locked from None
        if error is not None:
            raise error from None

    async def _try(self) -> StoreError | StoreUnavailableError | None:
        while True:
            is_late = monotonic() - self._began > BRIEF_SECONDS
            await asyncio.sleep(_BETWEEN_LATE_TRIES_SECONDS if is_late else _BETWEEN_TRIES_SECONDS)
            try:
                self._store.refresh()
            except StoreLockedError:
                continue
            except (StoreError, StoreUnavailableError) as error:
                return error
            return None
