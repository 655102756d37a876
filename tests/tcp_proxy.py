"""A TCP proxy on loopback that cuts, delays and half-opens what passes through it.

    with TCPProxy(cluster.ports) as proxy:   # proxy.ports: one for each target, in their order
        proxy.cut()
        proxy.heal()

``up`` is from the client to the target, ``down`` the other direction. A direction that is cut is
silent, as behind a firewall that drops packets: connections stay open, and what was sent meanwhile
arrives after ``heal``, as TCP would send it again.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

HOST = "127.0.0.1"
UP, DOWN = "up", "down"
_CHUNK = 1 << 16
_SECONDS = 10.0
_LOOK_SECONDS = 0.005
T = TypeVar("T")


class TCPProxy:
    """Listens on one port for each target port. Its methods can be called from any thread."""

    def __init__(self, targets: Sequence[int]) -> None:
        self._targets = list(targets)
        self._listeners = [socket.create_server((HOST, 0)) for _ in targets]
        self.ports: list[int] = [listener.getsockname()[1] for listener in self._listeners]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="tcp-proxy", daemon=True)
        self._servers: list[asyncio.Server] = []
        self._links: set[_Link] = set()
        self._open = {UP: asyncio.Event(), DOWN: asyncio.Event()}
        self._delay = 0.0
        self._refuses = False
        self._is_cut_link: Callable[[int, bytes], bool] = _never
        self.bytes = {UP: 0, DOWN: 0}
        """How many bytes have passed in each direction."""

    def __enter__(self) -> "TCPProxy":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        self._thread.start()
        self._call(self._listen)

    def close(self) -> None:
        """End every connection, and stop listening."""
        self._call(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._loop.close()

    def endpoints(self, scheme: str = "http") -> list[str]:
        return [f"{scheme}://{HOST}:{port}" for port in self.ports]

    def cut(self, *directions: str) -> None:
        """Let nothing pass in these directions, both where none is named; all stays open."""

        async def run() -> None:
            for direction in directions or (UP, DOWN):
                self._open[direction].clear()

        self._call(run)

    def heal(self) -> None:
        """Let everything pass at once; what was held back arrives now."""

        async def run() -> None:
            self._delay, self._refuses, self._is_cut_link = 0.0, False, _never
            for gate in self._open.values():
                gate.set()

        self._call(run)

    def cut_those(self, is_cut: Callable[[int, bytes], bool]) -> None:
        """Cut some connections, new ones too: by the place of the target, and what was sent first.

        ``is_cut`` is called with those, in the proxy's own thread.
        """

        async def run() -> None:
            self._is_cut_link = is_cut

        self._call(run)

    def delay(self, seconds: float) -> None:
        """Let what comes from now on arrive so much later, in each direction."""

        async def run() -> None:
            self._delay = seconds

        self._call(run)

    def reset(self) -> None:
        """Break every connection; new ones are accepted."""
        self._call(self._reset)

    def refuse(self) -> None:
        """Break every connection, and new ones as soon as they are accepted, until ``heal``."""

        async def run() -> None:
            self._refuses = True
            await self._reset()

        self._call(run)

    def retarget(self, targets: Sequence[int]) -> None:
        """Send new connections elsewhere, as a DNS name or an address that has moved."""

        async def run() -> None:
            self._targets[:] = targets

        self._call(run)

    @property
    def connections(self) -> int:
        """How many connections there are now."""
        return len(self._links)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run_coroutine_threadsafe(function(), self._loop).result(_SECONDS)

    async def _listen(self) -> None:
        for gate in self._open.values():
            gate.set()
        for number, listener in enumerate(self._listeners):
            self._servers.append(await asyncio.start_server(self._accepted(number), sock=listener))

    def _accepted(
        self, number: int
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self._refuses:
                writer.transport.abort()
                return
            try:
                target = await asyncio.open_connection(HOST, self._targets[number])
            except OSError:
                writer.transport.abort()
                return
            link = _Link((reader, writer), target, number)
            self._links.add(link)
            try:
                await link.run(self._gate, self._count, lambda: self._delay)
            finally:
                self._links.discard(link)

        return serve

    async def _gate(self, direction: str, link: "_Link") -> None:
        while not self._open[direction].is_set() or self._is_cut_link(link.number, link.first):
            await asyncio.sleep(_LOOK_SECONDS)

    def _count(self, direction: str, size: int) -> None:
        self.bytes[direction] += size

    async def _reset(self) -> None:
        links = list(self._links)
        for link in links:
            link.abort()
        await asyncio.gather(*(link.ended.wait() for link in links))

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        await self._reset()


_Side = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """A connection of a client and the one to its target."""

    def __init__(self, client: _Side, target: _Side, number: int) -> None:
        self._client = client
        self._target = target
        self.number = number
        self.first = b""
        """What the client has sent first."""
        self._tasks: list[asyncio.Task[None]] = []
        self.ended = asyncio.Event()

    async def run(
        self,
        gate: Callable[[str, "_Link"], Coroutine[Any, Any, None]],
        count: Callable[[str, int], None],
        delay: Callable[[], float],
    ) -> None:
        for direction, source, sink in (
            (UP, self._client[0], self._target[1]),
            (DOWN, self._target[0], self._client[1]),
        ):
            queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
            self._tasks += [
                asyncio.create_task(_take(source, queue, delay)),
                asyncio.create_task(self._pass(queue, sink, direction, gate, count)),
            ]
        try:
            # A side that ends or breaks ends both: nobody here needs a half-closed connection.
            await asyncio.wait([self._tasks[1], self._tasks[3]], return_when="FIRST_COMPLETED")
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for _, writer in (self._client, self._target):
                writer.transport.abort()
            self.ended.set()

    def abort(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _pass(
        self,
        queue: asyncio.Queue[tuple[float, bytes]],
        sink: asyncio.StreamWriter,
        direction: str,
        gate: Callable[[str, "_Link"], Coroutine[Any, Any, None]],
        count: Callable[[str, int], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if direction == UP and not self.first:
                self.first = data
            await gate(direction, self)
            if not data:
                return
            count(direction, len(data))
            try:
                sink.write(data)
                await sink.drain()
            except OSError:
                return


async def _take(
    source: asyncio.StreamReader,
    queue: asyncio.Queue[tuple[float, bytes]],
    delay: Callable[[], float],
) -> None:
    loop, data = asyncio.get_running_loop(), b" "
    while data:
        data = b""
        with suppress(OSError):
            data = await source.read(_CHUNK)
        await queue.put((loop.time() + delay(), data))


def _never(_number: int, _first: bytes) -> bool:
    return False
