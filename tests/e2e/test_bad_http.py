"""Rows 27 to 33 of the table of bad input, over the wire."""

import contextlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import assert_within
from tests.unit.webhook.server.connection.test_chunked import BAD as BAD_CHUNKS

from .harness import (
    HOST,
    REVIEWS,
    REVIEWS_BETA,
    Answer,
    RunningServer,
    raw_review,
    request_on,
    review_of,
)

MAX_BODY = 3 * 1024 * 1024
JSON = {"Content-Type": "application/json"}
# Generous: the test is that no client waits for a timeout.
SOON = 2.0
# The limit of row 32, for the best of ten, as other processes run here too.
WITHIN = 0.1


def expect_status(answer: Answer, code: int, *words: str) -> None:
    assert answer.status == code, answer.body
    status = answer.json
    assert (status["kind"], status["apiVersion"]) == ("Status", "v1")
    assert (status["status"], status["code"]) == ("Failure", code)
    for word in words:
        assert word in status["message"]


@pytest.mark.bad_input(27)
@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"token": ""},
        {"token": " \n"},
        {"token": None},
        {"token": 5},
        {"token": ["a"]},
        {"token": {"a": "b"}},
        {"token": "a", "audiences": "b"},
        {"token": "a", "audiences": [1]},
        None,
        "token",
        [],
    ],
    ids=str,
)
def test_token_missing(server: RunningServer, spec: object) -> None:
    expect_status(server.post(REVIEWS, {"spec": spec}), 400)
    expect_status(server.post(REVIEWS, {"kind": "TokenReview"}), 400)


@pytest.mark.bad_input(28)
@pytest.mark.parametrize(
    "body",
    [
        b'{"spec":{"token":"a","token":"b"}}',
        b'{"spec":{"token":"a"},"spec":{"token":"b"}}',
        b'{"spec":{"Token":"a"}}',
        b'{"spec":{"token":"a","TOKEN":"b"}}',
        b'{"Spec":{"token":"a"}}',
        b'{"spec":{"token":"a"},"Kind":"TokenReview"}',
        b'{"spec":{"token":"a","\\u0074oken":"b"}}',
    ],
)
def test_member_twice(server: RunningServer, body: bytes) -> None:
    expect_status(server.request("POST", REVIEWS, body, JSON), 400)


@pytest.mark.bad_input(29)
@pytest.mark.parametrize(
    ("path", "change", "served"),
    [
        (REVIEWS, {"kind": "SubjectAccessReview"}, "TokenReview"),
        (REVIEWS, {"kind": "tokenreview"}, "TokenReview"),
        (REVIEWS, {"apiVersion": "v1"}, "authentication.k8s.io/v1"),
        (REVIEWS, {"apiVersion": "authentication.k8s.io/v1alpha1"}, "authentication.k8s.io/v1"),
        (REVIEWS_BETA, {"apiVersion": "authentication.k8s.io/v2"}, "authentication.k8s.io/v1beta1"),
    ],
)
def test_wrong_kind_or_version(
    server: RunningServer, path: str, change: dict[str, str], served: str
) -> None:
    expect_status(server.post(path, {"spec": {"token": "a"}} | change), 400, repr(served))


@pytest.mark.bad_input(30)
@pytest.mark.parametrize(
    "status",
    [{"authenticated": True, "user": {"username": "admin"}}, "yes", None, [1]],
    ids=str,
)
def test_status_of_the_client(server: RunningServer, status: object) -> None:
    answer = server.post(REVIEWS, review_of("a") | {"status": status})
    assert answer.status == 201
    assert answer.json["status"] == {"authenticated": False}


@pytest.mark.bad_input(31)
@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        *[(m, REVIEWS, "POST") for m in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")],
        ("GET", REVIEWS_BETA, "POST"),
        ("POST", "/livez", "GET, HEAD"),
        ("DELETE", "/openid/v1/jwks", "GET, HEAD"),
        ("POST", "/apis", "GET, HEAD"),
    ],
)
def test_method_not_allowed(server: RunningServer, method: str, path: str, allowed: str) -> None:
    answer = server.request(method, path)
    assert answer.status == 405
    assert answer.headers["allow"] == allowed
    if method != "HEAD":
        expect_status(answer, 405)


@pytest.mark.bad_input(31)
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/yaml"},
        {"Content-Type": "application/x-protobuf"},
        {"Content-Type": "text/plain; application/json"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": ""},
        JSON | {"Content-Encoding": "gzip"},
    ],
    ids=str,
)
def test_not_json(server: RunningServer, headers: dict[str, str]) -> None:
    body = json.dumps(review_of("a")).encode()
    expect_status(server.request("POST", REVIEWS, body, headers), 415)


DEEP = 100_000


@pytest.mark.bad_input(31)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff",
        b"\xef\xbb\xbf" + json.dumps(review_of("a")).encode(),
        json.dumps(review_of("a")).encode("utf-16"),
        json.dumps(review_of("a")).encode("utf-16-le"),
        json.dumps(review_of("a")).encode() + b"{}",
        b'{"spec":{"token":"\\ud800"}}',
        b'{"spec":{"token":"a"},"status":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b"[" * DEEP,
    ],
    ids=lambda body: ascii(body[:24]),
)
def test_bad_json(server: RunningServer, body: bytes) -> None:
    expect_status(server.request("POST", REVIEWS, body, JSON), 400)


@pytest.mark.bad_input(31)
@pytest.mark.parametrize("length", ["1" + "0" * 12, "1" * 30, "1" * 5000], ids=len)
def test_length_over_the_limit(server: RunningServer, length: str) -> None:
    head = f"POST {REVIEWS} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n"
    started = time.monotonic()
    # The client keeps its connection open: the server does not wait for the rest of the body.
    answer = server.exchange(head.encode() + b"{")
    seconds = time.monotonic() - started
    print(f"413 after {seconds * 1000:.1f} ms")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nConnection: close\r\n" in answer
    assert_within(seconds, SOON)


@pytest.mark.bad_input(31)
def test_no_100_continue_over_the_limit(server: RunningServer) -> None:
    head = f"POST {REVIEWS} HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: "
    assert server.exchange(f"{head}{10**8}\r\n\r\n".encode()).startswith(b"HTTP/1.1 413 ")
    with server.connect() as connection:
        body = json.dumps(review_of("a")).encode()
        connection.sendall(f"{head}{len(body)}\r\n\r\n".encode())
        assert connection.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(1024).startswith(b"HTTP/1.1 201 ")


@pytest.mark.bad_input(31)
def test_limit_is_exact(server: RunningServer) -> None:
    body = json.dumps(review_of("a")).encode().ljust(MAX_BODY)
    assert server.request("POST", REVIEWS, body, JSON).status == 201
    expect_status(server.request("POST", REVIEWS, body + b" ", JSON), 413, str(MAX_BODY))


def chunks(total: int, size: int = 65536) -> Iterator[bytes]:
    for _ in range(total // size):
        yield b" " * size


@pytest.mark.bad_input(31)
@pytest.mark.parametrize(
    ("path", "user", "code"),
    [
        (REVIEWS, "kube-apiserver", 413),
        (REVIEWS, "", 401),
        ("/no-such-path", "kube-apiserver", 404),
        ("/livez", "", 405),
        ("/apis", "root", 405),
    ],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_large_body(server: RunningServer, path: str, user: str, code: int, chunked: bool) -> None:
    total = 4 * 1024 * 1024
    started = time.monotonic()
    with server.client(server.context(user)) as client:
        # http.client sends it all before it reads; a reset would lose it the answer.
        body: Iterator[bytes] | bytes = chunks(total) if chunked else b" " * total
        client.request("POST", path, body, JSON, encode_chunked=chunked)
        response = client.getresponse()
        answer = Answer(response.status, dict(response.getheaders()), response.read())
    seconds = time.monotonic() - started
    print(f"{code} for 4 MiB after {seconds * 1000:.0f} ms")
    expect_status(answer, code)
    assert_within(seconds, SOON)


def latencies_until(
    server: RunningServer, token: str, stop: threading.Event, context: ssl.SSLContext
) -> list[float]:
    """Review a token repeatedly on one connection; return the seconds of each."""
    seconds = []
    body = json.dumps(review_of(token)).encode()
    with server.client(context) as connection:
        while not stop.is_set():
            started = time.monotonic()
            assert request_on(connection, "POST", REVIEWS, body, JSON).status == 201
            seconds.append(time.monotonic() - started)
    return seconds


@pytest.mark.bad_input(32)
@pytest.mark.parametrize(
    ("review", "within"),
    [
        (review_of("a", [f"https://audience-{number}" for number in range(10_000)]), WITHIN),
        (review_of("a" * 3_000_000), WITHIN),
        (review_of(f"{'a' * 1_500_000}.e30.{'a' * 1_500_000}"), WITHIN),
        (review_of("e30." * 750_000), SOON),
        (review_of(["a"] * 500_000), SOON),
    ],
    ids=["10,000 audiences", "3 MB token", "3 MB header", "750,000 segments", "500,000 tokens"],
)
def test_large_values(server: RunningServer, review: dict[str, object], within: float) -> None:
    body = json.dumps(review, separators=(",", ":")).encode()
    token = server.sign()
    context = server.context()
    stop = threading.Event()
    with ThreadPoolExecutor(2) as pool, server.client(context) as client:
        others = [pool.submit(latencies_until, server, token, stop, context) for _ in range(2)]
        times = []
        try:
            for _ in range(10):
                started = time.monotonic()
                answer = request_on(client, "POST", REVIEWS, body, JSON)
                times.append(time.monotonic() - started)
                assert answer.status in (201, 400)
                if answer.status == 201:
                    assert answer.json["status"]["authenticated"] is False
        finally:
            stop.set()
        seconds = [second for other in others for second in other.result()]
    print(
        f"{len(body)} bytes: median {sorted(times)[5] * 1000:.0f} ms, max {max(times) * 1000:.0f} "
        f"ms; others at most {max(seconds) * 1000:.0f} ms"
    )
    assert_within(min(times), within)
    assert_within(max(times), SOON)
    assert_within(max(seconds), SOON)


@pytest.mark.bad_input(32)
def test_audiences_with_a_good_token(server: RunningServer) -> None:
    audiences = [f"https://audience-{number}" for number in range(10_000)]
    answer = server.post_review(server.sign(), [*audiences, "https://kubernetes.default.svc"])
    assert answer.json["status"]["audiences"] == ["https://kubernetes.default.svc"]


BODY = json.dumps(review_of("a")).encode()
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
HOST_LINE = b"Host: " + HOST.encode()
TYPE = b"Content-Type: application/json"
CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
SMUGGLED = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


def raw(*lines: bytes, body: bytes = BODY, end: bytes = b"\r\n") -> bytes:
    first = b"POST %s HTTP/1.1" % REVIEWS.encode()
    return end.join([first, *lines, b"", b""]) + body


AMBIGUOUS: dict[str, bytes] = {
    "length with chunked": raw(HOST_LINE, TYPE, LENGTH, CHUNKED, body=CHUNK),
    "chunked with length": raw(HOST_LINE, TYPE, CHUNKED, b"Content-Length: 4", body=CHUNK),
    "two lengths": raw(HOST_LINE, TYPE, LENGTH, b"Content-Length: 5"),
    "two equal lengths": raw(HOST_LINE, TYPE, LENGTH, LENGTH),
    "a list of lengths": raw(HOST_LINE, TYPE, LENGTH + b", %d" % len(BODY)),
    "length with +": raw(HOST_LINE, TYPE, b"Content-Length: +%d" % len(BODY)),
    "length with -": raw(HOST_LINE, TYPE, b"Content-Length: -1"),
    "length with _": raw(HOST_LINE, TYPE, b"Content-Length: 1_0"),
    "length in hex": raw(HOST_LINE, TYPE, b"Content-Length: 0x10"),
    "length empty": raw(HOST_LINE, TYPE, b"Content-Length:"),
    "two hosts": raw(HOST_LINE, b"Host: other", TYPE, LENGTH),
    "two equal hosts": raw(HOST_LINE, HOST_LINE, TYPE, LENGTH),
    "no host": raw(TYPE, LENGTH),
    "two authorizations": raw(HOST_LINE, TYPE, LENGTH, *[b"Authorization: Bearer a"] * 2),
    "two content types": raw(HOST_LINE, TYPE, b"Content-Type: text/plain", LENGTH),
    "folded line": raw(HOST_LINE, TYPE, b"X-Folded: a", b" b", LENGTH),
    "folded with tab": raw(HOST_LINE, TYPE, b"X-Folded: a", b"\tb: c", LENGTH),
    "first line folded": raw(b" " + HOST_LINE, TYPE, LENGTH),
    "LF only": raw(HOST_LINE, TYPE, LENGTH, end=b"\n"),
    "one bare LF": raw(HOST_LINE, b"X-A: b\nX-C: d", TYPE, LENGTH),
    "LF after the first line": raw(HOST_LINE, TYPE, LENGTH).replace(b"\r\n", b"\n", 1),
    "bare CR": raw(HOST_LINE, b"X-A: b\rX-C: d", TYPE, LENGTH),
    "NUL": raw(HOST_LINE, b"X-A: b\0c", TYPE, LENGTH),
    "space before colon": raw(HOST_LINE, TYPE, b"Content-Length : %d" % len(BODY)),
    "tab before colon": raw(HOST_LINE, TYPE, b"Transfer-Encoding\t: chunked", body=CHUNK),
    "no colon": raw(HOST_LINE, TYPE, LENGTH, b"X-Nothing"),
    "empty name": raw(HOST_LINE, TYPE, LENGTH, b": a"),
    "name with slash": raw(HOST_LINE, TYPE, LENGTH, b"X/A: a"),
    "chunked twice": raw(HOST_LINE, TYPE, b"Transfer-Encoding: chunked, chunked", body=CHUNK),
    "two chunkeds": raw(HOST_LINE, TYPE, CHUNKED, CHUNKED, body=CHUNK),
    "chunked not last": raw(HOST_LINE, TYPE, b"Transfer-Encoding: chunked, gzip", body=CHUNK),
    "identity only": raw(HOST_LINE, TYPE, b"Transfer-Encoding: identity", LENGTH),
    "chunked in HTTP/1.0": raw(HOST_LINE, TYPE, CHUNKED, body=CHUNK).replace(b"/1.1", b"/1.0", 1),
    "coding with vertical tab": raw(HOST_LINE, TYPE, b"Transfer-Encoding: \x0bchunked", body=CHUNK),
    "HTTP/2.0": raw(HOST_LINE, TYPE, LENGTH).replace(b"/1.1", b"/2.0", 1),
    "HTTP/0.9": b"GET /livez\r\n\r\n",
    "two spaces": raw(HOST_LINE, TYPE, LENGTH).replace(b"POST ", b"POST  ", 1),
    "method in lower case": raw(HOST_LINE, TYPE, LENGTH).replace(b"POST", b"post", 1),
    "path with a control": raw(HOST_LINE).replace(b"tokenreviews", b"token\x7freviews", 1),
    "authority as path": b"GET 127.0.0.1:1 HTTP/1.1\r\n" + HOST_LINE + b"\r\n\r\n",
    "TLS inside TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}
NOT_IMPLEMENTED = {
    "gzip before chunked": raw(HOST_LINE, TYPE, b"Transfer-Encoding: gzip, chunked", body=CHUNK),
    "unknown coding": raw(HOST_LINE, TYPE, b"Transfer-Encoding: xchunked", body=CHUNK),
    "unknown before chunked": raw(HOST_LINE, TYPE, b"Transfer-Encoding: cow, chunked", body=CHUNK),
    "quoted chunked": raw(HOST_LINE, TYPE, b'Transfer-Encoding: "chunked"', body=CHUNK),
}


def expect_refused(server: RunningServer, data: bytes, status: bytes) -> None:
    """Assert that a message gets one answer, and that what follows it gets none."""
    answer = server.exchange(data + SMUGGLED)
    assert answer.startswith(b"HTTP/1.1 " + status + b" "), answer[:200]
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.bad_input(33)
@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_ambiguous_message(server: RunningServer, kind: str) -> None:
    expect_refused(server, AMBIGUOUS[kind], b"400")


@pytest.mark.bad_input(33)
@pytest.mark.parametrize("kind", NOT_IMPLEMENTED)
def test_unknown_transfer_coding(server: RunningServer, kind: str) -> None:
    expect_refused(server, NOT_IMPLEMENTED[kind], b"501")


@pytest.mark.bad_input(33)
@pytest.mark.parametrize("kind", BAD_CHUNKS)
def test_bad_chunk(server: RunningServer, kind: str) -> None:
    expect_refused(server, raw(HOST_LINE, TYPE, CHUNKED, body=BAD_CHUNKS[kind]), b"400")


@pytest.mark.bad_input(33)
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST_LINE + b"\r\n\r\n", b"414"),
        (b"GET /" + b"a" * 500_000, b"414"),
        (raw(HOST_LINE, b"X-A: " + b"a" * 9000), b"431"),
        (raw(HOST_LINE, b"X-A: " + b"a" * 500_000), b"431"),
        (raw(HOST_LINE, *[b"X-A: a"] * 200), b"431"),
    ],
    ids=["path", "endless path", "header", "endless header", "200 headers"],
)
def test_endless_header(server: RunningServer, data: bytes, status: bytes) -> None:
    answer = server.exchange(data)
    assert answer.startswith(b"HTTP/1.1 " + status + b" "), answer[:200]


def test_valid_messages_are_served(server: RunningServer) -> None:
    # A control: the request that the rows above change is accepted.
    last = raw(HOST_LINE, TYPE, CHUNKED, b"Connection: close", body=CHUNK)
    with_extension = CHUNK.replace(b"\r\n", b";a=b\r\n", 1)
    answer = server.exchange(
        raw_review("a")
        + raw(HOST_LINE, TYPE, LENGTH)
        + raw(HOST_LINE, TYPE, CHUNKED, body=with_extension)
        + b"\r\n"
        + last
    )
    assert answer.count(b"HTTP/1.1 201 Created\r\n") == 4
    assert answer.count(b"\r\nConnection: close\r\n") == 1


@pytest.mark.parametrize("size", [0, 100_000, 300_000, 1_000_000])
def test_large_messages_sent_ahead_are_all_served(server: RunningServer, size: int) -> None:
    # More than the server holds of a connection, so it has to stop reading and go on.
    body = BODY.ljust(size)
    count = max(2_000_000 // (size + 200), 3)
    message = raw(HOST_LINE, TYPE, b"Content-Length: %d" % len(body), body=body)
    last = raw(HOST_LINE, TYPE, LENGTH, b"Connection: close")
    # The answers are short enough to wait in the buffers of the kernel until all is sent.
    answer = server.exchange(message * count + last)
    assert answer.count(b"HTTP/1.1 201 Created\r\n") == count + 1


CUT = raw(HOST_LINE, TYPE, CHUNKED, b"Connection: close", body=CHUNK)
PAUSE_SECONDS = 0.3


@pytest.mark.fault(50)
def test_a_chunked_request_may_be_cut_anywhere_in_its_head(server: RunningServer) -> None:
    cuts = range(1, CUT.index(CHUNK), 3)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect(server.context())) for _ in cuts]
        for cut, connection in zip(cuts, connections, strict=True):
            connection.sendall(CUT[:cut])
        # Else the kernel may put the two pieces together again.
        time.sleep(PAUSE_SECONDS)
        for cut, connection in zip(cuts, connections, strict=True):
            connection.sendall(CUT[cut:])
        for cut, connection in zip(cuts, connections, strict=True):
            assert connection.recv(65536).startswith(b"HTTP/1.1 201 "), CUT[:cut]


def test_a_client_of_http_1_0_needs_no_host(server: RunningServer) -> None:
    answer = server.exchange(b"GET /livez HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 200 ")


def test_a_connection_is_kept_alive(server: RunningServer) -> None:
    with server.client() as client:
        for _ in range(3):
            answer = request_on(client, "POST", REVIEWS, BODY, JSON)
            assert answer.status == 201
            assert "connection" not in answer.headers
            sock = client.sock
        assert isinstance(sock, ssl.SSLSocket)
        assert isinstance(client, http.client.HTTPSConnection)
