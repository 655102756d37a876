"""Row 53: SIGTERM under load drops no request."""

import os
import select
import signal
import socket
import ssl
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import assert_within

from .harness import HOST, RunningServer, raw_review, start_server, trouble_in

ROUNDS = int(os.environ.get("TEST_SIGTERM_ROUNDS", "3"))
KEPT_ALIVE = 16
ONE_REQUEST_EACH = 2
GONE_WITHIN = 30.0


class LostError(Exception):
    """A request sent on an established connection without a complete answer."""


@dataclass
class Load:
    """Clients that post reviews until the server no longer listens."""

    server: RunningServer
    request: bytes
    context: ssl.SSLContext
    terminated: threading.Event = field(default_factory=threading.Event)
    counts: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, keep_alive: bool) -> None:
        connection: ssl.SSLSocket | None = None
        try:
            while True:
                connection = connection or self.connect()
                if connection is None:
                    return
                if is_closed(connection):
                    # Between two requests, which is when a server may close.
                    self.count("closed while idle")
                    connection.close()
                    connection = None
                    continue
                closes = self.post(connection)
                if closes or not keep_alive:
                    connection.close()
                    connection = None
        except Exception as error:
            with self.lock:
                self.lost.append(repr(error))
        finally:
            if connection is not None:
                connection.close()

    def connect(self) -> ssl.SSLSocket | None:
        """Open a connection; None once the server has stopped listening."""
        was_terminated = self.terminated.is_set()
        # Wrapped before it connects: where a reset comes in between, ssl leaves its socket open.
        connection = self.context.wrap_socket(socket.socket(), server_hostname=HOST)
        connection.settimeout(10)
        try:
            connection.connect((HOST, self.server.port))
        except (ConnectionError, ssl.SSLEOFError) as error:
            # Where it is not refused the listener went away between two system calls of the
            # server's; nothing was sent.
            connection.close()
            if not was_terminated:
                raise
            refused = isinstance(error, ConnectionRefusedError)
            self.count("refused" if refused else "refused in the handshake")
            return None
        return connection

    def post(self, connection: ssl.SSLSocket) -> bool:
        """Post a review and read its answer; return whether the server closes after it."""
        was_terminated = self.terminated.is_set()
        try:
            connection.sendall(self.request)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += receive(connection)
            head, _, body = answer.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            while len(body) < length:
                body += receive(connection)
        except OSError as error:
            raise LostError(f"{error!r}, SIGTERM was {was_terminated}") from error
        if not head.startswith(b"HTTP/1.1 201 ") or b'"authenticated":true' not in body:
            raise LostError(answer[:200])
        self.count("answered after SIGTERM" if was_terminated else "answered before")
        return b"\r\nConnection: close" in head

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1


def receive(connection: ssl.SSLSocket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise LostError("closed instead of an answer")
    return data


def is_closed(connection: ssl.SSLSocket) -> bool:
    """Return whether the server closed; without session tickets nothing else can arrive."""
    return bool(select.select([connection], [], [], 0)[0])


@pytest.mark.bad_input(53)
@pytest.mark.parametrize("number", range(ROUNDS))
def test_sigterm_under_load(tmp_path: Path, number: int) -> None:
    server = start_server(tmp_path)
    try:
        load = Load(server, raw_review(server.sign()), server.context())
        threads = [
            threading.Thread(target=load.run, args=(index < KEPT_ALIVE,))
            for index in range(KEPT_ALIVE + ONE_REQUEST_EACH)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.7 + 0.1 * (number % 5))
        load.terminated.set()
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        status = server.process.wait(GONE_WITHIN)
        seconds = time.monotonic() - started
        for thread in threads:
            thread.join(10)
    finally:
        server.process.kill()
        server.process.wait()
    print(f"gone after {seconds:.2f} s; {dict(load.counts)}")
    assert load.lost == []
    assert status == 0
    assert load.counts["answered before"] > KEPT_ALIVE
    assert load.counts["answered after SIGTERM"] > KEPT_ALIVE
    assert load.counts["closed while idle"] == 0
    assert_within(seconds, GONE_WITHIN)
    assert trouble_in(server.log()) == []


def test_sigterm_disconnects_idle_and_broken_clients(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    try:
        context = server.context()
        request = raw_review(server.sign())
        with (
            server.connect(context) as idle,
            server.connect(context) as unused,
            server.connect(context) as busy,
            socket.create_connection((HOST, server.port)) as broken,
        ):
            broken.sendall(b"this is not TLS\r\n\r\n")
            idle.sendall(request)
            assert idle.recv(65536).startswith(b"HTTP/1.1 201 ")
            busy.sendall(request[:-10])
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            time.sleep(1.5)
            # The rest of a request is waited for, and its answer says that there is no other.
            busy.sendall(request[-10:])
            answer = busy.recv(65536)
            assert answer.startswith(b"HTTP/1.1 201 ")
            assert b"\r\nConnection: close\r\n" in answer
            assert busy.recv(1) == b""
            assert idle.recv(1) == b""
            assert unused.recv(1) == b""
            assert server.process.wait(GONE_WITHIN) == 0
        seconds = time.monotonic() - started
    finally:
        server.process.kill()
        server.process.wait()
    print(f"gone after {seconds:.2f} s")
    assert_within(seconds, 6)
    assert trouble_in(server.log()) == []


def test_sigint_stops_at_once(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    # One worker answers; the other may still be starting.
    time.sleep(1)
    with server.connect() as connection:
        connection.sendall(raw_review(server.sign())[:-1])
        started = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(GONE_WITHIN) == 0
        assert_within(time.monotonic() - started, 5)
    assert trouble_in(server.log()) == []


def test_a_worker_that_leaves_is_replaced(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    try:
        before = set(server.workers())
        leaving = min(before)
        deadline = time.monotonic() + GONE_WITHIN
        while leaving in set(server.workers()):
            # Repeatedly: a process that is still starting has no handler for it yet.
            os.kill(leaving, signal.SIGTERM)
            assert time.monotonic() < deadline
            time.sleep(0.5)
        while len(set(server.workers())) < len(before):
            assert time.monotonic() < deadline
            assert server.process.poll() is None, server.log()
            time.sleep(0.05)
        time.sleep(1)
        assert server.process.poll() is None, server.log()
        assert server.post_review(server.sign()).status == 201
        assert server.request("GET", "/metrics").status == 200
        server.stop()
    finally:
        server.process.kill()
        server.process.wait()
