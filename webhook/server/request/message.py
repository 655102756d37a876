"""A request and its response, which the connection and the routes exchange."""

import re
import secrets
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from webhook.kube.protobuf import CONTENT_TYPE, Message, json_of
from webhook.rbac.basis import Basis
from webhook.token.bound_objects import Lookup, ObjectKey
from webhook.token.outcome import AUTHENTICATED_GROUP

JSON: Final = b"application/json"
REQUEST_ID: Final = b"x-request-id"
_GOOD_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_T = TypeVar("_T")

Fields = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, and values."""
Later = Coroutine[Any, Any, _T]


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


class Headers(tuple[tuple[bytes, bytes], ...]):
    """The fields of a head in their order.

    Requests with the same head share it, and with it what most of them look for: the ``first``
    value of each name, those that ask for ``impersonation``, whether a browser may have sent them,
    and whether they declare plain JSON in the usual way.
    """

    first: dict[bytes, bytes]
    of_browser: bool
    of_json: bool
    impersonation: Fields

    def __new__(cls, fields: Iterable[tuple[bytes, bytes]] = ()) -> "Headers":
        """Take the fields in the order in which they came."""
        self = super().__new__(cls, fields)
        self.first = dict(reversed(self))
        self.of_json = (
            self.first.get(b"content-type") == JSON and b"content-encoding" not in self.first
        )
        self.of_browser = b"origin" in self.first or b"sec-fetch-site" in self.first
        self.impersonation = tuple(field for field in self if field[0].startswith(b"impersonate-"))
        return self


class Request(msgspec.Struct, eq=False, gc=False):
    """One HTTP request.

    ``path`` is percent-decoded. ``body`` is complete when the request is answered, and empty
    while its head is admitted. ``length`` is that of the body in bytes as the head declares it;
    of a chunked body, what has arrived. ``certificate`` is the client's in PEM, empty without one,
    and ``client`` its address and port.

    Filled in while the request is answered: the ``basis`` of the answer, None before it is taken
    and once nothing rests on it any more (``confirm``); the ``caller``, None where it has not been
    identified, and ``is_refused`` where etcd's API has to refuse what it shows as its identity;
    ``max_length``, the limit on ``length``, negative where the route does not want a body;
    ``has_waited``, whether anything else ran on the event loop since the basis was taken;
    ``attempts``, how often the answer lost its basis; and in ``looked_up``, by token, what was
    looked up for it, so that an answer that is decided again does not wait for that again.
    """

    method: str
    path: str
    query: bytes = b""
    headers: Headers = Headers()
    body: bytes = b""
    length: int = 0
    certificate: str = ""
    client: tuple[str, int] | None = None
    caller: Caller | None = None
    is_refused: bool = False
    max_length: int = -1
    own_id: str = ""
    basis: Basis | None = None
    has_waited: bool = False
    attempts: int = 0
    looked_up: dict[str, dict[ObjectKey, Lookup]] | None = None

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header field, or None. ``name`` is in lower case."""
        return self.headers.first.get(name)

    @property
    def id(self) -> str:
        """The request's X-Request-Id or Audit-Id if usable, else a new id."""
        if not self.own_id:
            given = (self.header(REQUEST_ID), self.header(b"audit-id"))
            usable = [value for value in given if value and _GOOD_ID.fullmatch(value)]
            self.own_id = usable[0].decode("ascii") if usable else secrets.token_hex(8)
        return self.own_id


class Response(msgspec.Struct, frozen=True, gc=False):
    """The answer to a request. The connection adds Content-Length, Date and Server.

    ``body`` is that of a GET also where the method is HEAD; the connection leaves it out.
    """

    code: int
    body: bytes
    content_type: bytes = JSON
    headers: Fields = ()


Answer = Response | Later[Response]
"""A Response where nothing has to be waited for, else a coroutine."""
Route = Callable[[Request], Answer]


class RequestError(Exception):
    """A request that is answered with an error.

    ``grpc`` is the gRPC code in the answers of etcd's API, 0 for the usual one of ``code``.
    """

    def __init__(
        self,
        code: int,
        message: str,
        headers: Fields = (),
        details: Mapping[str, object] | None = None,
        grpc: int = 0,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.headers = headers
        self.details = details
        self.grpc = grpc


def caller_of(request: Request) -> Caller:
    """Return the caller of a request whose route is only for those with an identity."""
    if request.caller is None:
        raise RuntimeError("a route that needs a caller was reached without one")
    return request.caller


def basis_of(request: Request) -> Basis:
    """Return the basis of an answer that rests on the store."""
    if request.basis is None:
        raise RuntimeError("a route that needs the store was reached without a basis")
    return request.basis


async def settled(value: _T | Later[_T]) -> _T:
    """Return a value, or what its coroutine returns."""
    return await value if isinstance(value, Coroutine) else value


def json_body(request: Request, message: Message | None = None) -> bytes:
    """Return the body of a JSON request, or the JSON of a protocol buffer of type ``message``.

    Raises RequestError 415 and 413, and InvalidReviewError for a broken protocol buffer.
    """
    is_protobuf = require_type(request, message)
    if request.length > request.max_length:
        raise too_long(request)
    return json_of(request.body, message) if is_protobuf and message else request.body


def too_long(request: Request) -> RequestError:
    """Return the error for a body that is longer than ``request.max_length``."""
    return RequestError(
        413, f"the request body is too large; at most {request.max_length} bytes are served"
    )


def require_type(
    request: Request, message: Message | None = None, *, may_be_missing: bool = True
) -> bool:
    """Check the declared type of a body; return whether it is a protocol buffer.

    Kubernetes takes a body without ``Content-Type`` for JSON. A page of any site can have a browser
    send one, as it can send what forms send. Raises RequestError 415.
    """
    content_type = request.header(b"content-type")
    is_protobuf = False
    if content_type is None and not may_be_missing:
        raise RequestError(415, "there is no Content-Type; send Content-Type: application/json")
    if content_type not in (None, JSON):
        is_protobuf = message is not None and _media_type(content_type) == CONTENT_TYPE
        if not (is_protobuf or _is_json(content_type)):
            shown = content_type[:64].decode("ascii", "replace")
            raise RequestError(415, f"content type {shown!r} is not served; send application/json")
    if not is_protobuf and request.header(b"content-encoding") not in (None, b"identity"):
        raise RequestError(415, "encoded bodies are not served; send it without Content-Encoding")
    return is_protobuf


def _media_type(content_type: bytes) -> bytes:
    return content_type.partition(b";")[0].strip().lower()


def _is_json(content_type: bytes) -> bool:
    media_type, _, parameters = content_type.lower().partition(b";")
    charset = parameters.strip().removeprefix(b"charset=").strip(b'"')
    return media_type.strip() == JSON and charset in (b"", b"utf-8")
