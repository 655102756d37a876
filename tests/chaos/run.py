"""What a fault is given: the server, the load on it, and how hard to hit."""

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from .client import Client
from .contention import Spent, Stopwatch
from .load import Load
from .machine import Machine
from .room import Room
from .window import Failure, Window

_ROOT = Path(__file__).parents[2]
READY_SECONDS = 3.0
GONE_SECONDS = 30.0
NEW_SECONDS = 10.0


class SkippedError(Exception):
    """This machine cannot have the fault; the text says why."""


@dataclass
class Run:
    """One run of the driver."""

    machine: Machine
    room: Room
    load: Load
    rng: random.Random
    is_long: bool

    def times(self, short: int, long: int) -> int:
        return long if self.is_long else short

    async def wait_for(self, condition: Callable[[], Awaitable[bool]], limit: float) -> Spent:
        """Return what it took until something holds; far beyond its limit it is not waited for."""
        watch = Stopwatch()
        while not await condition() and watch.read().own < 2 * limit:
            await asyncio.sleep(0.02)
        return watch.read()

    def new_client(self, user: str = "kube-apiserver") -> Client:
        server = self.machine.server
        return Client(server.port, server.context(user))


Fault = Callable[[Run, Window], Awaitable[None]]


@dataclass
class Outage:
    """Spans of time in which a server is away, and the failures that this excuses."""

    kinds: frozenset[str] = frozenset(("refused", "reset"))
    spans: list[tuple[float, float]] = field(default_factory=list)
    _watch: Stopwatch = field(default_factory=Stopwatch)

    def begin(self) -> None:
        self._watch = Stopwatch()
        self.spans.append((time.monotonic(), inf))

    def end(self) -> Spent:
        """Return what it took."""
        spent = self._watch.read()
        self.spans[-1] = (self.spans[-1][0], time.monotonic())
        return spent

    def permits(self, failure: Failure) -> bool:
        """Return whether a request overlapped, and failed in an excused way."""
        overlaps = any(failure.begin <= end and failure.end >= begin for begin, end in self.spans)
        return failure.kind in self.kinds and overlaps


class Helper:
    """A child process that takes commands as lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def tell(self, line: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    async def hear(self, seconds: float = 180.0) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(seconds):
            line = await self._process.stdout.readline()
        assert line, "a helper has ended early"
        return line.decode().strip()


@asynccontextmanager
async def helper(module: str, *arguments: object) -> AsyncIterator[Helper]:
    """Run a module of this folder, and end it afterwards."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"tests.chaos.{module}",
        *map(str, arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_ROOT,
        start_new_session=True,
    )
    try:
        yield Helper(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
