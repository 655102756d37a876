"""A request and its response, which the connection and the routes exchange."""

import re
import secrets
from collections.abc import Callable, Coroutine
from sys import maxsize
from typing import Any, Final

import msgspec

from webhook.token.outcome import AUTHENTICATED_GROUP

JSON: Final = b"application/json"
REQUEST_ID: Final = b"x-request-id"
_GOOD_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")

Headers = tuple[tuple[bytes, bytes], ...]
"""Field names in lower case, and values, in the order of the message."""


class Caller(msgspec.Struct, frozen=True, gc=False):
    """The user who sent a request, as in the ``userInfo`` of a SelfSubjectReview.

    ``by_token`` is true for a caller without a certificate, who has no permission while auth is
    disabled. ``impersonator`` is the user who acts as this one, empty for the user itself.
    """

    username: str
    groups: tuple[str, ...] = (AUTHENTICATED_GROUP,)
    uid: str = ""
    extra: dict[str, tuple[str, ...]] = {}
    by_token: bool = False
    impersonator: str = ""


class Request:
    """One HTTP request.

    ``path`` is percent-decoded. ``body`` is complete when the request is answered, and empty
    while its head is admitted. ``length`` is that of the body in bytes as the head declares it;
    of a chunked body, what has arrived. ``certificate`` is the client's in PEM, empty without one,
    and ``client`` its address and port.

    Filled in while the request is answered: the ``caller``, None where it has not been identified,
    the ``route``, once the head has been admitted, and ``max_length``, the limit on ``length``.
    """

    __slots__ = (
        "_id",
        "body",
        "caller",
        "certificate",
        "client",
        "headers",
        "length",
        "max_length",
        "method",
        "path",
        "query",
        "route",
    )

    def __init__(
        self,
        method: str,
        path: str,
        query: bytes = b"",
        headers: Headers = (),
        body: bytes = b"",
        *,
        length: int = 0,
        certificate: str = "",
        client: tuple[str, int] | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.length = length or len(body)
        self.certificate = certificate
        self.client = client
        self.caller: Caller | None = None
        self.route: Route | None = None
        self.max_length = maxsize
        self._id = ""

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header field, or None. ``name`` is in lower case."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    @property
    def id(self) -> str:
        """The request's X-Request-Id or Audit-Id if usable, else a new id."""
        if not self._id:
            given = (self.header(REQUEST_ID), self.header(b"audit-id"))
            usable = [value for value in given if value and _GOOD_ID.fullmatch(value)]
            self._id = usable[0].decode("ascii") if usable else secrets.token_hex(8)
        return self._id


class Response:
    """The answer to a request. The connection adds Content-Length, Date and Server.

    ``body`` is that of a GET also where the method is HEAD, and the connection leaves it out.
    """

    __slots__ = ("body", "code", "content_type", "headers")

    def __init__(
        self, code: int, body: bytes, content_type: bytes = JSON, headers: Headers = ()
    ) -> None:
        self.code = code
        self.body = body
        self.content_type = content_type
        self.headers = headers


Answer = Response | Coroutine[Any, Any, Response]
"""What is known at once is a Response; what has to wait, for I/O or a thread, a coroutine."""
Route = Callable[[Request], Answer]
