"""Row 36: clients that stall do not hold up the others, and are let go."""

import contextlib
import json
import resource
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.stalled import closing_times
from tests.support import assert_within
from webhook.server.flask.late import THREADS

from .harness import HOST, REVIEWS, RunningServer, raw_review, request_on, review_of, trouble_in

HANDSHAKES = 600
HEADERS = 200
BODIES = 200
AT_LEAST = 8.5  # the server may have started its clock a little earlier
GIVE_UP = 30.0
CLOSED_WITHIN = 10.0
P99_WITHIN = 0.5
# What a machine with two cores adds to a timeout under this test.
TOLERANCE = 2.0
CLIENTS = 4


@pytest.fixture(scope="module")
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = HANDSHAKES + HEADERS + BODIES + 200
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"{needed} open files are needed, {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


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
                answer = request_on(
                    client, "POST", REVIEWS, body, {"Content-Type": "application/json"}
                )
                seconds.append(time.monotonic() - started)
                assert answer.status == 201
                assert answer.json["status"]["authenticated"] is True
                time.sleep(0.005)
    return seconds


def stalled_tls(server: RunningServer, context: ssl.SSLContext, sent: bytes) -> socket.socket:
    """Send a part of a request, and then ignore the connection on the level of TCP."""
    plain = socket.create_connection((HOST, server.port), timeout=10)
    secure = context.wrap_socket(plain, server_hostname=HOST)
    secure.sendall(sent)
    return socket.socket(fileno=secure.detach())


@dataclass(frozen=True)
class Stalled:
    """What became of the stalled clients, and of the others beside them, in seconds."""

    count: int
    closed_after: list[float]
    latencies: list[float]


def stall(server: RunningServer) -> Stalled:
    """Stall a thousand clients while others post reviews."""
    token = server.sign()
    context = server.context()
    whole = raw_review(token)
    head_end = whole.index(b"\r\n\r\n") + 4
    parts = [(HEADERS, whole[: head_end - 5]), (BODIES, whole[: head_end + 50])]
    stop = threading.Event()
    opened: dict[socket.socket, float] = {}
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(CLIENTS))
        stack.callback(stop.set)
        others = [pool.submit(review_until, server, token, context, stop) for _ in range(CLIENTS)]
        for number in range(HANDSHAKES):
            started = time.monotonic()
            sock = stack.enter_context(socket.create_connection((HOST, server.port), timeout=10))
            if number % 2:
                sock.sendall(b"\x16\x03\x01\x02\x00\x01")
            opened[sock] = started
        for count, sent in parts:
            for _ in range(count):
                started = time.monotonic()
                opened[stack.enter_context(stalled_tls(server, context, sent))] = started
        seconds = closing_times(opened, time.monotonic() + CLOSED_WITHIN + GIVE_UP)
        stop.set()
        latencies = sorted(second for other in others for second in other.result())
    return Stalled(len(opened), seconds, latencies)


HALF_OF_DISABLE = b"POST /v3/auth/disable HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
HALF_OF_A_LOG_IN = HALF_OF_DISABLE.replace(b"disable", b"authenticate")


def ask_beside_half_bodies(server: RunningServer) -> list[int]:
    """Hold more requests open that need Flask than it has threads; return what others get."""
    anybody = server.context("")
    with ExitStack() as stack:
        for _ in range(6 * THREADS):
            stack.enter_context(stalled_tls(server, anybody, HALF_OF_A_LOG_IN))
        with server.client(server.context("root")) as client:
            # Long before the stalled clients are disconnected.
            client.timeout = AT_LEAST / 2
            return [request_on(client, "GET", "/metrics").status for _ in range(10)]


def send_a_byte_now_and_then(server: RunningServer) -> tuple[bytes, float]:
    """Return the answer to a client that never ends its header, and the seconds until then."""
    with server.connect() as connection:
        connection.settimeout(0.5)
        started = time.monotonic()
        connection.sendall(f"POST {REVIEWS} HTTP/1.1\r\nHost: {HOST}\r\nX-Slow: ".encode())
        answer = b""
        while not answer and time.monotonic() < started + GIVE_UP:
            connection.sendall(b"a")
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(1024)
        return answer, time.monotonic() - started


def send_without_reading(server: RunningServer) -> tuple[int, float]:
    """Return how many bytes of requests the server takes from a client that takes no answer.

    And the seconds until the server resets the connection.
    """
    request = f"GET /openid/v1/jwks HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode() * 20
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.settimeout(10)
    plain.connect((HOST, server.port))
    secure = server.context("").wrap_socket(plain, server_hostname=HOST)
    secure.settimeout(0.5)
    started = time.monotonic()
    sent = 0
    with contextlib.suppress(TimeoutError):
        while time.monotonic() < started + GIVE_UP:
            secure.sendall(request)
            sent += len(request)
    with socket.socket(fileno=secure.detach()) as sock:
        while not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            assert time.monotonic() < started + GIVE_UP, "never reset"
            time.sleep(0.1)
    return sent, time.monotonic() - started


@dataclass(frozen=True)
class Slow:
    """Run everything that exceeds the time limits, side by side."""

    stalled: Stalled
    slow_header: tuple[bytes, float]
    not_reading: tuple[int, float]
    half_of_disable: bytes


@pytest.fixture(scope="module")
def slow(server: RunningServer, many_files: None) -> Slow:
    with ThreadPoolExecutor(4) as pool:
        disable = pool.submit(server.exchange, HALF_OF_DISABLE, server.context("root"))
        slow_header = pool.submit(send_a_byte_now_and_then, server)
        not_reading = pool.submit(send_without_reading, server)
        return Slow(stall(server), slow_header.result(), not_reading.result(), disable.result())


@pytest.mark.bad_input(36)
def test_stalled_clients_are_disconnected(slow: Slow) -> None:
    stalled = slow.stalled
    seconds = stalled.closed_after
    print(f"{stalled.count} stalled: closed after {min(seconds):.2f} to {max(seconds):.2f} s")
    assert len(seconds) == stalled.count == HANDSHAKES + HEADERS + BODIES
    assert_within(sorted(seconds)[len(seconds) // 2], CLOSED_WITHIN)
    assert_within(max(seconds), CLOSED_WITHIN + TOLERANCE)
    assert min(seconds) > AT_LEAST


@pytest.mark.bad_input(36)
def test_the_others_do_not_wait(slow: Slow) -> None:
    latencies = slow.stalled.latencies
    p50, p99 = (latencies[int(len(latencies) * part)] for part in (0.5, 0.99))
    print(
        f"{len(latencies)} reviews beside them: p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, "
        f"max {latencies[-1] * 1000:.1f} ms"
    )
    assert len(latencies) > 1000
    assert_within(p99, P99_WITHIN)


@pytest.mark.bad_input(36)
def test_slow_but_steady_header(slow: Slow) -> None:
    # A byte now and then does not make a new time limit.
    answer, seconds = slow.slow_header
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert seconds > AT_LEAST
    assert_within(seconds, CLOSED_WITHIN + TOLERANCE)


@pytest.mark.bad_input(36)
def test_client_that_does_not_read(slow: Slow) -> None:
    sent, seconds = slow.not_reading
    print(f"client that does not read: {sent} bytes taken, reset after {seconds:.1f} s")
    # Some megabytes are in the buffers of the kernel, on both sides.
    assert sent < 32 * 1024 * 1024
    assert AT_LEAST < seconds < GIVE_UP


@pytest.mark.bad_input(36)
def test_half_a_change_changes_nothing(server: RunningServer, slow: Slow) -> None:
    assert slow.half_of_disable == b""
    answer = server.request("POST", "/v3/auth/status", b"{}", context=server.context("root"))
    assert answer.json["enabled"] is True


@pytest.mark.bad_input(36)
def test_half_bodies_take_no_thread(server: RunningServer, slow: Slow) -> None:
    assert ask_beside_half_bodies(server) == [200] * 10


@pytest.mark.bad_input(36)
def test_nothing_is_logged(server: RunningServer, slow: Slow) -> None:
    assert slow.stalled.count
    assert trouble_in(server.log()) == []
