"""The connections of a worker whose clients showed no certificate, and their limit.

Anybody can open them, so a full house must not keep out a log-in or a probe of the kubelet: what
makes room is the connection that has been without a request for the longest time.

Invariants:

1. There are at most ``limit()`` of them.
2. A connection whose request is being answered is not closed for another. Where there is no other
   kind, the new one is refused.
"""

from collections.abc import Callable
from typing import Protocol


class Connection(Protocol):
    """What is known of a connection here."""

    @property
    def can_be_dropped(self) -> bool:
        """Whether no request of it is being answered."""

    def drop(self) -> None:
        """Close it at once."""


class AnonymousConnections:
    """A bounded set. ``over_limit`` is called for each that is dropped or refused."""

    def __init__(self, limit: Callable[[], int], over_limit: Callable[[], None]) -> None:
        self._limit = limit
        self._over_limit = over_limit
        # The one that was used last comes last.
        self._connections: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def admit(self, connection: Connection) -> bool:
        """Add a connection, and make room for it; return False if that is impossible."""
        while len(self._connections) >= self._limit():
            self._over_limit()
            victim = next((other for other in self._connections if other.can_be_dropped), None)
            if victim is None:
                return False
            del self._connections[victim]
            victim.drop()
        self._connections[connection] = None
        return True

    def used(self, connection: Connection) -> None:
        """Note that a request of a connection was answered just now."""
        if connection in self._connections:
            del self._connections[connection]
            self._connections[connection] = None

    def discard(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._connections.pop(connection, None)
