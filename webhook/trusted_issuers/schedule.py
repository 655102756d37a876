"""When the keys of an issuer are fetched, and for how long they are used.

Invariants:

1. An unknown ``kid`` causes a fetch only if the last attempt, for whatever reason, is at least
   REQUEST_SECONDS ago.
2. Keys are used for KEEP_SECONDS after they were last fetched, and no longer.
3. Attempts that fail are repeated after longer and longer pauses.

Times are seconds of one monotonic clock.
"""

from math import inf
from typing import Final

REQUEST_SECONDS: Final = 30.0
KEEP_SECONDS: Final = 24 * 3600.0
FIRST_RETRY_SECONDS: Final = 5.0
LAST_RETRY_SECONDS: Final = 300.0


class FetchSchedule:
    """The schedule of one issuer; the first attempt is due at once."""

    def __init__(self) -> None:
        self.due = -inf
        self._attempted = -inf
        self._fetched: float | None = None
        self._failures = 0

    def begin(self, now: float) -> None:
        """Record that an attempt begins."""
        self._attempted = now
        self.due = inf

    def may_request(self, now: float) -> bool:
        """Return whether an unknown ``kid`` is a reason to fetch now."""
        return now - self._attempted >= REQUEST_SECONDS  # invariant 1

    def succeeded(self, now: float, refresh_after: float) -> None:
        """Record that keys were fetched, to be fetched again after some seconds."""
        self._fetched = now
        self._failures = 0
        self.due = now + refresh_after

    def failed(self, now: float) -> None:
        """Record that an attempt has failed."""
        pause = FIRST_RETRY_SECONDS * 2.0 ** min(self._failures, 16)
        self._failures += 1
        self.due = now + min(pause, LAST_RETRY_SECONDS)  # invariant 3
        if self._fetched is not None and self._fetched + KEEP_SECONDS > now:
            # An attempt at the moment when they expire.
            self.due = min(self.due, self._fetched + KEEP_SECONDS)

    def is_expired(self, now: float) -> bool:
        """Return whether keys were fetched but are too old to be used (invariant 2)."""
        return self._fetched is not None and now - self._fetched >= KEEP_SECONDS

    @property
    def was_fetched(self) -> bool:
        """Whether an attempt has succeeded."""
        return self._fetched is not None
