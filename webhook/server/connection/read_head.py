"""The head of an HTTP/1.1 request: one pure function from its bytes to what they mean.

httptools (llhttp) parses the header fields. What it accepts, forgives or hides beyond RFC 9112 is
checked here on the bytes themselves, in this order; sections are of RFC 9112 unless named.

1. The head is ``METHOD SP target SP HTTP/1.1`` or ``1.0`` and lines that end with CRLF; neither CR
   nor LF occurs elsewhere (2.2, 3). Any method goes on to the routes, but CONNECT (RFC 9110 9.3.6).
2. The target is a path, a URL, or ``*`` for OPTIONS (3.2). It, the fields and their number are
   within ``MAX_TARGET`` and ``Limits``.
3. The fields are what llhttp takes for fields: no folding, no blank before a colon (5).
4. Fields that may have one member only occur once: with two, proxies differ on which counts (5).
5. HTTP/1.1 has a Host (3.2).
6. A Content-Length is digits, however many (6.2), and excludes a Transfer-Encoding (6.1).
7. The only Transfer-Encoding is ``chunked`` on HTTP/1.1: 501 for another coding, 400 for a list in
   which ``chunked`` is repeated or not last (6.1).
"""

import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

import httptools

from webhook.server.request.message import Headers

MAX_TARGET: Final = 4094
_TOO_LONG: Final = "at most {} fields of {} bytes are served"
_BAD_LINE_END: Final = "a line does not end with CRLF"
_REQUEST_LINE: Final = re.compile(rb"([A-Z-]{3,20}) ([!-~]+) HTTP/1\.([01])\r\n")
# Longer than llhttp can count. Whatever it means, it is more than anyone may send.
_HUGE_LENGTH: Final = re.compile(rb"(?i)(\r\ncontent-length:[ \t]*+)[0-9]{19,}")
_ONCE: Final = b"authorization content-length content-type host transfer-encoding".split()


class Limits(NamedTuple):
    """The most fields in a head, and bytes in the line of one, CRLF included."""

    fields: int
    field_bytes: int


class Head(NamedTuple):
    """A head: ``path`` is percent-decoded, the names of ``headers`` are in lower case.

    ``length`` is that of the body in bytes, None for a chunked one.
    """

    method: str
    path: str
    query: bytes
    headers: Headers
    length: int | None
    keeps_alive: bool
    expects_continue: bool
    version: bytes


class MessageError(Exception):
    """A message after which the connection has to end: an HTTP status and a sentence."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class _Fields:
    """What httptools calls."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.is_complete = True


def read_head(head: bytes, limits: Limits) -> Head:
    r"""Read a head, which ends with its only empty line. Raises MessageError.

    >>> read_head(b"GET /livez?verbose HTTP/1.1\r\nHost: a\r\n\r\n", Limits(100, 8190))[:4]
    ('GET', '/livez', b'verbose', ((b'host', b'a'),))
    """
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise MessageError(400, "the request line is malformed")  # check 1
    method, target, minor = line.groups()
    is_path = target.startswith(b"/") or b"://" in target
    if method == b"CONNECT" or not (is_path or (method, target) == (b"OPTIONS", b"*")):
        raise MessageError(400, "the target is not a path")  # checks 1 and 2
    if len(target) > MAX_TARGET:
        raise MessageError(414, f"the target is longer than {MAX_TARGET} bytes")  # check 2
    # llhttp has a list of methods, and refuses all others.
    headers = Headers(read_fields(b"GET" + head[len(method) :], limits))
    values = headers.first
    if len(values) != len(headers):
        names = [name for name, _ in headers]
        for name in _ONCE:
            if names.count(name) > 1:
                raise MessageError(400, f"the field {name.decode()} occurs twice")  # check 4
    is_newest = minor == b"1"
    if is_newest and b"host" not in values:
        raise MessageError(400, "the field host is missing")  # check 5
    path, _, query = target.partition(b"?")
    return Head(
        method.decode(),
        unquote_to_bytes(path).decode("utf-8", "replace"),
        query,
        headers,
        _length_of(values, is_newest),
        is_newest and not any(n == b"connection" and b"close" in v.lower() for n, v in headers),
        is_newest and values.get(b"expect", b"").lower() == b"100-continue",
        b"HTTP/1." + minor,
    )


def read_fields(head: bytes, limits: Limits) -> list[tuple[bytes, bytes]]:
    """Return the fields of a head, the names in lower case. Raises MessageError."""
    lines = head.count(b"\r\n")
    if head.count(b"\n") != lines or head.count(b"\r") != lines:
        raise MessageError(400, _BAD_LINE_END)  # check 1
    is_long = len(head) > limits.field_bytes
    longest = max(map(len, head.split(b"\r\n")[1:])) if is_long else 0
    if lines - 2 > limits.fields or longest + 2 > limits.field_bytes:
        raise MessageError(431, _TOO_LONG.format(*limits))  # check 2
    found = _Fields()
    try:
        httptools.HttpRequestParser(found).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # An Upgrade is ignored (RFC 9110 7.8), and all fields are here.
    except httptools.HttpParserCallbackError as error:
        # Not the client's doing: MemoryError, say.
        raise error.__context__ or error from None
    except httptools.HttpParserError:
        capped = _HUGE_LENGTH.sub(rb"\g<1>999999999999999999", head)
        if capped != head:
            return read_fields(capped, limits)
        # Beyond the last field it refuses framings, which are judged below.
    if not found.is_complete:
        raise MessageError(400, "a field is malformed")  # check 3
    return found.fields


def check_beginning(arrived: bytes | bytearray, limits: Limits) -> None:
    """Check the beginning of a head that is not complete. Raises MessageError."""
    if has_bare_lf(arrived):
        raise MessageError(400, _BAD_LINE_END)  # check 1
    lines, last = arrived.count(b"\r\n"), arrived.rfind(b"\r\n") + 2
    length = len(arrived) - last - arrived.endswith(b"\r")
    if not lines and length > MAX_TARGET + 30:  # a method, two spaces and the version
        raise MessageError(414, f"the target is longer than {MAX_TARGET} bytes")  # check 2
    if lines and (length + 2 > limits.field_bytes or lines - 1 > limits.fields):
        raise MessageError(431, _TOO_LONG.format(*limits))  # check 2


def has_bare_lf(data: bytes | bytearray) -> bool:
    """Return whether there is an LF without a CR before it."""
    return data.count(b"\n") != data.count(b"\r\n")


def _length_of(values: dict[bytes, bytes], is_newest: bool) -> int | None:
    length, coding = values.get(b"content-length"), values.get(b"transfer-encoding")
    if coding is None:
        if length is not None and not length.isdigit():
            raise MessageError(400, "the field content-length is not a number")  # check 6
        return int((length or b"").lstrip(b"0") or b"0")
    if length is not None or not is_newest:
        raise MessageError(400, "the field transfer-encoding is not served here")  # checks 6 and 7
    codings = [one.strip(b" \t") for one in coding.lower().split(b",")]
    if codings == [b"chunked"]:
        return None
    if b"chunked" in codings[:-1] or b"" in codings:
        raise MessageError(400, "the field transfer-encoding is ambiguous")  # check 7
    raise MessageError(501, "only the transfer coding chunked is served")  # check 7
