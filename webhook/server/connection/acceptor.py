"""Accepts connections, and bounds the handshakes that are under way.

At most ``limit()`` are under way; one more takes the place of the oldest. A process without a free
file descriptor leaves clients in the kernel's queue until it has one.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Literal

_RETRY_SECONDS: Final = 0.1


class Acceptor:
    """Accepts for one event loop.

    ``connect`` does the handshake on an accepted socket, and owns it. ``over_limit`` is called for
    aborted handshakes (``connection``), and when file descriptors run out (``file``).
    """

    def __init__(
        self,
        connect: Callable[[socket.socket], Awaitable[object]],
        limit: Callable[[], int],
        over_limit: Callable[[Literal["connection", "file"]], None],
    ) -> None:
        self._connect = connect
        self._limit = limit
        self._over_limit = over_limit
        # In the order in which they began.
        self._handshakes: dict[asyncio.Task[None], None] = {}
        self._accepting: list[asyncio.Task[None]] = []

    @property
    def handshakes(self) -> int:
        """How many handshakes are under way."""
        return len(self._handshakes)

    def start(self, listeners: Iterable[socket.socket]) -> None:
        """Accept from listeners, which must not block, until ``stop``."""
        self._accepting = [asyncio.create_task(self._accept(listener)) for listener in listeners]

    async def stop(self) -> None:
        """Stop accepting; handshakes continue."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)

    def close(self) -> None:
        """Abort all handshakes."""
        for task in list(self._handshakes):
            task.cancel()

    def begin(self, client: socket.socket) -> None:
        """Begin the handshake with an accepted client."""
        while len(self._handshakes) >= self._limit():
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.cancel()
            self._over_limit("connection")
        task = asyncio.create_task(self._handshake(client))
        self._handshakes[task] = None
        task.add_done_callback(lambda task: self._handshakes.pop(task, None))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except ConnectionError:
                continue
            except OSError:
                self._over_limit("file")
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self.begin(client)

    async def _handshake(self, client: socket.socket) -> None:
        # A failure is the client's; ssl.SSLError is an OSError too.
        with contextlib.suppress(OSError):
            await self._connect(client)
