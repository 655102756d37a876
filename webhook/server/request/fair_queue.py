"""Turns for work that costs much, such as the check of a password, shared fairly between clients.

A client is named by a key: its address, or its user where that is known. The order is round robin
between keys and first come, first served within one, as in fair queueing (RFC 970).

Invariants:

1. At most ``slots`` turns are taken at a time, at most ``max_waiting`` callers wait for one, and
   none waits for longer than ``max_wait`` seconds.
2. A key that is waiting gets its next turn after at most one turn of each other key.
3. A full queue refuses the newest caller of the key with the most callers in it, so that a flood
   never takes the place of a key with fewer.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from ipaddress import IPv6Address

# A host chooses the rest of its IPv6 address itself (RFC 8981).
_NETWORK_BYTES = 8


class NoTurnError(Exception):
    """The queue is full, or the wait in it was too long."""


class FairQueue:
    """A queue for one event loop. ``refused`` is called for each caller that is refused."""

    def __init__(
        self,
        slots: int,
        max_waiting: int,
        max_wait: float,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._free = slots
        self._max_waiting = max_waiting
        self._max_wait = max_wait
        self._refused = refused
        # The next key comes first. Each key has a caller.
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()
        self._count = 0

    @property
    def waiting(self) -> int:
        """The number of callers that wait."""
        return self._count

    @asynccontextmanager
    async def turn(self, key: Hashable) -> AsyncIterator[None]:
        """Wait for a turn, and hold it. Raises NoTurnError."""
        try:
            await self._acquire(key)
        except NoTurnError:
            self._refused()
            raise
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, key: Hashable) -> None:
        # Invariant 1.
        if self._free:
            self._free -= 1
            return
        self._make_room(key)
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        self._count += 1
        timer = loop.call_later(self._max_wait, self._refuse, key, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(key, turn)
            elif turn.exception() is None:
                # The turn was given, but its caller is gone.
                self._release()
            raise
        finally:
            timer.cancel()

    def _make_room(self, key: Hashable) -> None:
        if self._count < self._max_waiting:
            return
        # Invariant 3.
        longest = max(self._waiting, key=lambda other: len(self._waiting[other]), default=key)
        if len(self._waiting.get(longest, ())) <= len(self._waiting.get(key, ())) + 1:
            raise NoTurnError
        self._refuse(longest, self._waiting[longest][-1])

    def _refuse(self, key: Hashable, turn: "asyncio.Future[None]") -> None:
        if not turn.done():
            self._forget(key, turn)
            turn.set_exception(NoTurnError())

    def _forget(self, key: Hashable, turn: "asyncio.Future[None]") -> None:
        turns = self._waiting.get(key, ())
        if turn not in turns:
            return
        self._waiting[key].remove(turn)
        self._count -= 1
        if not turns:
            del self._waiting[key]

    def _release(self) -> None:
        while self._waiting:
            key, turns = next(iter(self._waiting.items()))
            turn = turns.popleft()
            self._count -= 1
            if turns:
                self._waiting.move_to_end(key)  # Invariant 2.
            else:
                del self._waiting[key]
            # A cancelled one stays here until its caller runs again.
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


def network_of(host: str) -> str:
    """Return an address without the part that its host chooses: in IPv6, the last 64 bits."""
    if ":" not in host:
        return host
    address = IPv6Address(host.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return address.packed[:_NETWORK_BYTES].hex()
