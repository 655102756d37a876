"""What endpoints of etcd say over HTTP/1.1, and what is concluded from it."""

import socket
import threading
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import time

import pytest

from webhook.doctor import etcd_web
from webhook.doctor.etcd_members import WebFacts

QUOTA = 8 * 1024**3


class Endpoint(ThreadingHTTPServer):
    """An endpoint, whose answers a test changes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.members = ["8e9e05c52164694d"]
        self.metrics = f"etcd_server_quota_backend_bytes {QUOTA / 1e9}e+09\n"
        self.status = 200
        self.proxy_health = 404
        self.headers: dict[str, str] = {}
        self.ahead = 0.0
        self.asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_GET(self) -> None:
        endpoint, body, status = self.server, b"", self.server.proxy_health
        if self.path == "/metrics":
            member = endpoint.members[endpoint.asked % len(endpoint.members)]
            endpoint.asked += 1
            text = f'# HELP etcd_server_id x\netcd_server_id{{server_id="{member}"}} 1\n'
            body, status = (text + endpoint.metrics).encode(), endpoint.status
        self.send_response_only(status)
        self.send_header("Date", formatdate(time() + endpoint.ahead, usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        for name, value in endpoint.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(etcd_web, "_PAUSE_SECONDS", 0.01)
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def facts_of(endpoint: Endpoint) -> WebFacts:
    (found,) = etcd_web.ask([endpoint.url], None)
    return found


def test_a_member(endpoint: Endpoint) -> None:
    found = facts_of(endpoint)
    assert found.endpoint == endpoint.url
    assert found.member_ids == {"8e9e05c52164694d"}
    assert (found.proxy, found.quota) == ("", QUOTA)
    assert found.offset is not None
    assert abs(found.offset.ahead) <= found.offset.uncertainty + 0.1


def test_a_balancer_leads_to_one_member_after_the_other(endpoint: Endpoint) -> None:
    endpoint.members.append("91bc3c398fb3c146")
    assert facts_of(endpoint).member_ids == set(endpoint.members)


@pytest.mark.parametrize("name", ["Server", "Via"])
def test_a_proxy_of_http(endpoint: Endpoint, name: str) -> None:
    endpoint.headers[name] = "envoy"
    assert facts_of(endpoint).proxy == "a proxy, 'envoy'"


@pytest.mark.parametrize("status", [200, 503])
def test_the_proxy_of_etcd(endpoint: Endpoint, status: int) -> None:
    endpoint.proxy_health = status
    assert facts_of(endpoint).proxy == "etcd's grpc-proxy"


def test_a_clock_that_is_ahead(endpoint: Endpoint) -> None:
    endpoint.ahead = 90.0
    offset = facts_of(endpoint).offset
    assert offset is not None
    assert offset.ahead == pytest.approx(90, abs=1.5)


@pytest.mark.parametrize(
    "metrics", ["", "etcd_server_quota_backend_bytes\n", "etcd_server_quota_backend_bytes inf\n"]
)
def test_no_quota(endpoint: Endpoint, metrics: str) -> None:
    endpoint.metrics = metrics
    assert facts_of(endpoint).quota == 0


def test_metrics_that_are_refused(endpoint: Endpoint) -> None:
    endpoint.status = 403
    found = facts_of(endpoint)
    assert (found.member_ids, found.quota) == (frozenset(), 0)
    assert found.offset is not None


def test_an_endpoint_that_speaks_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]

        def answer() -> None:
            for _ in range(6):
                connection, _ = silent.accept()
                with connection:
                    connection.recv(1024)
                    connection.sendall(b"\0\0\x06\x04\0\0\0\0\0")  # SETTINGS of HTTP/2

        thread = threading.Thread(target=answer)
        thread.start()
        assert etcd_web.ask([f"http://127.0.0.1:{port}"], None) == []
        thread.join()
