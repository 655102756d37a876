"""Reads a request that is here as a whole, where there are no two ways to read it.

Invariants:

1. What is read here gunicorn's parser reads as the same request, with nothing before or after it.
2. No field that is read here bears on who calls, on the coding of the body, or on what becomes of
   the connection. A request with any other field, or with a field twice, is not read here.
"""

import re
from typing import Final, NamedTuple

from webhook.server.connection.parser import FIELDS, PLAIN_FIELD
from webhook.server.request.error_map import JSON

_END: Final = b"\r\n\r\n"
MAX_HEAD: Final = 4096
"""The longest head, in bytes, that is worth reading here, and remembering."""
# 999,999,999 bytes: far more than ever come in one piece.
_MAX_LENGTH_DIGITS: Final = 9
# Go's client of Kubernetes sends its own time limit along, as the only parameter of a review.
_TARGET: Final = rb"(/[a-zA-Z0-9./-]*)(?:\?timeout=[0-9a-z.]{1,16})?"
_POST = re.compile(rb"POST " + _TARGET + rb" HTTP/1\.1\r\n((?:" + PLAIN_FIELD + rb")+)\r\n")
# What clients of Kubernetes send, and what names a request in a log or a trace.
_FREE: Final = frozenset(
    (
        b"host",
        b"user-agent",
        b"accept",
        b"accept-encoding",
        b"x-request-id",
        b"audit-id",
        b"traceparent",
    )
)


class Head(NamedTuple):
    """The path, the header fields with their names in lower case, and the length of the body."""

    path: str
    fields: list[tuple[bytes, bytes]]
    length: int


def split(data: bytes) -> tuple[bytes, bytes]:
    """Part a request in its head, the empty line included, and its body."""
    end = data.find(_END) + len(_END)
    return data[:end], data[end:]


def read_head(head: bytes) -> Head | None:
    """Read the head of a POST; None for one that is not plain, or has a field that is not known."""
    match = _POST.fullmatch(head)
    if match is None:
        return None
    fields = [(name.lower(), value) for name, value in FIELDS.findall(match[2])]
    values = dict(fields)
    if len(values) != len(fields) or b"host" not in values:
        return None
    if values.pop(b"content-type", JSON) != JSON:
        return None
    length = values.pop(b"content-length", b"")
    if not (length.isdigit() and len(length) <= _MAX_LENGTH_DIGITS) or not values.keys() <= _FREE:
        return None
    return Head(match[1].decode("ascii"), fields, int(length))
