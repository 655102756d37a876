"""What every ASGI route needs: reading a body within its limit, and answering."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final

from webhook.errors import InvalidObjectError, LeewayError
from webhook.kube.protobuf import CONTENT_TYPE, Message, json_of
from webhook.server.request.error_map import JSON, code_of, error_body, invalid_details

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Route = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]
BODY: Final = "leeway.body"
"""The key of the ASGI scope that has the body for Flask, or the RequestError to raise for it."""


class RequestError(Exception):
    """A request that is answered with a ``Status`` before it is understood."""

    def __init__(
        self,
        code: int,
        message: str,
        headers: Headers = (),
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.headers = headers
        self.details = details


def request_error_of(error: LeewayError) -> RequestError:
    """Return what an error is answered with; one that no request should cause is raised again."""
    code = code_of(error)
    if code == 500:
        raise error
    details = invalid_details(error) if isinstance(error, InvalidObjectError) else None
    headers: Headers = [(b"retry-after", b"1")] if code == 503 else ()
    return RequestError(code, str(error), headers, details)


class DisconnectedError(Exception):
    """The client left, or did not send its body in time: there is nobody to answer."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the value of a header, or None. ``name`` is in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


async def read_json_body(
    scope: Scope, receive: Receive, max_bytes: int, message: Message | None = None
) -> bytes:
    """Return the body of a JSON request, or what a protocol buffer of type ``message`` stands for.

    Raises RequestError 415 for another content type, 413 as soon as the body is known to be
    longer than ``max_bytes``, and InvalidReviewError for a broken protocol buffer.
    """
    if message is not None and is_protobuf(scope):
        return json_of(await read_body(scope, receive, max_bytes), message)
    require_json(scope)
    return await read_body(scope, receive, max_bytes)


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """Return a whole body.

    Raises RequestError 413 as soon as it is known to be longer than ``max_bytes``, and
    DisconnectedError where the client does not send all of it.
    """
    length = header(scope, b"content-length")
    if length is not None and int(length) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > max_bytes:
            raise _too_large(max_bytes)
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def require_json(scope: Scope, *, may_be_missing: bool = True) -> None:
    """Let requests through whose body is JSON as it is. Raises RequestError 415.

    Kubernetes takes a body without ``Content-Type`` for JSON. A page of any site can have a browser
    send one, as it can send what forms send.
    """
    content_type = header(scope, b"content-type")
    if content_type is None and not may_be_missing:
        raise RequestError(415, "there is no Content-Type; send Content-Type: application/json")
    if content_type not in (None, JSON) and not _is_json(content_type):
        shown = content_type[:64].decode("ascii", "replace")
        raise RequestError(415, f"content type {shown!r} is not served; send application/json")
    if header(scope, b"content-encoding") not in (None, b"identity"):
        raise RequestError(415, "encoded bodies are not served; send it without Content-Encoding")


def is_protobuf(scope: Scope) -> bool:
    """Return whether the body is said to be a Kubernetes protocol buffer."""
    content_type = header(scope, b"content-type")
    if content_type is None or content_type == JSON:
        return False
    return content_type.partition(b";")[0].strip().lower() == CONTENT_TYPE


def _is_json(content_type: bytes) -> bool:
    media_type, _, parameters = content_type.lower().partition(b";")
    charset = parameters.strip().removeprefix(b"charset=").strip(b'"')
    return media_type.strip() == JSON and charset in (b"", b"utf-8")


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(413, f"the request body is too large; at most {max_bytes} bytes are served")


async def respond(
    send: Send,
    code: int,
    body: bytes,
    content_type: bytes = JSON,
    headers: Headers = (),
    method: str = "",
) -> None:
    """Send a whole answer; to HEAD all of it but the body."""
    length = str(len(body)).encode("ascii")
    await send(
        {
            "type": "http.response.start",
            "status": code,
            "headers": [
                (b"content-type", content_type),
                (b"content-length", length),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})


async def respond_error(send: Send, error: RequestError, scope: Scope) -> None:
    """Answer with an error."""
    body = error_body(scope["path"], error.code, str(error), error.details)
    await respond(send, error.code, body, headers=error.headers, method=scope["method"])
