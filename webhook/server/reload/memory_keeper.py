"""Keeps a worker within the memory that it may have, by the bytes of its cache of tokens.

Invariant: nothing here holds the event loop for longer than it takes to drop a thousand facts.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from webhook.server.reload.memory_rule import MIB, Budget, next_budget

INTERVAL_SECONDS: Final = 1.0
# One look may be a peak.
_LOOKS_UNTIL_A_PROBLEM: Final = 5
_FACTS_AT_ONCE: Final = 1000
_STATM: Final = Path("/proc/self/statm")
_logger = logging.getLogger("leeway")


class Cache(Protocol):
    """A cache whose bytes can be changed."""

    @property
    def max_bytes(self) -> int:
        """The bytes that it may have."""

    @property
    def booked_bytes(self) -> int:
        """The bytes that it has."""

    def resize(self, max_bytes: int, at_most: int) -> bool:
        """Take another bound, and drop at most so many facts; True when it is done."""


class MemoryKeeper:
    """Looks each second at what is resident.

    ``bound`` is in bytes; it and ``cache`` are asked each time, for both may be replaced.
    ``resident`` returns bytes, or None where the system does not tell.
    """

    def __init__(
        self,
        bound: Callable[[], int],
        cache: Callable[[], Cache],
        resident: "Callable[[], int | None] | None" = None,
    ) -> None:
        self._bound = bound
        self._cache = cache
        self._resident = resident or resident_bytes
        self._last: Budget | None = None
        self._looks_over = 0
        self._problem = ""

    def problem(self) -> str:
        """Return by how much the worker is over its bound; empty where it is not, or only just."""
        return self._problem

    async def keep(self) -> None:
        """Look, and change the bytes of the cache, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(INTERVAL_SECONDS)

    async def look(self) -> None:
        """Look once."""
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
            self._looks_over, self._problem = 0, ""
            return
        self._looks_over += 1
        if self._looks_over < _LOOKS_UNTIL_A_PROBLEM:
            return
        first = not self._problem
        self._problem = (
            f"a worker has {resident / MIB:.0f} MiB resident, server.maxWorkerBytes allows "
            f"{bound / MIB:.0f} MiB, and its cache of tokens cannot give back the rest; raise it"
        )
        if first:
            _logger.warning("%s", self._problem)


def resident_bytes() -> int | None:
    """Return the resident memory of this process, None where the system does not tell."""
    try:
        pages = int(_STATM.read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
