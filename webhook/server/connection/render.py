"""The bytes of a response."""

from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import time
from typing import Final

from webhook.server.request.message import Response

_CLOSE: Final = b"Connection: close\r\n"


def render(response: Response, version: bytes, *, is_head: bool, closes: bool) -> bytes:
    """Return a response as it is sent; ``is_head`` leaves the body out, and says its length."""
    body, code = response.body, response.code
    fields = b""
    if response.headers:
        fields = b"".join([b"%b: %b\r\n" % field for field in response.headers])
    if code == HTTPStatus.NO_CONTENT:
        content = b""
    else:
        content = b"content-type: %b\r\ncontent-length: %d\r\n" % (response.content_type, len(body))
    return b"%b%b%bServer: leeway\r\n%b%b\r\n%b" % (
        _status_line(version, code),
        content,
        fields,
        _date_line(int(time())),
        _CLOSE if closes else b"",
        b"" if is_head or code in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED) else body,
    )


@lru_cache(maxsize=256)
def _status_line(version: bytes, code: int) -> bytes:
    return b"%b %d %b\r\n" % (version, code, HTTPStatus(code).phrase.encode("ascii"))


@lru_cache(maxsize=1)
def _date_line(second: int) -> bytes:
    return b"Date: %b\r\n" % formatdate(second, usegmt=True).encode("ascii")
