"""Drops old revocations of a store in etcd once, by one worker of the server.

With SQLite that is done before the workers start. A store in etcd may not be reachable then, and
must not be opened by the process that forks the workers.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from time import time
from typing import Final

from webhook.errors import LeewayError
from webhook.rbac import revocations
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.revocations import Lifetimes

_MARK: Final = "store-tidied"
_logger = logging.getLogger("leeway")


class StoreTidying:
    """Tidies as soon as the store can be used.

    ``folder`` is one that the workers of this server share and that goes with it; without one
    there are no other workers.
    """

    def __init__(
        self, store: AuthStore, lifetimes: Callable[[], Lifetimes], folder: str | None
    ) -> None:
        self._store = store
        self._lifetimes = lifetimes
        self._mark = Path(folder) / _MARK if folder else None
        self._is_done = False

    async def run(self) -> None:
        """Tidy beside the event loop, unless that is done or the store cannot be used yet."""
        if self._is_done:
            return
        try:
            self._store.refresh()
        except LeewayError:
            return
        self._is_done = True
        if self._is_first():
            await asyncio.to_thread(self._tidy)

    def _is_first(self) -> bool:
        if self._mark is None:
            return True
        try:
            os.close(os.open(self._mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError:
            return False
        return True

    def _tidy(self) -> None:
        try:
            self._store.change(revocations.tidy, self._lifetimes(), time())
        except LeewayError as error:
            # They do no harm, and `leeway revoke` drops them too.
            _logger.warning("old revocations were not dropped: %s", error)
