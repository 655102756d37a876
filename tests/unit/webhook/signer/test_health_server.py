"""Metrics and health of the signer over plain HTTP."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support import wait_until
from webhook.errors import DataDirectoryError
from webhook.signer import health_server
from webhook.signer.health_server import HealthServer

HOST = "127.0.0.1"


class Parts:
    """A server, and the problem that it reports."""

    def __init__(self, bind: str) -> None:
        self.problem = ""
        self.server = HealthServer(bind, lambda: b"a 1\n", lambda: self.problem)

    def get(self, path: str, host: str = HOST, method: str = "GET") -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection(host, self.server.port, timeout=10)) as client:
            client.request(method, path)
            response = client.getresponse()
            assert "Python" not in str(response.headers)
            return response.status, response.read()


@pytest.fixture
def parts() -> Iterator[Parts]:
    found = Parts(f"{HOST}:0")
    found.server.start()
    yield found
    found.server.close()


def test_paths(parts: Parts) -> None:
    assert parts.get("/metrics") == (200, b"a 1\n")
    assert parts.get("/livez?verbose") == (200, b"ok")
    assert parts.get("/") == (404, b"/livez and /metrics are served\n")
    assert parts.get("/livez", method="POST")[0] == 501
    parts.problem = "the socket is gone"
    assert parts.get("/livez") == (503, b"the socket is gone")


def test_a_failure_is_logged(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    parts.problem = "\ud800"  # It cannot be encoded.
    with pytest.raises(http.client.HTTPException):
        parts.get("/livez")
    wait_until(lambda: "a request for metrics or health failed" in caplog.text)


def test_no_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``http.server`` does, which can take as long as the DNS does not answer."""
    names: list[str] = []
    monkeypatch.setattr(socket, "getfqdn", names.append)
    Parts(f"{HOST}:0").server.close()
    assert names == []


def test_ipv6() -> None:
    found = Parts("[::1]:0")
    found.server.start()
    try:
        assert found.get("/livez", "::1") == (200, b"ok")
    finally:
        found.server.close()


def test_an_address_in_use(parts: Parts) -> None:
    with pytest.raises(DataDirectoryError, match=r"cannot listen on .*; stop what listens there"):
        Parts(f"{HOST}:{parts.server.port}")


def test_a_client_that_sends_slowly_is_closed(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte is in time; the request as a whole is not."""
    monkeypatch.setattr(health_server, "_CLIENT_SECONDS", 0.5)
    with socket.create_connection((HOST, parts.server.port), 0.1) as slow:
        while True:
            try:
                slow.sendall(b"G")
                if slow.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return


def test_clients_that_send_nothing_are_limited(parts: Parts) -> None:
    idle = [socket.create_connection((HOST, parts.server.port)) for _ in range(40)]
    # The last of them are closed at once, the first after a while.
    assert idle[-1].recv(1) == b""
    for connection in idle:
        connection.close()
    while True:
        try:
            assert parts.get("/livez") == (200, b"ok")
        except (http.client.HTTPException, OSError):
            continue
        return
