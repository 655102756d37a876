"""Heads of requests: what each means, and which are refused."""

import pytest

from webhook.server.connection.read_head import Head, Limits, MessageError, read_head

LIMITS = Limits(100, 8190)
ANONYMOUS = Limits(32, 2048)
HOST = b"Host: a"


def head(*lines: bytes, first: bytes = b"POST /a HTTP/1.1") -> bytes:
    return b"\r\n".join([first, *lines, b"", b""])


def read(data: bytes, limits: Limits = LIMITS) -> Head | int:
    try:
        return read_head(data, limits)
    except MessageError as error:
        return error.code


def test_what_an_api_server_sends() -> None:
    found = read_head(
        head(
            b"Host: 127.0.0.1:8443",
            b"User-Agent: kube-apiserver/v1.36.0 (linux/amd64)",
            b"Content-Length: 1234",
            b"Accept: application/json, */*",
            b"Content-Type: application/json",
            b"Accept-Encoding: gzip",
            first=b"POST /apis/a%2Fb%C3%A9?timeout=30s&x=%41 HTTP/1.1",
        ),
        LIMITS,
    )
    assert (found.method, found.path) == ("POST", "/apis/a/bé")
    assert (found.query, found.version) == (b"timeout=30s&x=%41", b"HTTP/1.1")
    assert [name for name, _ in found.headers] == [
        b"host", b"user-agent", b"content-length", b"accept", b"content-type", b"accept-encoding"
    ]  # fmt: skip
    assert found.headers[1][1] == b"kube-apiserver/v1.36.0 (linux/amd64)"
    assert (found.length, found.keeps_alive, found.expects_continue) == (1234, True, False)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"X: \t a b \t", b"a b"),
        (b"X:a", b"a"),
        (b"X:", b""),
        (b"X: \t ", b""),
        (b"X: a:1, b: c", b"a:1, b: c"),
        (b"X: caf\xe9", b"caf\xe9"),
        (b"X: a\tb", b"a\tb"),
    ],
    ids=repr,
)
def test_value_of_a_field(line: bytes, value: bytes) -> None:
    assert read_head(head(HOST, line), LIMITS).headers == ((b"host", b"a"), (b"x", value))


REFUSED = {
    # Check 1.
    "bare LF": (400, head(HOST, b"X: a\nY: b")),
    "bare CR": (400, head(HOST, b"X: a\rY: b")),
    "CR before CRLF": (400, head(HOST, b"X: a\r")),
    "LF only": (400, head(HOST).replace(b"\r\n", b"\n")),
    "LF after the first line": (400, head(HOST).replace(b"\r\n", b"\n", 1)),
    "two spaces": (400, head(HOST, first=b"POST  /a HTTP/1.1")),
    "tab": (400, head(HOST, first=b"POST\t/a HTTP/1.1")),
    "space after the version": (400, head(HOST, first=b"POST /a HTTP/1.1 ")),
    "blank line before": (400, b"\r\n" + head(HOST)),
    "no target": (400, head(HOST, first=b"POST HTTP/1.1")),
    "no version": (400, head(HOST, first=b"GET /a")),
    "HTTP/0.9": (400, head(HOST, first=b"GET /a HTTP/0.9")),
    "HTTP/1.2": (400, head(HOST, first=b"GET /a HTTP/1.2")),
    "HTTP/2.0": (400, head(HOST, first=b"GET /a HTTP/2.0")),
    "RTSP": (400, head(HOST, first=b"GET /a RTSP/1.0")),
    "version in lower case": (400, head(HOST, first=b"GET /a http/1.1")),
    "method in lower case": (400, head(HOST, first=b"post /a HTTP/1.1")),
    "connect": (400, head(HOST, first=b"CONNECT a:1 HTTP/1.1")),
    "control in the target": (400, head(HOST, first=b"GET /a\x7f HTTP/1.1")),
    "latin-1 in the target": (400, head(HOST, first=b"GET /\xe9 HTTP/1.1")),
    "authority as target": (400, head(HOST, first=b"GET a:1 HTTP/1.1")),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    # Check 2.
    "asterisk": (400, head(HOST, first=b"GET * HTTP/1.1")),
    "two asterisks": (400, head(HOST, first=b"OPTIONS ** HTTP/1.1")),
    "long target": (414, head(HOST, first=b"GET /" + b"a" * 4094 + b" HTTP/1.1")),
    "long field": (431, head(HOST, b"X: " + b"a" * 8186)),
    "many fields": (431, head(HOST, *[b"X: a"] * 100)),
    # Check 3.
    "folded": (400, head(HOST, b"X: a", b" b")),
    "folded with a tab": (400, head(HOST, b"X: a", b"\tb: c")),
    "first line folded": (400, head(b" " + HOST)),
    "space before the colon": (400, head(HOST, b"X : a")),
    "no colon": (400, head(HOST, b"X")),
    "no name": (400, head(HOST, b": a")),
    "name with a slash": (400, head(HOST, b"X/Y: a")),
    "NUL": (400, head(HOST, b"X: a\0b")),
    "DEL": (400, head(HOST, b"X: a\x7f")),
    # Check 4.
    "two hosts": (400, head(HOST, HOST)),
    "two lengths": (400, head(HOST, b"Content-Length: 1", b"content-length: 1")),
    "two types": (400, head(HOST, b"Content-Type: a", b"Content-Type: b")),
    "two codings": (400, head(HOST, *[b"Transfer-Encoding: chunked"] * 2)),
    "two authorizations": (400, head(HOST, b"Authorization: Bearer a", b"Authorization: Bearer b")),
    # Check 5.
    "no host": (400, head(b"X: a")),
    # Check 6.
    "a list of lengths": (400, head(HOST, b"Content-Length: 1, 1")),
    "length with +": (400, head(HOST, b"Content-Length: +1")),
    "length with -": (400, head(HOST, b"Content-Length: -1")),
    "length with _": (400, head(HOST, b"Content-Length: 1_0")),
    "length in hex": (400, head(HOST, b"Content-Length: 0x10")),
    "length empty": (400, head(HOST, b"Content-Length:")),
    "huge length with a letter": (400, head(HOST, b"Content-Length: " + b"9" * 30 + b"a")),
    "huge length with a letter before": (400, head(HOST, b"Content-Length: a" + b"9" * 30)),
    "length and coding": (400, head(HOST, b"Content-Length: 1", b"Transfer-Encoding: chunked")),
    "coding and length": (400, head(HOST, b"Transfer-Encoding: chunked", b"Content-Length: 1")),
    "identity and length": (400, head(HOST, b"Transfer-Encoding: identity", b"Content-Length: 1")),
    # Check 7.
    "chunked on HTTP/1.0": (400, head(b"Transfer-Encoding: chunked", first=b"GET /a HTTP/1.0")),
    "chunked twice": (400, head(HOST, b"Transfer-Encoding: chunked, chunked")),
    "chunked not last": (400, head(HOST, b"Transfer-Encoding: chunked, gzip")),
    "chunked after nothing": (400, head(HOST, b"Transfer-Encoding: ,chunked")),
    "chunked before nothing": (400, head(HOST, b"Transfer-Encoding: chunked,")),
    "no coding": (400, head(HOST, b"Transfer-Encoding:")),
    "vertical tab": (400, head(HOST, b"Transfer-Encoding: \x0bchunked")),
    "gzip": (501, head(HOST, b"Transfer-Encoding: gzip")),
    "gzip before chunked": (501, head(HOST, b"Transfer-Encoding: gzip, chunked")),
    "cow before chunked": (501, head(HOST, b"Transfer-Encoding: cow, chunked")),
    "xchunked": (501, head(HOST, b"Transfer-Encoding: xchunked")),
    "quoted": (501, head(HOST, b'Transfer-Encoding: "chunked"')),
    "parameter": (501, head(HOST, b"Transfer-Encoding: chunked;a=b")),
}


@pytest.mark.bad_input(33)
@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str) -> None:
    code, data = REFUSED[kind]
    assert read(data) == code


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        ((), 0),
        ((b"Content-Length: 0",), 0),
        ((b"Content-Length: 007",), 7),
        ((b"Content-Length: " + b"0" * 5000 + b"7",), 7),
        ((b"Content-Length: \t7 ",), 7),
        ((b"Transfer-Encoding: chunked",), None),
        ((b"TRANSFER-ENCODING: Chunked \t",), None),
        ((b"Upgrade: h2c", b"Connection: Upgrade", b"Content-Length: 7"), 7),
        ((b"Upgrade: websocket", b"Connection: upgrade", b"Transfer-Encoding: chunked"), None),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_length(lines: tuple[bytes, ...], length: int | None) -> None:
    found = read_head(head(HOST, *lines), LIMITS)
    assert (found.length, found.keeps_alive) == (length, True)
    assert len(found.headers) == 1 + len(lines)


@pytest.mark.parametrize("digits", [19, 20, 30, 5000, 8000])
def test_a_length_is_too_large_however_many_digits_it_has(digits: int) -> None:
    data = head(HOST, b"content-length: " + b"9" * digits, b"X: a")
    found = read_head(data, LIMITS)
    assert found.length is not None
    assert found.length > 10**17
    assert found.headers[2] == (b"x", b"a")


@pytest.mark.parametrize(
    ("lines", "first", "keeps_alive"),
    [
        ((), b"GET / HTTP/1.1", True),
        ((b"Connection: keep-alive",), b"GET / HTTP/1.1", True),
        ((b"Connection: close",), b"GET / HTTP/1.1", False),
        ((b"Connection: close", b"Connection: keep-alive"), b"GET / HTTP/1.1", False),
        ((b"Connection: keep-alive, CLOSE",), b"GET / HTTP/1.1", False),
        ((), b"GET / HTTP/1.0", False),
        ((b"Connection: keep-alive",), b"GET / HTTP/1.0", False),
    ],
    ids=repr,
)
def test_whether_a_connection_stays(
    lines: tuple[bytes, ...], first: bytes, keeps_alive: bool
) -> None:
    assert read_head(head(HOST, *lines, first=first), LIMITS).keeps_alive is keeps_alive


@pytest.mark.parametrize(
    ("line", "first", "expects"),
    [
        (b"Expect: 100-Continue", b"PUT / HTTP/1.1", True),
        (b"Expect: 100-continue", b"PUT / HTTP/1.0", False),
        (b"Expect: something", b"PUT / HTTP/1.1", False),
    ],
    ids=repr,
)
def test_expect(line: bytes, first: bytes, expects: bool) -> None:
    assert read_head(head(HOST, line, first=first), LIMITS).expects_continue is expects


@pytest.mark.parametrize(
    ("first", "method", "path"),
    [
        (b"BREW /a HTTP/1.1", "BREW", "/a"),
        (b"M-SEARCH /a HTTP/1.1", "M-SEARCH", "/a"),
        (b"OPTIONS * HTTP/1.1", "OPTIONS", "*"),
        (b"GET http://b/a HTTP/1.1", "GET", "http://b/a"),
        (b"GET //a HTTP/1.1", "GET", "//a"),
        (b"GET /%zz%ff HTTP/1.1", "GET", "/%zz\ufffd"),
        (b"GET / HTTP/1.0", "GET", "/"),
    ],
    ids=repr,
)
def test_request_lines_that_are_for_the_routes(first: bytes, method: str, path: str) -> None:
    found = read_head(head(HOST, first=first), LIMITS)
    assert (found.method, found.path) == (method, path)


@pytest.mark.fault(48)
@pytest.mark.parametrize(
    ("limits", "fields", "size", "is_read"),
    [
        (ANONYMOUS, 32, 1000, True),
        (ANONYMOUS, 33, 1000, False),
        (ANONYMOUS, 3, 2048, True),
        (ANONYMOUS, 3, 2049, False),
        (LIMITS, 100, 500, True),
        (LIMITS, 101, 500, False),
        (LIMITS, 3, 8190, True),
        (LIMITS, 3, 8191, False),
    ],
)
def test_limits(limits: Limits, fields: int, size: int, is_read: bool) -> None:
    # The size of a field is that of its line, CRLF included.
    lines = [b"X-%03d: " % number + b"v" * (size - 9) for number in range(fields - 1)]
    assert (read(head(HOST, *lines), limits) == 431) is not is_read


def test_http_1_0_needs_no_host() -> None:
    assert read_head(head(first=b"GET / HTTP/1.0"), LIMITS).version == b"HTTP/1.0"
