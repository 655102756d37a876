"""The bytes of a response."""

from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import time

from webhook.server.request.message import Response


def render(response: Response, version: bytes, *, is_head: bool, closes: bool) -> bytes:
    """Return a response as it is sent; ``is_head`` leaves the body out, and says its length."""
    body = response.body
    length = b"content-length: %d\r\n" % len(body)
    if response.code == 204:
        length = body = b""
    elif is_head or response.code == 304:
        body = b""
    fields = b"".join([b"%b: %b\r\n" % field for field in response.headers])
    if closes:
        fields += b"Connection: close\r\n"
    start = _start(version, response.code, response.content_type)
    return b"%b%b%b%b\r\n%b" % (start, length, fields, _date(int(time())), body)


@lru_cache(maxsize=256)
def _start(version: bytes, code: int, content_type: bytes) -> bytes:
    return b"%b %d %b\r\nServer: leeway\r\ncontent-type: %b\r\n" % (
        version,
        code,
        HTTPStatus(code).phrase.encode("ascii"),
        content_type,
    )


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return b"Date: %b\r\n" % formatdate(second, usegmt=True).encode("ascii")
