"""A connection ends when its client certificate is no longer accepted."""

import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keys.files import replace_file
from keys.pki import make_ca
from tests.support import revocation_list, wait_until
from webhook.config.paths import read_pair

from .auth import PASSWORD, as_root
from .harness import HOST, RunningServer, raw_review, request_on, start_server

pytestmark = pytest.mark.fault(57)
# The requirement is seconds; a machine that is busy with other tests takes longer.
WITHIN_SECONDS = 10.0
BCRYPT_COST = "11"
BUSY = 4
LOADED = "New connections get the certificates that are there now"
WHO_AM_I = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
LOG_IN = "/v3/auth/authenticate"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    environment = {"LEEWAY_AUTH_BCRYPT_COST": BCRYPT_COST}
    running = start_server(tmp_path, algorithm="ES256", environment=environment)
    running.both_workers()
    yield running
    running.stop()


def revoke(server: RunningServer, *users: str) -> None:
    """Write a list of revoked certificates, and wait until both workers use it."""
    before = server.log().count(LOADED)
    revoked = [read_pair(server.data_dir / "tls", user).certificate for user in users]
    replace_file(server.data_dir / "tls" / "ca.crl", revocation_list(server.ca, revoked), 0o644)
    wait_until(lambda: server.log().count(LOADED) >= before + 2)


def who_am_i(*, body: bytes = b"{}", length: int = 2) -> bytes:
    head = f"POST {WHO_AM_I} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + body


def answer_on(connection: ssl.SSLSocket, request: bytes) -> bytes:
    connection.sendall(request)
    return connection.recv(65536)


def closed(connection: ssl.SSLSocket) -> bool:
    """Return whether the server closes a connection without another byte."""
    connection.settimeout(WITHIN_SECONDS)
    with suppress(ConnectionError):
        return not connection.recv(1)
    return True


def test_idle_connections(server: RunningServer) -> None:
    with (
        server.connect(server.context("root")) as root,
        server.connect(server.context("root")) as fresh,
        server.connect(server.context("kube-apiserver")) as other,
        server.connect(server.context("")) as nobody,
    ):
        assert answer_on(root, who_am_i()).startswith(b"HTTP/1.1 201 ")
        assert answer_on(other, raw_review("a")).startswith(b"HTTP/1.1 201 ")
        revoke(server, "root")
        assert closed(root)
        assert closed(fresh)
        assert answer_on(other, raw_review("a")).startswith(b"HTTP/1.1 201 ")
        assert answer_on(nobody, who_am_i()).startswith(b"HTTP/1.1 401 ")
    assert "no longer accepted: " in server.log()


def test_an_incomplete_request(server: RunningServer) -> None:
    with (
        server.connect(server.context("root")) as head,
        server.connect(server.context("root")) as body,
    ):
        head.sendall(who_am_i()[:40])
        body.sendall(who_am_i(body=b"{", length=2))
        revoke(server, "root")
        for connection, rest in ((head, who_am_i()[40:]), (body, b"}")):
            assert closed(connection)
            with suppress(OSError):
                assert not answer_on(connection, rest)


def log_in_until_closed(server: RunningServer, started: threading.Barrier) -> str:
    """Log in repeatedly on one connection; return how the server ended it."""
    body = json.dumps({"name": "alice", "password": PASSWORD}).encode()
    with server.client(server.context("root")) as client:
        client.connect()
        started.wait()
        while True:
            try:
                answer = request_on(client, "POST", LOG_IN, body)
            except (ConnectionError, http.client.RemoteDisconnected):
                return "between two answers"
            assert answer.status == 200
            assert answer.json["token"]
            if answer.headers.get("connection") == "close":
                return "with an answer"


def test_busy_connections_get_their_answer(server: RunningServer) -> None:
    as_root(server, ("user/add", {"name": "alice", "password": PASSWORD}))
    started = threading.Barrier(BUSY + 1)
    with ThreadPoolExecutor(BUSY) as pool:
        ends = [pool.submit(log_in_until_closed, server, started) for _ in range(BUSY)]
        started.wait()
        revoke(server, "root")
    # A log-in takes far longer than the client needs to send the next one.
    assert "with an answer" in [end.result() for end in ends]


def test_a_handshake_that_began_before(server: RunningServer) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = server.context("root").wrap_bio(incoming, outgoing, server_hostname=HOST)
    with server.plain_connection() as plain:
        with suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        plain.sendall(outgoing.read())
        incoming.write(plain.recv(65536))
        revoke(server, "root")
        with suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        plain.sendall(outgoing.read())
        plain.settimeout(WITHIN_SECONDS)
        with suppress(ConnectionError):
            while plain.recv(65536):
                pass


def test_another_ca(server: RunningServer) -> None:
    with server.connect(server.context("root")) as root:
        assert answer_on(root, who_am_i()).startswith(b"HTTP/1.1 201 ")
        other = make_ca("another CA", datetime.now(UTC)).certificate
        replace_file(server.data_dir / "tls" / "ca.crt", other, 0o644)
        assert closed(root)


def test_a_new_list_closes_no_other_connection(server: RunningServer) -> None:
    with server.client(server.context("root")) as client:
        for users in ((), ("kube-apiserver",), ("kube-apiserver",)):
            revoke(server, *users)
            # Longer than the time between two checks of a worker's connections.
            time.sleep(1.5)
            assert request_on(client, "POST", WHO_AM_I, b"{}").status == 201
        assert client.sock is not None
