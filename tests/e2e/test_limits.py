"""Row 59: anonymous clients, however many, keep nobody waiting and do not fill the memory.

``TEST_ANONYMOUS`` sets how many there are; ``make chaos`` runs 10,000 of them.
"""

import http.client
import json
import os
import re
import resource
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from tests.support import JUDGES_TIMES, assert_within

from .auth import OVER_LIMIT, PASSWORD, as_root
from .crowd import JSON, crowd_of, review_until
from .harness import HOST, RunningServer, records_of, request_on, start_server

MANY = int(os.environ.get("TEST_ANONYMOUS", "800"))
WORKERS = 2
# The default is for the 10,000 of `make chaos`; fewer are over a smaller one.
LIMIT = min(1000, MANY // 5)
LOG_IN_WITHIN = 2.0
P99_WITHIN = 0.5
MAX_WORKER_BYTES = 384 * 1024 * 1024
OTHER_ADDRESS = "127.0.0.2"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MANY + 200:
        pytest.skip(f"{MANY + 200} open files are needed, {hard} are allowed")
    environment = {"LEEWAY_SERVER_MAX_ANONYMOUS_CONNECTIONS": str(LIMIT)}
    if not JUDGES_TIMES:
        environment["LEEWAY_AUTH_BCRYPT_COST"] = "8"
    running = start_server(tmp_path_factory.mktemp("limits"), environment=environment)
    try:
        as_root(running, ("user/add", {"name": "alice", "password": PASSWORD}))
        yield running
    finally:
        running.stop(OVER_LIMIT)


def log_in_from_elsewhere(server: RunningServer) -> float:
    """Log in from another address, and return the seconds that it took."""
    body = json.dumps({"name": "alice", "password": PASSWORD}).encode()
    started = time.monotonic()
    with closing(
        http.client.HTTPSConnection(
            HOST,
            server.port,
            context=server.context(""),
            timeout=30,
            source_address=(OTHER_ADDRESS, 0),
        )
    ) as connection:
        answer = request_on(connection, "POST", "/v3/auth/authenticate", body, JSON)
    assert answer.status == 200, answer
    return time.monotonic() - started


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def sockets(pid: int) -> int:
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += link.readlink().name.startswith("socket:")
        except FileNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Seen:
    """What became of a crowd, and of others beside it; times are in seconds."""

    ends: Counter[str]
    alone: float
    log_ins: list[float]
    reviews: list[float]
    resident: list[int]
    sockets: list[int]
    over_limit: dict[str, int]


def beside(server: RunningServer, kind: str, count: int) -> Seen:
    """Run other clients beside a crowd."""
    workers = server.both_workers()
    before, lines_before = over_limit(server), lines_of(server)
    started = time.monotonic()
    alone = log_in_from_elsewhere(server)
    stop = threading.Event()
    token, context = server.sign(), server.context()
    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(review_until, server, token, context, stop) for _ in range(2)]
        try:
            with crowd_of(server, kind, count) as ends:
                log_ins = [log_in_from_elsewhere(server) for _ in range(7)]
                assert server.request("GET", "/readyz", context=server.context("")).status == 200
                resident_now = [resident(pid) for pid in workers]
                sockets_now = [sockets(pid) for pid in workers]
        finally:
            stop.set()
        reviews = sorted(second for other in others for second in other.result())
    seen = {what: value - before[what] for what, value in over_limit(server).items()}
    lines = lines_of(server) - lines_before
    for what, value in seen.items():
        # One a second in each worker.
        assert (value > 0) <= lines[what] <= WORKERS * (time.monotonic() - started + 1), what
    p99 = reviews[len(reviews) * 99 // 100]
    print(
        f"{count} {kind}, {dict(ends)}: log-ins {min(log_ins):.2f} to {max(log_ins):.2f} s, p99 of "
        f"{len(reviews)} reviews {p99 * 1000:.0f} ms, {max(resident_now) >> 20} MiB, "
        f"{max(sockets_now)} sockets"
    )
    assert server.both_workers() == workers
    return Seen(ends, alone, log_ins, reviews, resident_now, sockets_now, seen)


def over_limit(server: RunningServer) -> dict[str, int]:
    """Return the metric by what exceeded its limit."""
    text = server.request("GET", "/metrics", context=server.context("root")).body.decode()
    found = re.findall(r'^leeway_over_limit_total{what="(.*)"} (.*)$', text, re.M)
    return {what: int(float(value)) for what, value in found}


def lines_of(server: RunningServer) -> Counter[object]:
    """Count the lines of the log by what exceeded its limit."""
    return Counter(record.get("what") for record in records_of(server.log()))


@pytest.mark.bad_input(59)
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        pytest.param("log-ins", 100, marks=pytest.mark.fault(47)),
        pytest.param("idle", MANY, marks=pytest.mark.fault(48)),
        pytest.param("silent", MANY, marks=pytest.mark.fault(48)),
        pytest.param("fields", MANY // 10, marks=pytest.mark.fault(48)),
    ],
    ids=str,
)
def test_nobody_waits_for_anonymous_clients(server: RunningServer, kind: str, count: int) -> None:
    seen = beside(server, kind, count)
    assert len(seen.reviews) > 100
    assert_within(seen.reviews[len(seen.reviews) * 99 // 100], P99_WITHIN)
    # On a busy machine a log-in takes long without any crowd.
    assert_within(median(seen.log_ins), max(LOG_IN_WITHIN, 8 * seen.alone))
    assert max(seen.resident) < MAX_WORKER_BYTES
    if kind == "log-ins":
        assert seen.ends["400"] > 0
        assert seen.ends.keys() <= {"400", "503"}
        assert seen.over_limit["login"] >= seen.ends["503"]
    if kind == "fields":
        assert seen.ends.keys() <= {"431", "closed"}
    if kind in ("idle", "silent"):
        # The test itself has a few.
        assert max(seen.sockets) < LIMIT + 50
        assert seen.ends["open"] <= WORKERS * LIMIT
        assert seen.over_limit["connection"] >= count - WORKERS * LIMIT


@pytest.mark.fault(48)
@pytest.mark.parametrize(
    ("user", "fields", "size", "status"),
    [
        ("", 32, 500, 200),
        ("", 33, 450, 431),
        ("", 3, 2048, 200),
        ("", 3, 2049, 431),
        ("", 20, 1000, 431),
        ("kube-apiserver", 100, 500, 200),
        ("kube-apiserver", 101, 500, 431),
        ("kube-apiserver", 3, 8190, 200),
        ("kube-apiserver", 3, 8191, 431),
    ],
)
def test_header_fields_are_fewer_and_shorter_without_a_certificate(
    server: RunningServer, user: str, fields: int, size: int, status: int
) -> None:
    # The size of a field is that of its line.
    lines = [f"X-{number:03}: {'v' * (size - 9)}\r\n" for number in range(fields - 2)]
    head = f"GET /livez HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{''.join(lines)}\r\n"
    answer = server.exchange(head.encode(), server.context(user))
    assert answer.split(b" ")[1] == str(status).encode()
