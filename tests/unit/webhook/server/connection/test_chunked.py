"""Chunked bodies, whole and in pieces."""

import pytest

from webhook.server.connection.chunked import ChunkedBody
from webhook.server.connection.read_head import MessageError

NEXT = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def read(data: bytes, size: int) -> tuple[bytes, bytes] | int | None:
    """Feed pieces; return the body and what follows it, the code of a refusal, or None."""
    chunked, pending = ChunkedBody(), b""
    try:
        for start in range(0, len(data), size):
            pending += data[start : start + size]
            if not chunked.is_complete:
                pending = pending[chunked.feed(pending, 0) :]
    except MessageError as error:
        return error.code
    return (bytes(chunked.body), pending) if chunked.is_complete else None


GOOD = {
    "one": (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "two": (b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!"),
    "none": (b"0\r\n\r\n", b""),
    "many zeros": (b"0000000000000005\r\nhello\r\n00\r\n\r\n", b"hello"),
    "both cases": (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2),
    "extension": (b'5;a=b;c="d e";f\r\nhello\r\n0;x\r\n\r\n', b"hello"),
    "CRLF in the data": (b"6\r\n\r\n0\r\n\r\r\n0\r\n\r\n", b"\r\n0\r\n\r"),
    "trailers": (b"5\r\nhello\r\n0\r\nX: a\r\nY:\r\n\r\n", b"hello"),
    "64 bytes each": ((b"40\r\n" + b"a" * 64 + b"\r\n") * 3000 + b"0\r\n\r\n", b"a" * 64 * 3000),
    "1,024 of one byte": (b"1\r\na\r\n" * 1024 + b"0\r\n\r\n", b"a" * 1024),
}
BAD = {
    "sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "minus": b"-1\r\nhello\r\n0\r\n\r\n",
    "underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "space before": b" 5\r\nhello\r\n0\r\n\r\n",
    "space after": b"5 \r\nhello\r\n0\r\n\r\n",
    "empty": b"\r\nhello\r\n0\r\n\r\n",
    "not hex": b"g\r\nhello\r\n0\r\n\r\n",
    "LF only": b"5\nhello\n0\n\n",
    "LF in the extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "CR in the extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "blank in the extension": b"5 ;a=b\r\nhello\r\n0\r\n\r\n",
    "extension without a name": b"5;\r\nhello\r\n0\r\n\r\n",
    "data too long": b"5\r\nhello!!\r\n0\r\n\r\n",
    "no end of line after data": b"5\r\nhello0\r\n\r\n",
    "17 digits": b"00000000000000005\r\nhello\r\n0\r\n\r\n",
    "digits without end": b"5" * 300,
    "a line of 257 bytes": b"5;" + b"a" * 255 + b"\r\nhello\r\n0\r\n\r\n",
    "1,025 of one byte": b"1\r\na\r\n" * 1025,
    "length in the trailer": b"0\r\nContent-Length: 5\r\n\r\n",
    "coding in the trailer": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "type in the trailer": b"0\r\nContent-Type: text/plain\r\n\r\n",
    "host in the trailer": b"0\r\nHOST: a\r\n\r\n",
    "authorization in the trailer": b"0\r\nX: a\r\nAuthorization: Bearer a\r\n\r\n",
    "connection in the trailer": b"0\r\nConnection: close\r\n\r\n",
    "trailer without a colon": b"0\r\nX\r\n\r\n",
    "trailer with a blank before the colon": b"0\r\nX : a\r\n\r\n",
    "trailer folded": b"0\r\nX: a\r\n b\r\n\r\n",
    "trailer with NUL": b"0\r\nX: a\0\r\n\r\n",
    "trailer with LF": b"0\r\nX: a\nY: b\r\n\r\n",
    "request in the trailer": b"0\r\nGET / HTTP/1.1\r\n\r\n",
}
TOO_MANY = {
    "trailers": b"0\r\n" + b"X: a\r\n" * 101 + b"\r\n",
    "long trailers": b"0\r\nX: " + b"a" * 8190 + b"\r\n\r\n",
    "endless trailers": b"0\r\nX: " + b"a" * 9000,
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10**6])
@pytest.mark.parametrize("kind", GOOD)
def test_good(kind: str, size: int) -> None:
    data, body = GOOD[kind]
    assert read(data + NEXT, size) == (body, NEXT)
    if len(data) < 100:
        assert all(read(data[:cut], size) is None for cut in range(len(data)))


@pytest.mark.bad_input(33)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10**6])
@pytest.mark.parametrize("kind", BAD)
def test_bad(kind: str, size: int) -> None:
    assert read(BAD[kind] + NEXT, size) == 400


@pytest.mark.parametrize("size", [1, 1000, 10**6])
@pytest.mark.parametrize("kind", TOO_MANY)
def test_too_many_trailers(kind: str, size: int) -> None:
    assert read(TOO_MANY[kind], size) in (400, 431)


def test_the_size_of_a_chunk_counts_before_its_data() -> None:
    chunked = ChunkedBody()
    assert chunked.feed(b"3\r\nabc\r\nffffffff\r\nab", 0) == 20
    assert chunked.length == 3 + 0xFFFFFFFF
    assert chunked.body == b"abcab"
