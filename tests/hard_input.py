"""Input that a careless parser reads repeatedly: blanks, repetitions, missing ends."""

from collections.abc import Callable

Make = Callable[[int], bytes]
_LINE = b"POST /livez HTTP/1.1\r\n"
_POST = b"POST /a HTTP/1.1\r\nHost: a\r\n"
_BAD_END = b"Y:\x01\r\n\r\n"
FOUND = b"GET /livez HTTP/1.1\r\n" + (b"X:" + b" " * 10 + b"\r\n") * 7 + _BAD_END
"""The 126 bytes that held a worker up for seconds: fault 43."""


def times(unit: bytes, head: bytes = b"", tail: bytes = b"") -> Make:
    """Return a function that makes inputs of about a given size from repeated bytes."""
    return lambda size: head + unit * (size // len(unit)) + tail


BLOCKS: dict[str, Make] = {
    "blank values": times(b"X:" + b" " * 10 + b"\r\n", _LINE, _BAD_END),
    "one blank value": times(b" \t", _LINE + b"X:", _BAD_END),
    "blanks inside a value": times(b"a ", _LINE + b"X:", b"\x01\r\n\r\n"),
    "blanks after a value": times(b" ", _LINE + b"X:a", b"\x01\r\n\r\n"),
    "one long value": times(b"a", _LINE + b"X:", b"\x01\r\n\r\n"),
    "one long name": times(b"a", _LINE, b"\r\n\r\n"),
    "names without values": times(b"X:\r\n", _LINE, _BAD_END),
    "plain fields": times(b"X: a\r\n", _LINE, _BAD_END),
    "no end": times(b"X: a\r\n", _LINE),
    "many ends": times(b"\r\n", _LINE),
    "carriage returns": times(b"\r", _LINE),
    "colons": times(b":", _LINE, _BAD_END),
    "path": times(b"/a", b"GET ", b" HTTP/1.1\r\n\r\n"),
    "path without end": times(b"/%41", b"GET "),
    "spaces in the request line": times(b" ", b"GET ", b"HTTP/1.1\r\n\r\n"),
    "query": times(b"timeout=1&", b"POST /a?", b" HTTP/1.1\r\nHost: a\r\n\r\n"),
}
BODIES: dict[str, Make] = {
    "small chunks": times(b"1\r\na\r\n", _POST + b"Transfer-Encoding: chunked\r\n\r\n", b"x"),
    "chunk size": times(b"0", _POST + b"Transfer-Encoding: chunked\r\n\r\n", b"x\r\n"),
    "chunk extension": times(b" ;a", _POST + b"Transfer-Encoding: chunked\r\n\r\n1", b"\x01\r\n"),
    "chunk extension of quotes": times(
        b';a="\\"', _POST + b"Transfer-Encoding: chunked\r\n\r\n1", b"\x01\r\n"
    ),
    "trailers": times(b"X: a\r\n", _POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"\x01"),
    "digits of a length": times(b"1", _POST + b"Content-Length: ", b"\r\n\r\n"),
    "list of codings": times(b"a,", _POST + b"Transfer-Encoding: ", b"\r\n\r\n"),
}
TOKENS: dict[str, Make] = {
    "dots": times(b"."),
    "segments": times(b"e30."),
    "payload": times(b"eyJh", b"e30.", b".e30"),
    "header": times(b"e30x", b"", b".e30.e30"),
    "payload that is not base64url": times(b"e", b"e30.", b"!.e30"),
}
JSON: dict[str, Make] = {
    "arrays": times(b"["),
    "closed arrays": lambda size: b"[" * (size // 2) + b"]" * (size // 2),
    "objects": times(b'{"a":'),
    "digits": times(b"1"),
    "spaced digits": times(b"1", b"[ ", b"]"),
    "fraction": times(b"1", b"[ 0.", b"]"),
    "exponent": times(b"1", b"[ 1e", b"]"),
    "zeros": times(b"0", b"[ 0.", b"1]"),
    "blanks": times(b" ", b"[", b"x"),
    "string without end": times(b"a", b'"'),
    "escapes": times(b"\\u0041", b'{"iss": "', b'"}'),
    "backslashes": times(b"\\\\", b'"'),
    "members": lambda size: b"{" + b",".join(b'"%07d": 1' % n for n in range(size // 13)) + b"}",
    "the same member": times(b'"a": 1, ', b"{", b'"b": 1}'),
    "not UTF-8": times(b"a", b'"', b'\xff"'),
}
PROTOBUF: dict[str, Make] = {
    "numbers that go on": times(b"\xff", b"k8s\0"),
    "fields": times(b"\x00\x00", b"k8s\0"),
    "nested": times(b"\x0a\x7f", b"k8s\0\x12\xff\xff\x03"),
}
