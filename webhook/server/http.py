"""What every ASGI route needs: reading a body within its limit, and answering."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from webhook.server.error_map import JSON, status_body

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Route = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]


class RequestError(Exception):
    """A request that is answered with a ``Status`` before it is understood."""

    def __init__(self, code: int, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.code = code
        self.headers = headers


class DisconnectedError(Exception):
    """The client left, or did not send its body in time: there is nobody to answer."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the value of a header, or None. ``name`` is in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


async def read_json_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """Return the body of a JSON request.

    Raises RequestError 415 for another content type, 413 as soon as the body is known to be
    longer than ``max_bytes``.
    """
    content_type = header(scope, b"content-type")
    if content_type is not None and not _is_json(content_type):
        shown = content_type[:64].decode("ascii", "replace")
        raise RequestError(415, f"content type {shown!r} is not served; send application/json")
    if header(scope, b"content-encoding") not in (None, b"identity"):
        raise RequestError(415, "encoded bodies are not served; send it without Content-Encoding")
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


async def respond_error(send: Send, error: RequestError, method: str) -> None:
    """Answer with a ``Status``."""
    body = status_body(error.code, str(error))
    await respond(send, error.code, body, headers=error.headers, method=method)
