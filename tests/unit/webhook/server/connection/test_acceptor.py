"""Handshakes are bounded: the oldest makes room, and a lack of descriptors only delays."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.support import until
from webhook.server.connection.acceptor import Acceptor

pytestmark = pytest.mark.fault(48)
LIMIT = 3


class Door:
    """An acceptor whose handshakes end when they are told to."""

    def __init__(self) -> None:
        self.begun: list[socket.socket] = []
        self.finished: list[int] = []
        self.given_up: list[int] = []
        self.over: list[str] = []
        self._ends: list[asyncio.Future[None]] = []
        self.acceptor = Acceptor(self._connect, lambda: LIMIT, self.over.append)

    async def _connect(self, client: socket.socket) -> None:
        number = len(self.begun)
        self.begun.append(client)
        self._ends.append(asyncio.get_running_loop().create_future())
        try:
            await self._ends[number]
            self.finished.append(number)
        except asyncio.CancelledError:
            self.given_up.append(number)
            raise
        finally:
            client.close()

    def end(self, number: int, error: OSError | None = None) -> None:
        if error is None:
            self._ends[number].set_result(None)
        else:
            self._ends[number].set_exception(error)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


@contextlib.asynccontextmanager
async def listening(door: Door) -> AsyncIterator[Callable[[], Awaitable[socket.socket]]]:
    """Let clients connect to a door."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        listener.setblocking(False)
        door.acceptor.start([listener])

        async def connect() -> socket.socket:
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            before = len(door.begun)
            await loop.sock_connect(client, listener.getsockname())
            await until(lambda: len(door.begun) > before)
            return client

        yield connect
        await door.acceptor.stop()
        door.acceptor.close()
        await until(lambda: door.acceptor.handshakes == 0)


def test_the_oldest_handshake_makes_room() -> None:
    async def scenario() -> None:
        door = Door()
        async with listening(door) as connect:
            for _ in range(LIMIT):
                await connect()
            assert door.acceptor.handshakes == LIMIT
            door.end(1)
            await until(lambda: door.finished == [1])
            await connect()
            assert door.given_up == []
            await connect()
            await connect()
            await until(lambda: len(door.given_up) == 2)
            assert (door.given_up, door.over) == ([0, 2], ["connection"] * 2)
            assert door.acceptor.handshakes == LIMIT

    run(scenario)


@pytest.mark.parametrize("error", [ConnectionResetError(), OSError(1, "SSL alert")])
def test_a_handshake_that_fails_is_over(error: OSError) -> None:
    async def scenario() -> None:
        door = Door()
        async with listening(door) as connect:
            await connect()
            door.end(0, error)
            await until(lambda: door.acceptor.handshakes == 0)
            await connect()
            assert (door.acceptor.handshakes, door.over) == (1, [])

    run(scenario)


def test_without_descriptors_it_accepts_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        door = Door()
        loop = asyncio.get_running_loop()
        real, failures = loop.sock_accept, [OSError(errno.EMFILE, "Too many open files")]

        async def accept(listener: socket.socket) -> object:
            if failures:
                raise failures.pop()
            return await real(listener)

        monkeypatch.setattr(loop, "sock_accept", accept)
        async with listening(door) as connect:
            await connect()
            assert (door.acceptor.handshakes, door.over) == (1, ["file"])

    run(scenario)


def test_after_stop_handshakes_go_on_and_nobody_is_accepted() -> None:
    async def scenario() -> None:
        door = Door()
        async with listening(door) as connect:
            await connect()
            await door.acceptor.stop()
            assert door.acceptor.handshakes == 1
            door.end(0)
            await until(lambda: door.finished == [0])

    run(scenario)
