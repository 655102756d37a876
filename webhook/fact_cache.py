"""A cache of facts bounded in bytes: the least recently used goes first."""

from collections.abc import Iterable
from typing import Generic, TypeVar

_Fact = TypeVar("_Fact")


class FactCache(Generic[_Fact]):
    """Maps digests to facts, each with its size in bytes as the caller estimates it.

    Not safe for threads: it belongs to one event loop.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: dict[bytes, tuple[_Fact, int]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, digest: bytes) -> _Fact | None:
        """Return a fact and make it the most recently used, or None."""
        entry = self._entries.pop(digest, None)
        if entry is None:
            return None
        self._entries[digest] = entry
        return entry[0]

    def put(self, digest: bytes, fact: _Fact, size: int) -> None:
        """Keep a fact, and drop the least recently used ones that no longer fit."""
        self.discard([digest])
        self._entries[digest] = (fact, size)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self.discard([next(iter(self._entries))])

    def discard(self, digests: Iterable[bytes]) -> None:
        """Drop facts; digests that are not there are passed over."""
        for digest in digests:
            entry = self._entries.pop(digest, None)
            if entry is not None:
                self._bytes -= entry[1]
