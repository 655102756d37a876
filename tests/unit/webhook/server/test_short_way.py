"""A request that is answered where it is read gets the answer that the long way gives it.

The same bytes go through two connections, one of which has no short way; what is written has to be
the same, but for the clock's header and the request's id.
"""

import asyncio
import gc
import json
import re
import socket
import ssl
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webhook.server.request.request_log import RequestLog

from webhook.assembly import keyring_of, policy_of
from webhook.config.load import load_configuration
from webhook.config.paths import TLS_FOLDER
from webhook.errors import TokenRefusedError
from webhook.server.connection.anonymous import AnonymousConnections
from webhook.server.connection.handshake import ServerContext
from webhook.server.connection.protocol import LeewayProtocol
from webhook.server.connection.whole_request import MAX_HEAD, Head
from webhook.server.reload.live_application import LiveApplication, create_app
from webhook.setup.init import API_SERVER_USER, InitOptions, initialise
from webhook.token.issuer import TokenSpec, issue_token

PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS_PATH = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
HEAD = (
    "POST {path}?timeout=30s HTTP/1.1",
    "Host: 127.0.0.1:8443",
    "User-Agent: kube-apiserver/v1.36.0 (linux/amd64)",
    "Content-Length: {length}",
    "Accept: application/json, */*",
    "Content-Type: application/json",
    "Accept-Encoding: gzip",
)


class Written:
    """A transport that keeps what is written to it."""

    def __init__(self, certificate: bytes | None) -> None:
        self.certificate = certificate
        self.data = b""
        self.is_closed = False
        self.context = ServerContext(ssl.PROTOCOL_TLS_SERVER)

    def get_extra_info(self, name: str) -> Any:
        return self if name in ("ssl_object", "socket") else ("127.0.0.1", 1)

    def setsockopt(self, level: int, name: int, value: int) -> None:
        assert (level, name) == (socket.SOL_SOCKET, socket.SO_RCVBUF)

    def getpeercert(self, *, binary_form: bool) -> bytes | None:
        assert binary_form
        return self.certificate

    def version(self) -> str:
        return "TLSv1.3"

    def selected_alpn_protocol(self) -> str:
        return "http/1.1"

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.data += data

    def writelines(self, parts: Sequence[bytes]) -> None:
        self.write(b"".join(parts))

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


class Worker:
    """What a connection needs of its worker."""

    def __init__(self, app: LiveApplication, **settings: object) -> None:
        self.cfg = Config()
        for name, value in {"keepalive": 75, "http_parser": "python", **settings}.items():
            self.cfg.set(name, value)
        self.log = Logger(self.cfg)
        self.loop = asyncio.get_running_loop()
        self.asgi = app
        self.alive = True
        self.draining = False
        self.nr = self.nr_conns = 0
        self.max_requests = self.cfg.max_requests or sys.maxsize
        self.protocols: set[LeewayProtocol] = set()
        self.anonymous = AnonymousConnections(lambda: 1000, lambda: None)


class Served:
    """A data directory, its application, and requests for it."""

    def __init__(self, folder: Path) -> None:
        initialise(folder, InitOptions(algorithm="ES256"), time.time())
        self.configuration = load_configuration(folder, {}, {})
        self.app = create_app(folder, lambda: load_configuration(folder, {}, {}))
        pem = (folder / TLS_FOLDER / f"{API_SERVER_USER}.crt").read_text()
        self.certificate = ssl.PEM_cert_to_DER_cert(pem)
        request = TokenSpec(namespace="demo", name="default", uid="1")
        policy, keyring = policy_of(self.configuration), keyring_of(folder)
        self.token = issue_token(request, policy, keyring, time.time()).token

    def review(self, token: str = "", **members: object) -> bytes:
        """Return the body of a TokenReview as kube-apiserver writes it."""
        return json.dumps(
            {
                "kind": "TokenReview",
                "apiVersion": "authentication.k8s.io/v1",
                "metadata": {"creationTimestamp": None},
                "spec": {"token": token or self.token},
                "status": {"user": {}},
            }
            | members,
            separators=(",", ":"),
        ).encode()

    async def answers(
        self, pieces: Sequence[bytes], *, short: bool, certified: bool = True
    ) -> tuple[bytes, bool, int]:
        """Send pieces; return what was written, whether it ends there, and the long requests."""
        transport = Written(self.certificate if certified else None)
        protocol = LeewayProtocol(Worker(self.app))
        assert protocol._has_short_way
        protocol._has_short_way = short
        protocol.connection_made(transport)  # type: ignore[arg-type]
        for piece in pieces:
            await self.until_quiet(protocol)
            if not transport.is_closed:
                protocol.data_received(piece)
        await self.until_quiet(protocol)
        long = protocol.req_count - protocol._awaiting_request
        protocol.connection_lost(None)
        return comparable(transport.data), transport.is_closed, long

    async def until_quiet(self, protocol: LeewayProtocol) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        while not (protocol._closed or protocol._in_request or protocol.is_idle):
            await asyncio.sleep(0.001)


def comparable(answer: bytes) -> bytes:
    """Take out what differs from one answer to the next."""
    answer = re.sub(rb"\r\nDate: [^\r]*", b"", answer)
    return re.sub(rb"(?i)\r\nx-request-id: [^\r]*", b"", answer)


def request_of(body: bytes, *more: str, path: str = PATH, **changes: str) -> bytes:
    """Render a request; a change replaces a line by its first word, an empty one takes it out."""
    lines = []
    for line in HEAD:
        name = re.split("[ :]", line)[0].lower().replace("-", "_")
        lines += [changes.get(name, line)] if changes.get(name, line) else []
    text = "\r\n".join([*lines, *more]) + "\r\n\r\n"
    return text.format(path=path, length=len(body)).encode("latin-1") + body


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("short-way") / "data")
    yield served
    served.app.store.close()


def both_ways(
    served: Served, pieces: Sequence[bytes], *, certified: bool = True
) -> tuple[bytes, int]:
    """Return what is written either way, and how many requests needed the long one."""
    short = asyncio.run(served.answers(pieces, short=True, certified=certified))
    long = asyncio.run(served.answers(pieces, short=False, certified=certified))
    assert short[:2] == long[:2]
    assert short[2] <= long[2]
    return short[0], short[2]


GOOD = b'"authenticated":true'


def test_what_an_api_server_sends_takes_the_short_way(served: Served) -> None:
    answer, long = both_ways(served, [request_of(served.review())] * 3)
    assert answer.count(b"HTTP/1.1 201 Created\r\n") == answer.count(GOOD) == 3
    assert long == 0


@pytest.mark.parametrize("query", ["", "?timeout=2.5s", "?timeout=1m30s"])
def test_the_time_limit_of_a_client_may_be_any(served: Served, query: str) -> None:
    line = f"POST {{path}}{query} HTTP/1.1"
    request = request_of(served.review(), "Traceparent: 00-1-2-01", post=line)
    answer, long = both_ways(served, [request])
    assert answer.count(GOOD) == 1
    assert long == 0


def test_a_refusal_takes_the_short_way(served: Served) -> None:
    ending = "QA" if served.token.endswith("AA") else "AA"
    body = served.review(served.token[:-2] + ending)
    answer, long = both_ways(served, [request_of(body, "Audit-Id: 7")])
    assert b'"authenticated":false' in answer
    assert long == 0


@pytest.mark.parametrize("short", [True, False])
def test_refusals_leave_nothing_in_memory(served: Served, short: bool) -> None:
    def errors() -> int:
        gc.collect()
        return sum(isinstance(one, TokenRefusedError) for one in gc.get_objects())

    before = errors()
    bodies = [served.review(f"{served.token[:-20]}{number:020}") for number in range(50)]
    requests = [request_of(body) for body in bodies]
    answer, _, _ = asyncio.run(served.answers(requests, short=short))
    assert answer.count(b'"authenticated":false') == 50
    assert errors() == before


@pytest.mark.parametrize("short", [True, False])
def test_a_connection_that_ended_leaves_nothing_in_memory(served: Served, short: bool) -> None:
    async def ended() -> tuple[weakref.ref[LeewayProtocol], weakref.ref[Written]]:
        transport = Written(served.certificate)
        protocol = LeewayProtocol(Worker(served.app))
        protocol._has_short_way = short
        protocol.connection_made(transport)  # type: ignore[arg-type]
        await served.until_quiet(protocol)
        protocol.data_received(request_of(served.review()))
        await served.until_quiet(protocol)
        assert GOOD in transport.data
        assert protocol._task is not None
        protocol.connection_lost(None)
        # gunicorn cancels it after three seconds.
        protocol._task.cancel()
        return weakref.ref(protocol), weakref.ref(transport)

    async def run() -> weakref.ref[LeewayProtocol]:
        connection, transport = await ended()
        await asyncio.sleep(0.01)
        assert transport() is None
        return connection

    gc.disable()
    try:
        # Until the loop ends a timer of gunicorn's has it.
        assert asyncio.run(run())() is None
    finally:
        gc.enable()


def test_an_access_review_takes_the_short_way(served: Served) -> None:
    attributes = {"path": "/metrics", "verb": "get"}
    body = json.dumps({"spec": {"user": "somebody", "nonResourceAttributes": attributes}}).encode()
    answer, long = both_ways(served, [request_of(body, path=ACCESS_PATH)])
    assert b'"allowed":false' in answer
    assert long == 0


@pytest.mark.fault(21)
@pytest.mark.parametrize(
    ("path", "step", "counter"),
    [
        (PATH, "reviewed", "leeway_tokenreviews_total"),
        (ACCESS_PATH, "decided", "leeway_permission_checks_total"),
    ],
)
def test_what_fails_the_short_way_is_counted_once_and_logged(
    served: Served,
    path: str,
    step: str,
    counter: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def counted(name: str) -> float:
        served.app._lasting.metrics.flush()
        return sum(
            sample.value
            for family in served.app._lasting.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name
        )

    def fail_once(*arguments: object, **keywords: object) -> None:
        monkeypatch.undo()
        raise ZeroDivisionError

    attributes = {"path": "/metrics", "verb": "get"}
    access = json.dumps({"spec": {"user": "somebody", "nonResourceAttributes": attributes}})
    body = served.review() if path == PATH else access.encode()
    before = counted(counter), counted("leeway_fallbacks_total")
    monkeypatch.setattr(RequestLog, step, fail_once)
    answer, _, long = asyncio.run(served.answers([request_of(body, path=path)], short=True))
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert long == 1
    assert (counted(counter), counted("leeway_fallbacks_total")) == (before[0] + 1, before[1] + 1)
    assert caplog.text.count("is tried another way") == 1


@pytest.mark.bad_input(29)
@pytest.mark.fault(1)
@pytest.mark.parametrize("path", ["v1", "v1beta1"])
def test_both_ways_know_both_versions(served: Served, path: str) -> None:
    """As a kube-apiserver without version flags sends them to the URLs of the kubeconfigs."""
    attributes = {"path": "/metrics", "verb": "get"}
    access = {
        "kind": "SubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1beta1",
        "metadata": {"creationTimestamp": None},
        "spec": {"nonResourceAttributes": attributes, "user": "system:anonymous", "group": ["a"]},
        "status": {"allowed": False},
    }
    for body, group, expected in (
        (served.review(apiVersion="authentication.k8s.io/v1beta1"), "authentication", GOOD),
        (json.dumps(access).encode(), "authorization", b'"allowed":false'),
    ):
        plural = "tokenreviews" if group == "authentication" else "subjectaccessreviews"
        url = f"/apis/{group}.k8s.io/{path}/{plural}"
        answer, long = both_ways(served, [request_of(body, path=url)])
        assert expected in answer
        assert f'"apiVersion":"{group}.k8s.io/v1beta1"'.encode() in answer
        assert long == 0


HEADS = [
    pytest.param(("Authorization: Bearer x",), {}, b"201", id="authorization"),
    pytest.param(("Impersonate-User: root",), {}, b"403", id="impersonate"),
    pytest.param(("Connection: close",), {}, b"201", id="close"),
    pytest.param(("Connection: keep-alive",), {}, b"201", id="keep-alive"),
    pytest.param(("Expect: 100-continue",), {}, b"201", id="expect"),
    pytest.param(("Upgrade: h2c",), {}, b"201", id="upgrade"),
    pytest.param(("Transfer-Encoding: chunked",), {}, b"400", id="length-and-chunked"),
    pytest.param(("Host: other",), {}, b"400", id="two-hosts"),
    pytest.param(("Content-Length: {length}",), {}, b"400", id="two-lengths"),
    pytest.param(("Content-Type: application/json",), {}, b"400", id="two-types"),
    pytest.param(("Accept: */*",), {}, b"201", id="two-accepts"),
    pytest.param(("Content-Encoding: gzip",), {}, b"415", id="encoded"),
    pytest.param(("X-Forwarded-Proto: http",), {}, b"201", id="forwarded"),
    pytest.param(("A_b: c",), {}, b"201", id="underscore"),
    pytest.param((" folded",), {}, b"400", id="obs-fold"),
    pytest.param(("A : b",), {}, b"400", id="space-before-colon"),
    pytest.param((), {"host": ""}, b"400", id="no-host"),
    pytest.param((), {"content_length": ""}, b"400", id="no-length"),
    pytest.param((), {"content_length": "Content-Length: +{length}"}, b"400", id="signed"),
    pytest.param((), {"content_length": "Content-Length: 0{length}"}, b"201", id="zero-first"),
    pytest.param((), {"content_length": "Content-Length: " + "9" * 30}, b"413", id="huge"),
    pytest.param((), {"content_type": ""}, b"201", id="no-type"),
    pytest.param((), {"content_type": "Content-Type: text/plain"}, b"415", id="text"),
    pytest.param((), {"post": "POST {path}?x HTTP/1.1"}, b"201", id="query"),
    pytest.param((), {"post": "POST {path}?timeout=%ff HTTP/1.1"}, b"201", id="odd-limit"),
    pytest.param((), {"post": "POST {path}/ HTTP/1.1"}, b"404", id="slash"),
    pytest.param((), {"post": "POST /{path} HTTP/1.1"}, b"404", id="two-slashes"),
    pytest.param((), {"post": "GET {path} HTTP/1.1"}, b"405", id="get"),
    pytest.param((), {"post": "post {path} HTTP/1.1"}, b"400", id="lower-case"),
    pytest.param((), {"post": "POST {path} HTTP/1.0"}, b"201", id="old"),
    pytest.param((), {"post": "POST  {path} HTTP/1.1"}, b"400", id="two-spaces"),
    pytest.param((), {"post": "POST /%61pis HTTP/1.1"}, b"405", id="percent"),
]


@pytest.mark.parametrize(("more", "changes", "code"), HEADS)
def test_heads(served: Served, more: tuple[str, ...], changes: dict[str, str], code: bytes) -> None:
    request = request_of(served.review(), *more, **changes)
    answer, _ = both_ways(served, [request])
    assert answer.split(b" ", 2)[1] == code
    # The next request of a client that goes on is not read as a part of this one.
    both_ways(served, [request, request_of(served.review())])


@pytest.mark.fault(48)
@pytest.mark.parametrize("certified", [True, False])
@pytest.mark.parametrize(
    ("length", "is_remembered"), [(MAX_HEAD, True), (MAX_HEAD + 1, False), (200_000, False)]
)
def test_only_a_short_head_is_remembered(
    served: Served, certified: bool, length: int, is_remembered: bool
) -> None:
    async def remembered(requests: Sequence[bytes]) -> dict[bytes, Head | None]:
        protocol = LeewayProtocol(Worker(served.app))
        transport = Written(served.certificate if certified else None)
        protocol.connection_made(transport)  # type: ignore[arg-type]
        for request in requests:
            await served.until_quiet(protocol)
            protocol.data_received(request)
        await served.until_quiet(protocol)
        heads = dict(protocol._heads)
        protocol.connection_lost(None)
        return heads

    body = served.review()
    fields = [f"User-Agent: {'x' * 8000}"] * (length // 8192)
    room = length - len(request_of(body, *fields, "X-Request-Id: ")) + len(body)
    request = request_of(body, *fields, f"X-Request-Id: {'x' * room}")
    head = request[: -len(body)]
    assert len(head) == length
    both_ways(served, [request, request], certified=certified)
    # Anybody may connect, and memory is for those who have shown a certificate.
    expected = [head] if is_remembered and certified else []
    assert list(asyncio.run(remembered([request]))) == expected


@pytest.mark.parametrize("certified", [True, False])
def test_bodies(served: Served, certified: bool) -> None:
    good = served.review()
    bodies = [
        b"",
        b"{",
        b"[]",
        good + b"\n",
        good[:-1] + b',"kind":"TokenReview"}',
        good.replace(b'"kind"', b'"Kind"'),
        good.replace(b"TokenReview", b"Other"),
        good.replace(b"/v1", b"/v1beta1"),
        good.replace(b'"token"', b'"Token"'),
        json.dumps(json.loads(good), indent=1).encode(),
        served.review("not a token"),
        served.review(spec={}),
        served.review(spec={"token": 7}),
        served.review(spec={"token": served.token, "audiences": ["a", "b"]}),
        served.review(spec={"token": served.token, "audiences": []}),
        served.review(spec={"token": f" {served.token}\t"}),
        served.review(status={"authenticated": True}),
        served.review(metadata={}),
        served.review(metadata={"name": "x"}),
        served.review("x" * 40_000),
    ]
    for body in bodies:
        answer, long = both_ways(served, [request_of(body)], certified=certified)
        assert answer.startswith(b"HTTP/1.1 ")
        assert long or certified
    answer, _ = both_ways(served, [request_of(b) for b in bodies], certified=certified)
    assert answer.count(b"HTTP/1.1 ") == len(bodies)


def test_pieces(served: Served) -> None:
    request = request_of(served.review())
    for pieces in (
        [request + request],
        [request + request[:50], request[50:]],
        [request[:50], request[50:] + request, request],
        [request[:-1], request[-1:]],
        [b"\r\n", request],
        [b"\r\n" + request, request],
        [request, b"\r\n" + request],
    ):
        answer, _ = both_ways(served, pieces)
        assert answer.count(GOOD) == b"".join(pieces).count(b"POST")


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_change_of_a_few_bytes(served: Served, data: st.DataObject) -> None:
    request = request_of(served.review("a.b.c"))
    for _ in range(data.draw(st.integers(1, 3))):
        # Not in the path: a route that answers before it has the body races with the next piece.
        place = data.draw(st.integers(0, 4) | st.integers(len(f"POST {PATH} "), len(request)))
        taken = data.draw(st.integers(0, 3 if place > 4 else 1))
        new = data.draw(
            st.sampled_from([b"", b"\r", b"\n", b"\r\n", b":", b" ", b"\t", b"0", b"A"])
        )
        new = new or data.draw(st.binary(max_size=2))
        request = request[:place] + new + request[place + taken :]
    both_ways(served, [request, request_of(served.review())])


def test_what_has_no_short_way(served: Served) -> None:
    async def has_short_way(configured: dict[str, Any]) -> bool:
        return LeewayProtocol(Worker(served.app, **configured))._has_short_way

    assert asyncio.run(has_short_way({}))
    for configured in (
        {"max_requests": 1000},
        {"accesslog": "-"},
        {"keepalive": 0},
        {"pre_request": lambda _worker, _request: None},
        {"post_request": lambda _worker, _request, _environ, _response: None},
    ):
        assert not asyncio.run(has_short_way(configured)), configured


def test_a_connection_in_use_is_kept_and_an_idle_one_closed(served: Served) -> None:
    async def run() -> None:
        transport = Written(served.certificate)
        protocol = LeewayProtocol(Worker(served.app, keepalive=1))
        protocol.connection_made(transport)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        for number in range(4):
            protocol.data_received(request_of(served.review()))
            assert transport.data.count(GOOD) == number + 1
            await asyncio.sleep(0.5)
        assert not transport.is_closed
        await asyncio.sleep(1)
        assert transport.is_closed
        protocol.connection_lost(None)

    asyncio.run(run())


def test_a_worker_that_drains_says_that_it_closes(served: Served) -> None:
    async def run() -> bytes:
        transport = Written(served.certificate)
        worker = Worker(served.app)
        protocol = LeewayProtocol(worker)
        protocol.connection_made(transport)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        worker.draining = True
        protocol.data_received(request_of(served.review()))
        while not transport.is_closed:
            await asyncio.sleep(0.001)
        protocol.connection_lost(None)
        return transport.data

    assert b"\r\nConnection: close\r\n" in asyncio.run(run())
