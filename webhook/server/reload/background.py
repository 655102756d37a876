"""The work that a worker repeats beside its requests."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from random import uniform
from time import monotonic, time
from typing import Any, Final

from webhook.errors import LeewayError
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import (
    StoreError,
    StoreLockedError,
    StoreStaleError,
    StoreUnavailableError,
)
from webhook.rbac.replaced import lacking
from webhook.rbac.simple_tokens import TokenUses
from webhook.rbac.state import AuthState
from webhook.server.request.refreshing import BRIEF_SECONDS
from webhook.skew.snapshots import SkewFiles
from webhook.telemetry.audit import DONE, audit_fields, audit_message
from webhook.telemetry.logs import AUDIT_LOGGER

# A clock that is slewed moves by less than 1 ms in a second.
_STEP_SECONDS: Final = 1.0
_BETWEEN_LINES_SECONDS: Final = 1.0
_WRITE_SECONDS: Final = 1.0
REPORTED_SECONDS: Final = 600.0
_logger = logging.getLogger("leeway")


async def every(seconds: float, job: Callable[[], Coroutine[Any, Any, None] | object]) -> None:
    """Run a job every so many seconds, the first time after one interval, until cancelled.

    An exception of the job is logged.
    """
    while True:
        await asyncio.sleep(seconds)
        try:
            result = job()
            if isinstance(result, Coroutine):
                await result
        except Exception:
            _logger.exception("a job of the event loop failed and is repeated")


class UseWriter:
    """Stores the uses of auth tokens. A failure is logged once, until writing works again."""

    def __init__(self, uses: TokenUses, clock: Callable[[], float] = monotonic) -> None:
        self._uses = uses
        self._clock = clock
        self._is_failing = False
        self._next = self._in_an_interval()

    async def write_new(self) -> None:
        """Write beside the event loop, if there is anything new and it is time for that."""
        if self._uses and self._clock() >= self._next:
            self._next = self._in_an_interval()
            await asyncio.to_thread(self.write)

    def _in_an_interval(self) -> float:
        # To be called every second. Workers that share a store should not write all at once.
        interval = self._uses.interval
        spread = uniform(0.8, 1.2)  # noqa: S311 - nothing secret
        return self._clock() + (interval * spread if interval > _WRITE_SECONDS else 0.0)

    def write(self) -> None:
        """Write what is new, and wait for the store; never on the event loop."""
        if not self._uses:
            return
        try:
            self._uses.write()
        except LeewayError as error:
            if not self._is_failing:
                _logger.warning("the use of an auth token was not written down: %s", error)
            self._is_failing = True
        else:
            self._is_failing = False


class SkewWriter:
    """Writes what a worker knows of clocks, and forgets it if this server's own clock is set.

    ``clock`` returns Unix seconds.
    """

    def __init__(self, files: SkewFiles, clock: Callable[[], float] = time) -> None:
        self._files = files
        self._clock = clock
        self._offset = self._offset_now()

    async def write_new(self) -> None:
        """Write beside the event loop, if there is anything new."""
        before, self._offset = self._offset, self._offset_now()
        if abs(self._offset - before) > _STEP_SECONDS:
            # Every bound was measured against the old clock.
            self._files.tracker.forget()
        if not self._files.take_snapshot():
            return
        try:
            await asyncio.to_thread(self._files.write)
        except OSError as error:
            self._files.tracker.changed = True
            _logger.warning("what is known of clocks was not written down: %s", error)

    def _offset_now(self) -> float:
        # The event loop caches its time while a step takes long.
        return self._clock() - monotonic()


class StoreKeeper:
    """Refreshes a store, and logs when it cannot be read and when it can: one line a second.

    A worker without requests would otherwise be far behind when the database is locked, and would
    never read a store in etcd for the first time. What a store lacks that was replaced, or that has
    lost a part of its history, is logged and audited, and is a warning for REPORTED_SECONDS.
    """

    def __init__(self, store: AuthStore) -> None:
        self._store = store
        self._locked_since: float | None = None
        self._problem = self._cause = self._logged = ""
        self._logged_at = self._replaced_at = float("-inf")
        self._lacks = ""
        store.on_replaced = self._report_replaced

    def problem(self) -> str:
        """Refresh the store; return why nothing can be answered from it, empty if it can."""
        now, problem, cause, locked_since = monotonic(), "", "", None
        try:
            self._store.refresh()
        except StoreLockedError as error:
            locked_since = self._locked_since if self._locked_since is not None else now
            if error.__cause__ is not None:
                problem = cause = str(error.__cause__)
            elif now - locked_since >= BRIEF_SECONDS:
                problem = cause = str(error)
            else:
                # Requests wait that long, and what was wrong before may be so still. Before the
                # first load there is nothing to answer them from.
                problem, cause = self._problem, self._cause
                if not (problem or self._is_loaded()):
                    problem = str(error)
        except StoreStaleError as error:
            # Its age, which the text says, is not news.
            problem, cause = str(error), "stale"
        except (StoreError, StoreUnavailableError) as error:
            problem = cause = str(error)
        self._locked_since, self._problem, self._cause = locked_since, problem, cause
        if cause != self._logged and now - self._logged_at >= _BETWEEN_LINES_SECONDS:
            if problem:
                _logger.error("requests that need the store are refused: %s", problem)
            else:
                _logger.info("the store can be read again")
            self._logged, self._logged_at = cause, now
        return problem

    def _is_loaded(self) -> bool:
        try:
            return self._store.state is not None
        except (StoreError, StoreUnavailableError):
            return False

    def warning(self) -> str:
        """Return what the store lacks since it was replaced, empty if that is long ago."""
        return self._lacks if monotonic() - self._replaced_at < REPORTED_SECONDS else ""

    def _report_replaced(self, before: AuthState, after: AuthState) -> None:
        lacks = lacking(before, after)
        what = "has lost a part of its history" if self._store.is_shared else "was replaced"
        self._lacks = (
            f"the store {what} and was taken over; it lacks: {'; '.join(lacks) or 'nothing'}"
        )
        self._replaced_at = monotonic()
        _logger.warning("%s", self._lacks)
        _audit_replaced(after, lacks)


def _audit_replaced(after: AuthState, lacks: Sequence[str]) -> None:
    action = "store.replace"
    fields = {"revision": after.meta.revision, "storeRevision": after.revision, "lacks": lacks}
    logging.getLogger(AUDIT_LOGGER).info(
        "%s",
        audit_message(action, DONE),
        extra={"fields": audit_fields(action, DONE, "server", {}, fields)},
    )
