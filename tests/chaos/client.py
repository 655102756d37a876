"""Keep-alive connections over mutual TLS, and the failures of a request on them."""

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

HOST = "127.0.0.1"
MOST = 32
# Longer than any request takes alone: two hundred log-ins can precede a write.
_TIMEOUT_SECONDS = 180.0


class FailedError(Exception):
    """A request without a complete answer: ``refused``, ``reset`` or ``timeout``.

    ``port`` is the client's own port, 0 where there was no connection yet; ``sent`` when it had its
    turn, by the steady clock.
    """

    def __init__(self, kind: str, port: int, sent: float) -> None:
        super().__init__(kind)
        self.kind = kind
        self.port = port
        self.sent = sent


@dataclass(frozen=True, slots=True)
class Reply:
    """``sent`` is just before the first byte, ``came`` after the last, by the steady clock.

    ``connection`` is a number of its own for each connection; ``retry_after`` is the header.
    """

    status: int
    body: bytes
    sent: float = 0.0
    came: float = 0.0
    connection: int = 0
    retry_after: str = ""


@dataclass(slots=True)
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    port: int
    number: int = field(default_factory=count(1).__next__)

    @property
    def is_usable(self) -> bool:
        """Return whether the other side has kept it open."""
        return not (
            self.reader.at_eof() or self.reader.exception() or self.writer.transport.is_closing()
        )


class Client:
    """Connections of one identity to one server, opened as they are needed, up to MOST of them.

    As an API server has them: more would be a flood of handshakes after each stop of the server.
    """

    def __init__(
        self, port: int, context: ssl.SSLContext, seconds: float = _TIMEOUT_SECONDS
    ) -> None:
        self._port = port
        self._seconds = seconds
        self._context = context
        self._turns = asyncio.Semaphore(MOST)
        self._idle: list[Connection] = []
        self.ports: set[int] = set()
        """Our own ports of the connections that are there now, in use or not."""

    async def post(self, path: str, body: bytes, token: str = "") -> Reply:
        """Post JSON. Raises FailedError."""
        return await self._exchange("POST", path, body, token)

    async def get(self, path: str) -> Reply:
        """Raises FailedError."""
        return await self._exchange("GET", path, b"")

    def forget(self) -> None:
        """Close what is idle: the next requests go over new connections."""
        for connection in self._idle:
            self._drop(connection)
        self._idle.clear()

    async def _exchange(self, method: str, path: str, body: bytes, token: str = "") -> Reply:
        async with self._turns:
            return await self._exchange_now(method, path, body, token)

    async def _exchange_now(self, method: str, path: str, body: bytes, token: str) -> Reply:
        port, sent = 0, time.monotonic()
        try:
            async with asyncio.timeout(self._seconds):
                connection = self._take_idle() or await self._open()
                port = connection.port
                try:
                    reply, stays = await self._ask(connection, method, path, body, token)
                except BaseException:
                    self._drop(connection)
                    raise
            if stays:
                self._idle.append(connection)
            else:
                self._drop(connection)
            return reply
        except TimeoutError as error:
            raise FailedError("timeout", port, sent) from error
        except ConnectionRefusedError as error:
            raise FailedError("refused", port, sent) from error
        except (OSError, EOFError) as error:
            raise FailedError("reset", port, sent) from error

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            self._drop(connection)
        return None

    async def _open(self) -> Connection:
        reader, writer = await asyncio.open_connection(
            HOST, self._port, ssl=self._context, server_hostname=HOST
        )
        port: int = writer.get_extra_info("sockname")[1]
        self.ports.add(port)
        return Connection(reader, writer, port)

    def _drop(self, connection: Connection) -> None:
        self.ports.discard(connection.port)
        connection.writer.transport.abort()

    async def _ask(
        self, connection: Connection, method: str, path: str, body: bytes, token: str
    ) -> tuple[Reply, bool]:
        identity = f"Authorization: {token}\r\n" if token else ""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
            f"{identity}Content-Length: {len(body)}\r\n\r\n"
        )
        sent = time.monotonic()
        connection.writer.write(head.encode("ascii") + body)
        await connection.writer.drain()
        lines = (await connection.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        names = _fields(lines[1:])
        content = await connection.reader.readexactly(int(names["content-length"]))
        reply = Reply(
            int(lines[0].split()[1]),
            content,
            sent,
            time.monotonic(),
            connection.number,
            names.get("retry-after", ""),
        )
        return reply, names.get("connection") != "close"


def _fields(lines: list[str]) -> Mapping[str, str]:
    pairs = (line.partition(":") for line in lines if line)
    return {name.lower(): value.strip().lower() for name, _, value in pairs}
