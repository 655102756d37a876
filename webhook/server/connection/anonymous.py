"""The connections of a worker whose clients showed no certificate, and their limit.

There are at most ``limit()``. Anybody can open them, so a new one takes the place of the connection
that has been without a request for the longest time, but never of one whose request is being
answered. If all are answering, the new one is refused.
"""

from collections.abc import Callable
from typing import Protocol


class Connection(Protocol):
    """A connection, which can be dropped unless a request of it is being answered."""

    @property
    def can_be_dropped(self) -> bool: ...  # noqa: D102
    def drop(self) -> None: ...  # noqa: D102


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
