"""A cache with a limit in bytes that drops the least recently used entries first."""

from collections import OrderedDict
from typing import Protocol, TypeVar


class Sized(Protocol):
    """An object with an estimate of its size in memory."""

    @property
    def size(self) -> int:
        """Bytes."""


_Fact = TypeVar("_Fact", bound=Sized)


class FactCache(OrderedDict[bytes, _Fact]):
    """Maps digests to facts. Not safe for threads: it belongs to one event loop.

    Only ``put`` and ``discard`` add and remove facts. ``move_to_end`` marks one as used.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self._max_bytes = max_bytes
        self._bytes = 0

    @property
    def max_bytes(self) -> int:
        """The limit of the facts' size."""
        return self._max_bytes

    @property
    def booked_bytes(self) -> int:
        """The estimated size of the facts."""
        return self._bytes

    def resize(self, max_bytes: int, at_most: int) -> bool:
        """Change the limit, and drop the least recently used facts that no longer fit.

        Drops ``at_most`` facts. Returns False if that was not enough: the limit is then the present
        size, and the call is to be repeated.
        """
        for _ in range(at_most):
            if self._bytes <= max_bytes:
                break
            self._drop_oldest()
        self._max_bytes = max(max_bytes, self._bytes)
        return self._bytes <= max_bytes

    def put(self, digest: bytes, fact: _Fact) -> None:
        """Add a fact, and drop the least recently used ones that no longer fit."""
        self.discard(digest)
        self[digest] = fact
        self._bytes += fact.size
        while self._bytes > self._max_bytes:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, dropped = self.popitem(last=False)
        self._bytes -= dropped.size

    def discard(self, digest: bytes) -> None:
        """Drop a fact if it is there."""
        fact = self.pop(digest, None)
        if fact is not None:
            self._bytes -= fact.size
