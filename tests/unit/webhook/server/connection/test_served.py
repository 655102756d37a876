"""What clients of Kubernetes send, through a connection and the application of a worker."""

import asyncio
import gc
import re
import ssl
from collections.abc import Iterator, Sequence

import pytest

from tests.unit.webhook.server.served import ACCESS_PATH, GOOD, PATH, Served, access_review
from webhook.errors import TokenRefusedError

from .wire import Worker, answers

HEAD = (
    "POST {path}?timeout=30s HTTP/1.1",
    "Host: 127.0.0.1:8443",
    "User-Agent: kube-apiserver/v1.36.0 (linux/amd64)",
    "Content-Length: {length}",
    "Accept: application/json, */*",
    "Content-Type: application/json",
    "Accept-Encoding: gzip",
)


def request_of(body: bytes, *more: str, path: str = PATH, **changes: str) -> bytes:
    """Render a request; a change replaces a line by its first word, an empty one takes it out."""
    lines = []
    for line in HEAD:
        name = re.split("[ :]", line)[0].lower().replace("-", "_")
        lines += [changes.get(name, line)] if changes.get(name, line) else []
    text = "\r\n".join([*lines, *more]) + "\r\n\r\n"
    return text.format(path=path, length=len(body)).encode("latin-1") + body


def written(served: Served, pieces: Sequence[bytes], *, certified: bool = True) -> bytes:
    """Send pieces, each when the one before has been answered; return what is written."""

    async def exchange() -> bytes:
        worker = Worker(application=served.app)
        certificate = ssl.PEM_cert_to_DER_cert(served.certificate) if certified else None
        connection, wire = worker.connect(certificate)
        for piece in pieces:
            connection.data_received(piece)
            while connection._pending is not None:
                await asyncio.sleep(0.001)
        connection.connection_lost(None)
        return wire.data

    return asyncio.run(exchange())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served") / "data")
    yield served
    served.app.store.close()


@pytest.mark.parametrize("query", ["", "?timeout=2.5s", "?timeout=1m30s", "?x", "?timeout=%ff"])
def test_reviews_on_one_connection(served: Served, query: str) -> None:
    line = f"POST {{path}}{query} HTTP/1.1"
    request = request_of(served.review(), "Traceparent: 00-1-2-01", post=line)
    data = written(served, [request, request + request])
    assert data.count(b"HTTP/1.1 201 Created\r\n") == data.count(GOOD) == 3


def test_an_access_review(served: Served) -> None:
    data = written(served, [request_of(access_review(), path=ACCESS_PATH)])
    assert b'"allowed":false' in data


def test_refusals_leave_nothing_in_memory(served: Served) -> None:
    def errors() -> int:
        gc.collect()
        return sum(isinstance(one, TokenRefusedError) for one in gc.get_objects())

    before = errors()
    bodies = [served.review(f"{served.token[:-20]}{number:020}") for number in range(50)]
    data = written(served, [request_of(body) for body in bodies])
    assert data.count(b'"authenticated":false') == 50
    assert errors() == before


HEADS = [
    pytest.param(("Authorization: Bearer x",), {}, 201, id="authorization"),
    pytest.param(("Impersonate-User: root",), {}, 403, id="impersonate"),
    pytest.param(("Connection: close",), {}, 201, id="close"),
    pytest.param(("Connection: keep-alive",), {}, 201, id="keep-alive"),
    pytest.param(("Expect: 100-continue",), {}, 201, id="expect"),
    pytest.param(("Upgrade: h2c",), {}, 201, id="upgrade"),
    pytest.param(("Transfer-Encoding: chunked",), {}, 400, id="length-and-chunked"),
    pytest.param(("Host: other",), {}, 400, id="two-hosts"),
    pytest.param(("Content-Length: {length}",), {}, 400, id="two-lengths"),
    pytest.param(("Content-Type: application/json",), {}, 400, id="two-types"),
    pytest.param(("Accept: */*",), {}, 201, id="two-accepts"),
    pytest.param(("Content-Encoding: gzip",), {}, 415, id="encoded"),
    pytest.param(("X-Forwarded-Proto: http",), {}, 201, id="forwarded"),
    pytest.param(("A_b: c",), {}, 201, id="underscore"),
    pytest.param((" folded",), {}, 400, id="obs-fold"),
    pytest.param(("A : b",), {}, 400, id="space-before-colon"),
    pytest.param((), {"host": ""}, 400, id="no-host"),
    pytest.param((), {"content_length": ""}, 400, id="no-length"),
    pytest.param((), {"content_length": "Content-Length: +{length}"}, 400, id="signed"),
    pytest.param((), {"content_length": "Content-Length: 0{length}"}, 201, id="zero-first"),
    pytest.param((), {"content_length": "Content-Length: " + "9" * 30}, 413, id="huge"),
    pytest.param((), {"content_type": ""}, 201, id="no-type"),
    pytest.param((), {"content_type": "Content-Type: text/plain"}, 415, id="text"),
    pytest.param((), {"post": "POST {path}/ HTTP/1.1"}, 404, id="slash"),
    pytest.param((), {"post": "POST /{path} HTTP/1.1"}, 404, id="two-slashes"),
    pytest.param((), {"post": "GET {path} HTTP/1.1"}, 405, id="get"),
    pytest.param((), {"post": "post {path} HTTP/1.1"}, 400, id="lower-case"),
    pytest.param((), {"post": "POST {path} HTTP/1.0"}, 201, id="old"),
    pytest.param((), {"post": "POST  {path} HTTP/1.1"}, 400, id="two-spaces"),
    pytest.param((), {"post": "POST /%61pis HTTP/1.1"}, 405, id="percent"),
]


@pytest.mark.parametrize(("more", "changes", "code"), HEADS)
def test_heads(served: Served, more: tuple[str, ...], changes: dict[str, str], code: int) -> None:
    request = request_of(served.review(), *more, **changes)
    found = answers(written(served, [request, request_of(served.review())]))
    assert found[0][0] == code
    # The next request of a client that goes on is not read as a part of this one.
    _, closes, body = found[-1]
    assert closes or GOOD in body


@pytest.mark.parametrize("certified", [True, False])
def test_half_a_review_is_judged_by_its_head(served: Served, certified: bool) -> None:
    data = written(served, [request_of(served.review())[:-1]], certified=certified)
    assert data == b"" if certified else data.startswith(b"HTTP/1.1 401 ")
