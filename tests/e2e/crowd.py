"""Many anonymous clients at once, in a process of their own, so that the test does not slow down.

``python -m tests.e2e.crowd KIND COUNT HOST PORT CA`` prints a line when all clients are
connected, and what
became of them, as JSON, when its standard input ends. The kinds are those of ``KINDS``.
"""

import asyncio
import json
import resource
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from .harness import HOST, REVIEWS, RunningServer, request_on, review_of

JSON = {"Content-Type": "application/json"}
_ROOT = Path(__file__).parents[2]
_AT_ONCE = 50
_FIELDS = "".join(f"X-{number}: {'v' * 8000}\r\n" for number in range(100))
_ENDLESS = f"GET /livez HTTP/1.1\r\nHost: {HOST}\r\n{_FIELDS}".encode()
_PROBE = f"GET /livez HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
_LOG_IN_BODY = b'{"name":"nobody","password":"wrong"}'
_LOG_IN = (
    f"POST /v3/auth/authenticate HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(_LOG_IN_BODY)}\r\n\r\n"
).encode() + _LOG_IN_BODY

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Crowd:
    """The clients of one process. ``ends`` counts what became of them."""

    host: str
    port: int
    context: ssl.SSLContext
    ends: Counter[str] = field(default_factory=Counter)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def connect(self, *, tls: bool = True) -> Streams:
        options = {"ssl": self.context, "server_hostname": self.host} if tls else {}
        return await asyncio.open_connection(self.host, self.port, **options)  # type: ignore[arg-type]

    async def idle(self, streams: Streams) -> None:
        """Send one request, and nothing more."""
        with suppress(OSError, EOFError):
            streams[1].write(_PROBE)
            await streams[0].readuntil(b"\r\n\r\nok")
        self.ends[await self._end_of(streams[0])] += 1

    async def silent(self, streams: Streams) -> None:
        """Send nothing, not even the beginning of a handshake."""
        self.ends[await self._end_of(streams[0])] += 1

    async def fields(self, streams: Streams) -> None:
        """Send 100 header fields of 8 KiB, and never the end of them."""
        with suppress(OSError):
            streams[1].write(_ENDLESS)
            await streams[1].drain()
        self.ends[await self._end_of(streams[0])] += 1

    async def log_ins(self, streams: Streams) -> None:
        """Send wrong passwords, one after the other."""
        reader, writer = streams
        while not self.over.is_set():
            writer.write(_LOG_IN)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            self.ends[head.split(b" ")[1].decode()] += 1

    async def _end_of(self, reader: asyncio.StreamReader) -> str:
        read = asyncio.create_task(reader.read())
        await asyncio.wait(
            [read, asyncio.create_task(self.over.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        if not read.done():
            read.cancel()
            return "open"
        with suppress(OSError):
            if answer := read.result():
                return answer.split(b" ")[1].decode()
        return "closed"


KINDS: dict[str, tuple[bool, Callable[[Crowd, Streams], Awaitable[None]]]] = {
    "idle": (True, Crowd.idle),
    "silent": (False, Crowd.silent),
    "fields": (True, Crowd.fields),
    "log-ins": (True, Crowd.log_ins),
}


async def run(kind: str, count: int, crowd: Crowd) -> None:
    tls, act = KINDS[kind]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients: list[asyncio.Task[None]] = []
    turns = asyncio.Semaphore(_AT_ONCE)

    async def come() -> None:
        async with turns:
            try:
                streams = await crowd.connect(tls=tls)
            except (OSError, EOFError):
                crowd.ends["refused"] += 1
                return
        clients.append(asyncio.create_task(act(crowd, streams)))  # type: ignore[arg-type]

    await asyncio.gather(*(come() for _ in range(count)))
    print("here", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    crowd.over.set()
    await asyncio.gather(*clients)
    print(json.dumps(crowd.ends), flush=True)


@contextmanager
def crowd_of(server: RunningServer, kind: str, count: int) -> Iterator[Counter[str]]:
    """Run clients of a kind; afterwards the counter has what became of them."""
    ca_file = str(server.data_dir / "tls" / "ca.crt")
    arguments = [kind, str(count), HOST, str(server.port), ca_file]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.crowd", *arguments],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"here\n"
            ends: Counter[str] = Counter()
            yield ends
            process.stdin.close()
            ends.update(json.loads(process.stdout.read()))
        finally:
            process.kill()


def review_until(
    server: RunningServer, token: str, context: ssl.SSLContext, stop: threading.Event
) -> list[float]:
    """Post reviews, every tenth on a new connection; return the seconds that each took."""
    body = json.dumps(review_of(token)).encode()
    seconds: list[float] = []
    while not stop.is_set():
        with server.client(context) as client:
            for _ in range(10):
                started = time.monotonic()
                answer = request_on(client, "POST", REVIEWS, body, JSON)
                seconds.append(time.monotonic() - started)
                assert answer.status == 201
                assert answer.json["status"]["authenticated"] is True
                time.sleep(0.005)
    return seconds


if __name__ == "__main__":
    own = Crowd(sys.argv[3], int(sys.argv[4]), ssl.create_default_context(cafile=sys.argv[5]))
    asyncio.run(run(sys.argv[1], int(sys.argv[2]), own))
