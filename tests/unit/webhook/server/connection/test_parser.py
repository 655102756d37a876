"""The faster parser accepts, refuses and understands what gunicorn's own does, and nothing else."""

from typing import Any

import pytest
from gunicorn.asgi.parser import PythonProtocol
from hypothesis import example, given, settings
from hypothesis import strategies as st

from webhook.server.connection.parser import LeewayParser

LIMITS = {"limit_request_line": 200, "limit_request_fields": 6, "limit_request_field_size": 400}
PLAIN = b"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"

BLOCKS = [
    pytest.param(block, id=name)
    for name, block in {
        "plain": PLAIN,
        "none": b"",
        "empty value": b"Host: a\r\nX-Empty:\r\nX-Blank: \t \r\n",
        "white space around": b"Host: \t a b \t\r\n",
        "no space": b"Host:a\r\n",
        "underscore": b"Host: a\r\nX_Y: 1\r\n",
        "colons in the value": b"Host: a:1\r\nX: b: c\r\n",
        "latin-1": b"Host: a\r\nX: caf\xe9\r\n",
        "chunked": b"Host: a\r\nTransfer-Encoding: chunked\r\n",
        "too many": b"Host: a\r\n" + b"X: 1\r\n" * 6,
        "just enough": b"Host: a\r\n" + b"X: 1\r\n" * 5,
        "too large": b"Host: a\r\nX: " + b"1" * 400 + b"\r\n",
        "as large as may be": b"X: " + b"1" * 395 + b"\r\n",
        "two hosts": b"Host: a\r\nHost: b\r\n",
        "two lengths": b"Host: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
        "length and coding": b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "length with a sign": b"Content-Length: +1\r\n",
        "space before the colon": b"Host : a\r\n",
        "folded": b"Host: a\r\nX: 1\r\n 2\r\n",
        "no colon": b"Host\r\n",
        "no name": b": a\r\n",
        "NUL": b"Host: a\0b\r\n",
        "bare LF": b"Host: a\nX: 1\r\n",
        "bare CR": b"Host: a\rX: 1\r\n",
        "DEL": b"Host: a\x7f\r\n",
    }.items()
]


def outcome(kind: type[Any], data: bytes, pieces: int) -> object:
    """Feed a request in pieces; return what the parser knows, or its complaint."""
    parser = kind(**LIMITS)
    size = max(1, len(data) // pieces)
    try:
        for start in range(0, len(data), size):
            parser.feed(data[start : start + size])
    except Exception as error:
        return type(error), str(error)
    known = ("headers", "content_length", "is_chunked", "should_keep_alive", "is_complete")
    return [getattr(parser, name) for name in known]


def request(block: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\n" + block + b"\r\n{}"


@pytest.mark.parametrize("pieces", [1, 2, 1000], ids=["whole", "halves", "bytes"])
@pytest.mark.parametrize("block", BLOCKS)
def test_same_as_gunicorn(block: bytes, pieces: int) -> None:
    data = request(block)
    assert outcome(LeewayParser, data, pieces) == outcome(PythonProtocol, data, pieces)


PARTS = [b"Host", b"a", b"X", b":", b": ", b" ", b"\t", b"\r\n", b"\n", b"\r", b"\0", b"\xff"]
PARTS += [b"Content-Length", b"Transfer-Encoding", b"chunked", b"1", b"_", b"(", b"\x7f", b","]


@settings(max_examples=1500, derandomize=True, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=14).map(b"".join), st.sampled_from([1, 3]))
@example(PLAIN, 1)
def test_same_as_gunicorn_for_any_block(block: bytes, pieces: int) -> None:
    data = request(block)
    assert outcome(LeewayParser, data, pieces) == outcome(PythonProtocol, data, pieces)


CHUNKED = b"POST /a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"2\r\n{}\r\n0\r\nX: a\r\n\r\n"


@pytest.mark.fault(50)
@pytest.mark.parametrize("data", [CHUNKED + CHUNKS, request(PLAIN)], ids=["chunked", "length"])
def test_a_request_may_be_cut_anywhere(data: bytes) -> None:
    for cut in range(1, len(data)):
        bodies: list[bytes] = []
        parser = LeewayParser(**LIMITS, on_body=bodies.append)
        parser.feed(data[:cut])
        parser.feed(data[cut:])
        assert parser.is_complete, data[:cut]
        assert b"".join(bodies) == b"{}", data[:cut]


def test_a_parser_can_become_one() -> None:
    parser = PythonProtocol(**LIMITS)
    parser.__class__ = LeewayParser
    parser.feed(request(PLAIN))
    assert parser.is_complete
    assert [name for name, _ in parser.headers] == [b"host", b"content-type", b"content-length"]
