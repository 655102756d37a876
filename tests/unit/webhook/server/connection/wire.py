"""A connection without a network: a transport that keeps what is written, a worker, and echoes."""

import asyncio
import json
import re
import ssl
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from webhook.server.connection.anonymous import AnonymousConnections
from webhook.server.connection.client_trust import ClientTrust
from webhook.server.connection.connection import Application, Connection
from webhook.server.connection.read_head import Head
from webhook.server.request.message import Answer, Request, Response

MAX_BODY = 2000
CERTIFICATE = ssl.PEM_cert_to_DER_cert(
    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
)


class Wire(asyncio.Transport):
    """A transport, its TLS object and its socket."""

    def __init__(self, certificate: bytes | None = CERTIFICATE) -> None:
        super().__init__()
        self.certificate = certificate
        self.data = b""
        self.is_closed = self.is_aborted = self.is_paused = False
        self.trust = ClientTrust(b"", b"")

    @property
    def context(self) -> "Wire":
        return self

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name in ("ssl_object", "socket") else ("127.0.0.1", 1)

    def getpeercert(self, *, binary_form: bool) -> bytes | None:
        return self.certificate

    def version(self) -> str:
        return "TLSv1.3"

    def setsockopt(self, *arguments: int) -> None:
        pass

    def write(self, data: Any) -> None:
        assert not self.is_closed
        self.data += data

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True

    def pause_reading(self) -> None:
        assert not self.is_paused
        self.is_paused = True

    def resume_reading(self) -> None:
        assert self.is_paused
        self.is_paused = False


class Echo:
    """An application that answers with the request; its path says how."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.may_go_on = asyncio.Event()
        self.cancelled = 0

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        if request.path == "/empty":
            return Response(204, b"")
        if request.path == "/broken":
            return self._break()
        return self._later(request) if request.path == "/later" else echo(request)

    async def admit(self, request: Request) -> Response | None:
        assert request.body == b""
        request.max_length = MAX_BODY
        if request.length > MAX_BODY:
            return Response(413, b"{}")
        if request.path == "/forbidden":
            return Response(403, b"{}")
        if request.path == "/admit-later":
            await self._wait()
        return None

    async def _later(self, request: Request) -> Response:
        await self._wait()
        return echo(request)

    async def _wait(self) -> None:
        try:
            await self.may_go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _break(self) -> Response:
        raise ZeroDivisionError


def echo(request: Request) -> Response:
    parts = (request.method, request.path, request.query, request.headers, request.body)
    return Response(200, json.dumps(parts, default=lambda value: value.decode("latin-1")).encode())


class Worker:
    """What a connection needs of its worker."""

    def __init__(
        self,
        keep_alive_seconds: float = 75,
        max_anonymous: int = 10,
        application: Application | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = loop or asyncio.get_running_loop()
        self.application: Any = application or Echo()
        self.draining = False
        self.nr = 0
        self.keep_alive_seconds = keep_alive_seconds
        self.heads: dict[bytes, Head] = {}
        self.connections: set[Connection] = set()
        self.anonymous = AnonymousConnections(lambda: max_anonymous, lambda: None)

    def connect(self, certificate: bytes | None = CERTIFICATE) -> tuple[Connection, Wire]:
        connection, wire = Connection(self), Wire(certificate)
        connection.connection_made(wire)
        return connection, wire


async def settle() -> None:
    """Let what is scheduled happen."""
    for _ in range(10):
        await asyncio.sleep(0)


async def exchange(
    pieces: Sequence[bytes], certificate: bytes | None = CERTIFICATE
) -> tuple[bytes, bool]:
    """Send pieces to a connection of its own; return what it writes, and whether it closes."""
    worker = Worker()
    worker.application.may_go_on.set()
    connection, wire = worker.connect(certificate)
    for piece in pieces:
        connection.data_received(piece)
        while connection._pending is not None:
            await asyncio.sleep(0)
    found = wire.data, wire.is_closed
    connection.connection_lost(None)
    return found


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__()

    def time(self) -> float:
        return self.now


async def pass_time(seconds: float) -> None:
    """Let time pass, and what is due happen."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Clock)
    loop.now += seconds
    await settle()


def run(test: Callable[[Worker], Coroutine[Any, Any, None]], **options: float) -> None:
    """Run a test with a worker."""

    async def with_worker() -> None:
        await test(Worker(**options))  # type: ignore[arg-type]

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(with_worker())


def answers(data: bytes) -> list[tuple[int, bool, bytes]]:
    """Split what was written: the status of each response, whether it closes, and its body."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        size = int(length[1]) if length else 0
        found.append((int(head.split(b" ")[1]), b"\r\nConnection: close" in head, data[:size]))
        data = data[size:]
    return found


def request(*lines: bytes, body: bytes = b"", first: bytes = b"POST /a HTTP/1.1") -> bytes:
    """Return a request with a Host and, where it has a body, its length."""
    length = [b"Content-Length: %d" % len(body)] if body else []
    return b"\r\n".join([first, b"Host: a", *lines, *length, b"", body])


def chunked(*chunks: bytes, first: bytes = b"POST /a HTTP/1.1") -> bytes:
    """Return a request with a chunked body that ends."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return request(b"Transfer-Encoding: chunked", first=first) + body + b"0\r\n\r\n"
