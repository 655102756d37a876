"""Keeps the store fresh where nobody asks, and says what is wrong with it."""

import asyncio
import logging
from time import monotonic
from typing import Final

from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreError, StoreLockedError, StoreUnavailableError
from webhook.rbac.replaced import lacking
from webhook.rbac.state import AuthState
from webhook.server.request.refreshing import BRIEF_SECONDS
from webhook.telemetry.audit import DONE, audit_fields, audit_message
from webhook.telemetry.logs import AUDIT_LOGGER

INTERVAL_SECONDS: Final = 0.1
_BETWEEN_LINES_SECONDS: Final = 1.0
_logger = logging.getLogger("leeway")


class StoreKeeper:
    """Refreshes a store, and logs when it cannot be read and when it can: one line a second."""

    def __init__(self, store: AuthStore) -> None:
        self._store = store
        self._locked_since: float | None = None
        self._logged = ""
        self._logged_at = float("-inf")
        store.on_replaced = _report_replaced

    async def keep(self) -> None:
        """Refresh every INTERVAL_SECONDS, until cancelled.

        Else a worker that nobody asks is far behind when somebody locks the database.
        """
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            self.problem()

    def problem(self) -> str:
        """Return why nothing can be answered from the store, empty where it can."""
        now, problem, locked_since = monotonic(), "", None
        try:
            self._store.refresh()
        except StoreLockedError as error:
            locked_since = self._locked_since if self._locked_since is not None else now
            # Requests wait for so long.
            problem = str(error) if now - locked_since >= BRIEF_SECONDS else ""
        except (StoreError, StoreUnavailableError) as error:
            problem = str(error)
        self._locked_since = locked_since
        if problem != self._logged and now - self._logged_at >= _BETWEEN_LINES_SECONDS:
            if problem:
                _logger.error("requests that need the store are refused: %s", problem)
            else:
                _logger.info("the store can be read again")
            self._logged, self._logged_at = problem, now
        return problem


def _report_replaced(before: AuthState, after: AuthState) -> None:
    lacks = lacking(before, after)
    action = "store.replace"
    _logger.warning(
        "the store was replaced and taken over; it lacks: %s", "; ".join(lacks) or "nothing"
    )
    fields = {"revision": after.meta.revision, "storeRevision": after.revision, "lacks": lacks}
    logging.getLogger(AUDIT_LOGGER).info(
        "%s",
        audit_message(action, DONE),
        extra={"fields": audit_fields(action, DONE, "server", {}, fields)},
    )
