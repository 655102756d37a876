"""Mutated requests: never laxer than two other parsers, never another understanding.

The oracles are gunicorn's parser and a streaming llhttp. Every request that is answered must be one
for both, with the same method, target, fields and body, and as the same one in the stream; both may
read on where Leeway has closed the connection. And the pieces in which bytes arrive never matter.

TEST_HTTP_FUZZ_COUNT sets how many inputs there are, TEST_HTTP_FUZZ_SEED repeats a run; the seed is
printed.
"""

import os
import random
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any
from urllib.parse import unquote_to_bytes

import httptools
import pytest
from gunicorn.asgi.parser import ParseError, PythonProtocol

from tests.unit.webhook.server.connection.wire import Worker, answers
from webhook.server.request.message import Request, Response

COUNT = int(os.environ.get("TEST_HTTP_FUZZ_COUNT", "100000"))
SEED = int(os.environ.get("TEST_HTTP_FUZZ_SEED", "0")) or random.SystemRandom().getrandbits(32)

Message = tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...], bytes]
"""The method, the target, the fields and the body of a request."""

GET = b"GET /livez?verbose HTTP/1.1\r\nHost: a\r\n\r\n"
REVIEW = (
    b"POST /apis/authentication.k8s.io/v1/tokenreviews?timeout=30s HTTP/1.1\r\n"
    b"Host: 127.0.0.1:8443\r\nUser-Agent: kube-apiserver/v1.36.0 (linux/amd64)\r\n"
    b"Content-Length: 9\r\nAccept: application/json, */*\r\nContent-Type: application/json\r\n"
    b'Accept-Encoding: gzip\r\n\r\n{"a":"b"}'
)
CHUNKED = (
    b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n1;a=b\r\n!\r\n0\r\n\r\n"
)
BASES = [
    GET,
    REVIEW,
    CHUNKED,
    REVIEW.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n\r\n"),
    CHUNKED.replace(b"0\r\n\r\n", b"0\r\nX: a\r\nY: b\r\n\r\n"),
    CHUNKED.replace(b"chunked\r\n\r\n", b"chunked\r\nConnection: close\r\n\r\n"),
    GET.replace(b"HTTP/1.1", b"HTTP/1.0"),
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a/b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\n\r\n",
    b"HEAD /%41 HTTP/1.1\r\nHost: a\r\nX: \r\nY:\t b \t\r\n\r\n",
]
TOKENS = [
    b"\r\n", b"\r", b"\n", b"\r\n\r\n", b" ", b"\t", b":", b": ", b",", b";", b"=", b"0", b"5",
    b"a", b"\0", b"\x7f", b"\xff", b"\x0b", b"%", b"?", b"#", b"*", b"/", b"+", b"-", b"_", b'"',
    b"\\", b"chunked", b"gzip", b"identity", b"close", b"keep-alive", b"upgrade", b"HTTP/1.1",
    b"HTTP/1.0", b"HTTP/2.0", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
    b"Connection: close\r\n", b"Connection: upgrade\r\n", b"Upgrade: h2c\r\n", b"Host: b\r\n",
    b"X: a\r\n", b" folded\r\n", b"Expect: 100-continue\r\n", b"0\r\n\r\n", b"1\r\na\r\n",
    b"ffffffffffffffff\r\n", b"GET / HTTP/1.1\r\n", b"POST", b"CONNECT",
]  # fmt: skip


def mutated(source: random.Random) -> bytes:
    """Return a few requests in a row, with up to six changes."""
    data = bytearray(b"".join(source.choice(BASES) for _ in range(source.choice((1, 1, 2, 3)))))
    for _ in range(source.choice((0, 1, 1, 2, 3, 6))):
        place = source.randrange(len(data) + 1)
        match source.randrange(7):
            case 0 if place < len(data):
                data[place] ^= 1 << source.randrange(8)
            case 1:
                del data[place : place + source.randrange(1, 9)]
            case 2:
                data[place:place] = data[place : place + source.randrange(1, 60)]
            case 3:
                lines = data.split(b"\r\n")
                lines.insert(source.randrange(len(lines)), source.choice(lines))
                data = bytearray(b"\r\n".join(lines))
            case 4:
                token = source.choice(TOKENS)
                data[place : place + len(token)] = token
            case _:
                data[place:place] = source.choice(TOKENS)
    return bytes(data)


# Leeway -------------------------------------------------------------------------------------


class Loop:
    """As much of an event loop as a connection needs whose requests never have to wait."""

    def __init__(self) -> None:
        self.ready: deque[Callable[[], object]] = deque()

    def time(self) -> float:
        return 0.0

    def call_soon(self, callback: Callable[[], object]) -> "Loop":
        self.ready.append(callback)
        return self

    def call_at(self, when: float, callback: Callable[[], None]) -> "Loop":
        return self

    def create_task(self, coroutine: Coroutine[object, None, None]) -> "Loop":
        with suppress(StopIteration):
            coroutine.send(None)
        return self

    def add_done_callback(self, callback: Callable[["Loop"], object]) -> None:
        self.ready.append(partial(callback, self))

    def result(self) -> None:
        pass

    cancel = cancelled = result

    def run(self) -> None:
        while self.ready:
            self.ready.popleft()()


class Recorder:
    """An application that keeps what it is asked."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def answer(self, request: Request) -> Response:
        self.requests.append(request)
        return Response(200, b"{}")

    async def admit(self, request: Request) -> None:
        request.max_length = 1 << 80


def converse(pieces: Iterable[bytes]) -> tuple[list[Request], list[tuple[int, bool]]]:
    """Return the requests that bytes are read as, and the status of each answer."""
    loop: Any = Loop()
    app = Recorder()
    connection, wire = Worker(application=app, loop=loop).connect()
    for piece in pieces:
        connection.data_received(piece)
        loop.run()
    connection.connection_lost(None)
    found = [(code, closes) for code, closes, _ in answers(wire.data)]
    # Whether a client is told to go on depends on whether it has waited.
    return app.requests, [status for status in found if status[0] != 100]


# The oracles --------------------------------------------------------------------------------


def read_by_gunicorn(data: bytes) -> list[tuple[Message, bool]]:
    """Return the requests of a stream as gunicorn reads them, and whether the client stays."""
    found: list[tuple[Message, bool]] = []
    while data:
        bodies: list[bytes] = []
        parser = PythonProtocol(limit_request_line=4094, on_body=bodies.append)
        try:
            parser.feed(data)
        except (ParseError, ValueError):
            return found
        if not parser.is_complete:
            return found
        message = (parser.method, parser.path, tuple(parser.headers), b"".join(bodies))
        found.append((message, parser.should_keep_alive))
        data = parser.remaining()
    return found


class LlhttpReader:
    """What a streaming llhttp calls."""

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.found: list[Message] = []

    def on_message_begin(self) -> None:
        self.url = self.body = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.own_fields: tuple[tuple[bytes, bytes], ...] = ()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        # The rest is the trailer section.
        self.own_fields = tuple(self.fields)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.found.append((self.parser.get_method(), self.url, self.own_fields, self.body))


def read_by_llhttp(data: bytes) -> list[Message]:
    """Return the requests of a stream as llhttp reads them."""
    reader = LlhttpReader()
    with suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        reader.parser.feed_data(data)
    return reader.found


# The comparison -----------------------------------------------------------------------------

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")


def is_same(request: Request, message: Message) -> bool:
    method, target, fields, body = message
    path, _, query = target.partition(b"?")
    return (request.method.encode(), request.query, request.headers, request.body) == (
        method, query, fields, body
    ) and request.path == unquote_to_bytes(path).decode("utf-8", "replace")  # fmt: skip


def hides_from_llhttp(request: Request, data: bytes) -> bool:
    """Return whether llhttp stops at a request, where RFC 9110 and 9112 let it go on.

    It knows few methods, and reads no body after an ``Upgrade``, which Leeway ignores; nor does it
    take a tab after ``chunked``.
    """
    return (
        request.method not in METHODS
        or request.header(b"upgrade") is not None
        or (request.header(b"transfer-encoding") is not None and b"chunked\t" in data.lower())
    )


def check(data: bytes, source: random.Random) -> str:
    """Hold what becomes of some bytes to the oracles; return what it was."""
    requests, statuses = converse([data])
    cuts = sorted(source.randrange(len(data) + 1) for _ in range(source.choice((1, 2, 5))))
    pieces = [data[start:end] for start, end in pairwise([0, *cuts, len(data)])]
    again, same_statuses = converse(piece for piece in pieces if piece)
    assert same_statuses == statuses, (data, pieces)
    assert len(again) == len(requests)
    for one, other in zip(requests, again, strict=True):
        assert (one.method, one.path, one.query) == (other.method, other.path, other.query)
        assert (one.headers, one.body) == (other.headers, other.body)

    by_gunicorn = read_by_gunicorn(data)
    assert len(requests) <= len(by_gunicorn), data
    for request, status, (message, stays) in zip(requests, statuses, by_gunicorn, strict=False):
        assert is_same(request, message), data
        assert stays or status[1], data
    by_llhttp = read_by_llhttp(data)
    for number, request in enumerate(requests):
        if hides_from_llhttp(request, data):
            break
        assert number < len(by_llhttp), data
        assert is_same(request, by_llhttp[number]), data
    last = statuses[-1][0] if statuses else 0
    return f"{len(requests)} requests, then {'no answer' if last in (0, 200) else last}"


@pytest.mark.bad_input(33)
def test_mutated_requests() -> None:
    print(f"TEST_HTTP_FUZZ_SEED={SEED} TEST_HTTP_FUZZ_COUNT={COUNT}")
    source = random.Random(SEED)
    outcomes = Counter(check(base, source) for base in BASES)
    assert outcomes == {"1 requests, then no answer": len(BASES)}
    for _ in range(COUNT):
        outcomes[check(mutated(source), source)] += 1
    print(dict(outcomes.most_common()))
    # The mutations reach every depth, or they would prove nothing.
    for count in range(3):
        for end in ("no answer", 400, 501):
            assert outcomes[f"{count} requests, then {end}"] > 0, outcomes
