"""Keeps a worker within its memory limit, by the bytes of its cache of tokens.

Part of the limit is reserved for the requests being answered. While the process is below the rest,
the cache can grow into it. Once it is over by more than ``SLACK_BYTES``, the cache shrinks by the
excess; in between nothing happens, so that it does not oscillate. The slack is small, because
within it a process grows by fragmented memory.

Freed memory may stay with the process. After shrinking has returned next to nothing, the cache is
not shrunk again until the process has grown, so that it is never emptied in vain.

Invariant: nothing here holds the event loop for longer than it takes to drop a thousand facts.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from webhook.token.fact_cache import FactCache

MIB: Final = 1024 * 1024
RESERVE_BYTES: Final = 32 * MIB
SLACK_BYTES: Final = 4 * MIB
FLOOR_BYTES: Final = 2 * MIB
"""What the cache keeps whatever happens: without any a busy server would verify all over."""
# What is booked for a fact is up to three times what it takes: see ``authenticator``.
_WORTH_IT: Final = 8
_GROWTH_BYTES: Final = 2 * MIB
# One look may be a peak.
_CHECKS_UNTIL_A_PROBLEM: Final = 5
_FACTS_AT_ONCE: Final = 1000
_STATM: Final = Path("/proc/self/statm")
_logger = logging.getLogger("leeway")


@dataclass(frozen=True, slots=True)
class Budget:
    """The bytes that the cache may use, and its last shrinking.

    ``shrunk_by`` is 0 if it was not shrunk since the process was within its limit; ``shrunk_at`` is
    the resident memory at that time.
    """

    bytes: int
    shrunk_at: int = 0
    shrunk_by: int = 0


def next_budget(budget: Budget, bound: int, resident: int, booked: int) -> Budget:
    """Return the next budget, by the resident memory and the bytes that the cache uses."""
    room = bound - RESERVE_BYTES - resident
    if room >= 0:
        return Budget(max(FLOOR_BYTES, booked + room))
    if -room <= SLACK_BYTES:
        return Budget(max(FLOOR_BYTES, min(budget.bytes, booked)))
    given_back = budget.shrunk_at - resident
    has_helped = given_back >= budget.shrunk_by // _WORTH_IT
    has_grown = -given_back > _GROWTH_BYTES
    if budget.shrunk_by and not has_helped and not has_grown:
        return budget
    less = max(FLOOR_BYTES, booked + room)
    return Budget(less, resident, max(0, booked - less))


class MemoryKeeper:
    """Compares the resident memory with its limit.

    ``bound`` returns the limit in bytes; it and ``cache`` are called each time, because both can be
    replaced. ``resident`` returns bytes, or None if the system does not provide them.
    """

    def __init__(
        self,
        bound: Callable[[], int],
        cache: Callable[[], FactCache[Any]],
        resident: "Callable[[], int | None] | None" = None,
    ) -> None:
        self._bound = bound
        self._cache = cache
        self._resident = resident or resident_bytes
        self._last: Budget | None = None
        self._checks_over = 0
        self._problem = ""

    def problem(self) -> str:
        """Return by how much the worker is over its limit; empty if it is not, or only just."""
        return self._problem

    async def check(self) -> None:
        """Compare once, and change the bytes of the cache."""
        bound, cache, resident = self._bound(), self._cache(), self._resident()
        if resident is None:
            return
        last = self._last or Budget(cache.max_bytes)
        self._last = next_budget(last, bound, resident, cache.booked_bytes)
        while not cache.resize(self._last.bytes, _FACTS_AT_ONCE):
            await asyncio.sleep(0)
        self._judge(bound, resident)

    def _judge(self, bound: int, resident: int) -> None:
        if resident <= bound:
            if self._problem:
                _logger.info("this worker is within server.maxWorkerBytes again")
            self._checks_over, self._problem = 0, ""
            return
        self._checks_over += 1
        if self._checks_over < _CHECKS_UNTIL_A_PROBLEM:
            return
        first = not self._problem
        self._problem = (
            f"a worker has {resident / MIB:.0f} MiB resident, server.maxWorkerBytes allows "
            f"{bound / MIB:.0f} MiB, and its cache of tokens cannot give back the rest; raise it"
        )
        if first:
            _logger.warning("%s", self._problem)


def resident_bytes() -> int | None:
    """Return the resident memory of this process, None if the system does not provide it."""
    try:
        pages = int(_STATM.read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
