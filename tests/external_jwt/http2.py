"""HTTP/2 as far as a client needs it that sends calls and never reads an answer.

Source: RFC 9113 (frames), RFC 7541 section 6.2.2 (header fields that are not indexed), gRPC over
HTTP/2.
"""

import socket
import struct
from pathlib import Path

from tests.external_jwt.client import SERVICE
from tests.external_jwt.messages import sign_request

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4
_INITIAL_WINDOW_SIZE = 4
# What a client can send on a connection before the server allows it more.
WINDOW = 65_535


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(**values: int) -> bytes:
    """Return a SETTINGS frame; only ``initial_window_size`` is used here."""
    pairs = [(_INITIAL_WINDOW_SIZE, value) for value in values.values()]
    return frame(_SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def sign_call(stream: int, claims: str) -> bytes:
    """Return the frames of a call of Sign."""
    message = sign_request(claims)
    data = b"\0" + struct.pack(">I", len(message)) + message
    headers = _header_block(
        {
            ":method": "POST",
            ":scheme": "http",
            ":path": f"{SERVICE}/Sign",
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
        }
    )
    return frame(_HEADERS, _END_HEADERS, stream, headers) + frame(_DATA, _END_STREAM, stream, data)


def _header_block(fields: dict[str, str]) -> bytes:
    # Lengths below 127 are one byte.
    return b"".join(
        bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )


def call_without_reading(path: Path, claims: str) -> tuple[socket.socket, int]:
    """Send as many calls as a connection allows; return it and their number.

    The window for answers is 0, so that each of them has to wait in the server.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(path))
    number = WINDOW // (len(sign_request(claims)) + 5)
    calls = b"".join(sign_call(2 * index + 1, claims) for index in range(number))
    connection.sendall(PREFACE + settings(initial_window_size=0) + calls)
    return connection, number
