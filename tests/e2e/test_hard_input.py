"""No anonymous input blocks the event loop of a worker: bad input 57."""

import contextlib
import ssl
import time
from pathlib import Path
from statistics import median

import pytest

from tests.hard_input import BLOCKS, BODIES, FOUND, JSON, PROTOBUF, TOKENS

from .auth import connections_to_every_worker
from .harness import HOST, REVIEWS, RunningServer, raw_review

SIZE = 64 * 1024
# 50 ms, where a plain request of 64 KiB takes an event loop 2.5 ms.
MAX_UNITS = 20
_ANSWER_SECONDS = 0.2
_POLL_SECONDS = 0.03
_GIVE_UP_SECONDS = 30.0


class EventLoops:
    """The CPU time that the event loops of all workers have used, each in its main thread."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self._files = [Path(f"/proc/{pid}/task/{pid}/schedstat") for pid in server.both_workers()]

    def seconds_for(self, data: bytes, context: ssl.SSLContext) -> float:
        """Return the CPU time that some bytes cost, sent on a connection of their own."""
        with self._server.connect(context) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            before = self._settled()
            with contextlib.suppress(OSError):
                connection.sendall(data)
                connection.recv(65536)
            return self._settled() - before

    def _settled(self) -> float:
        give_up = time.monotonic() + _GIVE_UP_SECONDS
        last, now = -1.0, self._used()
        while now != last and time.monotonic() < give_up:
            time.sleep(_POLL_SECONDS)
            last, now = now, self._used()
        return now

    def _used(self) -> float:
        return sum(int(file.read_text().split()[0]) for file in self._files) / 1e9


@pytest.fixture(scope="module")
def loops(server: RunningServer) -> EventLoops:
    with connections_to_every_worker(server):
        return EventLoops(server)


@pytest.fixture(scope="module")
def unit(server: RunningServer, loops: EventLoops) -> float:
    """Return the seconds that a plain request of 64 KiB costs an event loop."""
    plain, context = raw_review("a" * (SIZE - 500)), server.context()
    return median(loops.seconds_for(plain, context) for _ in range(9))


def post(body: bytes, content_type: str = "application/json") -> bytes:
    head = (
        f"POST {REVIEWS} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


REVIEWED = {
    **{f"JSON, {name}": post(make(SIZE - 500)) for name, make in JSON.items()},
    **{f"token, {name}": raw_review(make(SIZE - 500).decode()) for name, make in TOKENS.items()},
    **{
        f"protocol buffer, {name}": post(make(SIZE - 500), "application/vnd.kubernetes.protobuf")
        for name, make in PROTOBUF.items()
    },
}
INPUTS = {
    "found": FOUND,
    **{name: make(SIZE - 200) for name, make in (BLOCKS | BODIES).items()},
}


@pytest.mark.bad_input(57)
@pytest.mark.fault(43)
@pytest.mark.parametrize("name", INPUTS)
def test_no_input_blocks_the_event_loop(
    nobody: ssl.SSLContext, loops: EventLoops, unit: float, name: str
) -> None:
    hold(loops, INPUTS[name], nobody, unit)


@pytest.mark.bad_input(57)
@pytest.mark.fault(43)
@pytest.mark.parametrize("name", REVIEWED)
def test_no_review_blocks_the_event_loop(
    server: RunningServer, loops: EventLoops, unit: float, name: str
) -> None:
    hold(loops, REVIEWED[name], server.context(), unit)


def hold(loops: EventLoops, data: bytes, context: ssl.SSLContext, unit: float) -> None:
    """Assert that no event loop spends more CPU time on some bytes than is allowed."""
    assert len(data) <= SIZE
    for _ in range(3):
        units = loops.seconds_for(data, context) / unit
        print(f"{units:.1f} times a plain request, which took {unit * 1000:.2f} ms")
        if units <= MAX_UNITS:
            return
    pytest.fail(f"it takes {units:.1f} times as long as a plain request")
