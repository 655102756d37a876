"""A TLS handshake that fails is logged with its reason, and counted."""

import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keys.pki import make_ca, make_client_certificate, make_server_certificate
from tests.support import revocation_list, wait_until
from webhook.config.paths import read_pair
from webhook.errors import HandshakeFailure

from .harness import HOST, RunningServer, records_of, start_server

pytestmark = pytest.mark.fault(39, 57)
PLAIN = f"GET /livez HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
LINES_A_SECOND = 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    def revoke_kube_apiserver(data_dir: Path) -> None:
        ca, revoked = (read_pair(data_dir / "tls", name) for name in ("ca", "kube-apiserver"))
        (data_dir / "tls" / "ca.crl").write_bytes(revocation_list(ca, [revoked.certificate]))

    running = start_server(tmp_path_factory.mktemp("server"), revoke_kube_apiserver)
    yield running
    running.stop()


def with_certificate(make: Callable[[RunningServer, datetime], Any]) -> Callable[..., None]:
    def connect(server: RunningServer, folder: Path) -> None:
        handshake(server, server.context_of(make(server, datetime.now(UTC)), folder))

    return connect


def handshake(server: RunningServer, context: ssl.SSLContext) -> None:
    with suppress(OSError), server.connect(context) as connection:
        connection.sendall(PLAIN)
        assert not connection.recv(1)


def revoked(server: RunningServer, _folder: Path) -> None:
    handshake(server, server.context("kube-apiserver"))


def does_not_trust_the_server(server: RunningServer, folder: Path) -> None:
    other = folder / "ca.crt"
    other.write_bytes(make_ca("another CA", datetime.now(UTC)).certificate)
    handshake(server, ssl.create_default_context(cafile=other))


def old_cipher(server: RunningServer, _folder: Path) -> None:
    context = server.context("")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA:@SECLEVEL=0")
    handshake(server, context)


def plain_http(server: RunningServer, _folder: Path) -> None:
    with server.plain_connection() as connection:
        connection.sendall(PLAIN)
        with suppress(ConnectionError):
            assert not connection.recv(1)


def resumed(server: RunningServer, _folder: Path) -> None:
    context = server.context("root")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    # OpenSSL forgets the session of a connection that ended without a close_notify.
    with server.connect(context) as connection:
        # Two workers, and a session is known to the one that made it.
        for _ in range(20):
            with suppress(OSError), server.plain_connection() as plain:
                session = connection.session
                context.wrap_socket(plain, server_hostname=HOST, session=session).close()
                continue
            return


def leaves(server: RunningServer, _folder: Path) -> None:
    with server.plain_connection() as connection:
        connection.shutdown(socket.SHUT_WR)


FAILURES: dict[str, tuple[Callable[[RunningServer, Path], None], str]] = {
    "certificate-expired": (
        with_certificate(lambda s, now: s.client_certificate("a", now - timedelta(days=366))),
        "the client's certificate is not accepted: certificate has expired; renew it",
    ),
    "certificate-not-yet-valid": (
        with_certificate(lambda s, now: s.client_certificate("a", now + timedelta(hours=1))),
        "the client's certificate is not accepted: certificate is not yet valid",
    ),
    "certificate-revoked": (
        revoked,
        "the client's certificate is not accepted: certificate revoked",
    ),
    "certificate-untrusted": (
        with_certificate(
            lambda _, now: make_client_certificate(make_ca("other", now), "kube-apiserver", now)
        ),
        "the client's certificate is not accepted: unable to get local issuer certificate",
    ),
    "certificate-not-for-clients": (
        with_certificate(lambda s, now: make_server_certificate(s.ca, "a", [HOST], now)),
        "the client's certificate is not accepted: unsuitable certificate purpose",
    ),
    "refused-by-client": (
        does_not_trust_the_server,
        "the client called it off with the alert 'unknown ca'; give it this server's tls/ca.crt",
    ),
    "no-common-version": (old_cipher, "TLS failed: no shared cipher"),
    "not-tls": (plain_http, "TLS failed: http request; only https is served"),
    "session-resumed": (resumed, "the client resumed a session, which is not served"),
}


@pytest.mark.parametrize("reason", FAILURES)
def test_a_failed_handshake_is_logged_and_counted(
    server: RunningServer, tmp_path: Path, reason: str
) -> None:
    fail, words = FAILURES[reason]
    before = count(server, reason)
    fail(server, tmp_path)
    wait_until(lambda: [r for r in failures(server) if r["reason"] == reason])
    (record,) = [record for record in failures(server) if record["reason"] == reason]
    assert (record["level"], record["address"]) == ("info", HOST)
    assert record["message"].startswith(f"a TLS handshake failed: {words}")
    assert count(server, reason) == before + 1


def test_a_client_that_only_connects_is_counted_and_not_logged(
    server: RunningServer, tmp_path: Path
) -> None:
    before = count(server, "unfinished")
    leaves(server, tmp_path)
    wait_until(lambda: count(server, "unfinished") == before + 1)
    assert "unfinished" not in server.log()


def test_every_reason_has_a_series_at_the_start(server: RunningServer) -> None:
    for failure in HandshakeFailure:
        assert count(server, failure) >= 0


def test_a_flood_of_failed_handshakes_is_logged_within_bounds(server: RunningServer) -> None:
    handshakes = 200
    started = time.monotonic()
    before, logged = count(server, "not-tls"), len(failures(server))
    connections = [server.plain_connection() for _ in range(handshakes)]
    for connection in connections:
        with connection, suppress(ConnectionError):
            connection.sendall(PLAIN)
    wait_until(lambda: count(server, "not-tls") == before + handshakes)
    wait_until(lambda: '"of": "handshake"' in server.log())
    seconds = int(time.monotonic() - started) + 1
    workers = 2
    assert len(failures(server)) - logged <= LINES_A_SECOND * workers * (seconds + 1)


def failures(server: RunningServer) -> list[dict[str, Any]]:
    return [record for record in records_of(server.log()) if record.get("event") == "handshake"]


def count(server: RunningServer, reason: str) -> float:
    text = server.request("GET", "/metrics", context=server.context("root")).body.decode()
    start = f"leeway_tls_handshakes_failed_total{{reason={json.dumps(reason)}}} "
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return float(line.removeprefix(start))
