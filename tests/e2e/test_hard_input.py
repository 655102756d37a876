"""No bytes of a stranger hold the event loop of a worker up: bad input 57."""

import contextlib
import ssl
import time
from pathlib import Path
from statistics import median

import pytest

from tests.hard_input import BLOCKS, BODIES, FOUND

from .auth import connections_to_every_worker
from .harness import RunningServer, raw_review

SIZE = 64 * 1024
# 50 ms, where a plain request of 64 KiB takes an event loop 2.5 ms.
MAX_UNITS = 20
_ANSWER_SECONDS = 0.2
_POLL_SECONDS = 0.03
_GIVE_UP_SECONDS = 30.0


class EventLoops:
    """The CPU time that the event loops of all workers have used: each is its main thread."""

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


INPUTS = {
    "found": FOUND,
    **{name: make(SIZE - 200) for name, make in (BLOCKS | BODIES).items()},
}


@pytest.mark.fault(43)
@pytest.mark.parametrize("name", INPUTS)
def test_bad_input_57_no_input_holds_the_event_loop(
    server: RunningServer, nobody: ssl.SSLContext, loops: EventLoops, unit: float, name: str
) -> None:
    assert len(INPUTS[name]) <= SIZE
    units = min(loops.seconds_for(INPUTS[name], nobody) for _ in range(3)) / unit
    print(f"{units:.1f} times a plain request, which took {unit * 1000:.2f} ms")
    assert units <= MAX_UNITS
