"""A cache of facts bounded in bytes: the least recently used goes first."""

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """Something that knows how many bytes it takes, as its maker estimates."""

    @property
    def size(self) -> int:
        """Bytes."""


_Fact = TypeVar("_Fact", bound=Sized)


class FactCache(Generic[_Fact]):
    """Maps digests to facts. Not safe for threads: it belongs to one event loop."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._facts: OrderedDict[bytes, _Fact] = OrderedDict()

    def __len__(self) -> int:
        return len(self._facts)

    def get(self, digest: bytes) -> _Fact | None:
        """Return a fact and make it the most recently used, or None."""
        fact = self._facts.get(digest)
        if fact is not None:
            self._facts.move_to_end(digest)
        return fact

    def put(self, digest: bytes, fact: _Fact) -> None:
        """Keep a fact, and drop the least recently used ones that no longer fit."""
        self.discard(digest)
        self._facts[digest] = fact
        self._bytes += fact.size
        while self._bytes > self._max_bytes:
            _, dropped = self._facts.popitem(last=False)
            self._bytes -= dropped.size

    def discard(self, digest: bytes) -> None:
        """Drop a fact; nothing happens where it is not there."""
        fact = self._facts.pop(digest, None)
        if fact is not None:
            self._bytes -= fact.size
