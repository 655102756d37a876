"""When the keys of an issuer are fetched, and for how long they count.

Invariants:

1. For the sake of an unknown ``kid`` keys are fetched at most once in ASK_SECONDS, counted from
   the last attempt for whatever reason.
2. Keys count for KEEP_SECONDS after they were last fetched, and no longer.
3. Attempts that fail are made again after longer and longer pauses.

Times are seconds of one monotonic clock.
"""

from math import inf
from typing import Final

ASK_SECONDS: Final = 30.0
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
        """Note that an attempt begins."""
        self._attempted = now
        self.due = inf

    def may_ask(self, now: float) -> bool:
        """Return whether an unknown ``kid`` is a reason to fetch now."""
        return now - self._attempted >= ASK_SECONDS

    def succeeded(self, now: float, refresh_after: float) -> None:
        """Note that keys were fetched, and after how many seconds they are fetched again."""
        self._fetched = now
        self._failures = 0
        self.due = now + refresh_after

    def failed(self, now: float) -> None:
        """Note that an attempt has failed."""
        pause = FIRST_RETRY_SECONDS * 2.0 ** min(self._failures, 16)
        self._failures += 1
        self.due = now + min(pause, LAST_RETRY_SECONDS)
        if self._fetched is not None and self._fetched + KEEP_SECONDS > now:
            # Be there when they end.
            self.due = min(self.due, self._fetched + KEEP_SECONDS)

    def is_expired(self, now: float) -> bool:
        """Return whether keys that were fetched once do not count any more."""
        return self._fetched is not None and now - self._fetched >= KEEP_SECONDS

    @property
    def was_fetched(self) -> bool:
        """Whether there has been an attempt that did not fail."""
        return self._fetched is not None
