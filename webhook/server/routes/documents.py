"""Responses that are the same for everybody: discovery, JWKS and version."""

from collections.abc import Callable
from platform import machine, python_implementation, system

import msgspec

from webhook.server.request.message import Request, Response, Route
from webhook.version import COMMIT, VERSION


def version_body() -> bytes:
    """Render ``GET /version`` as ``apimachinery/pkg/version.Info``, which clients require."""
    major, minor, *_ = VERSION.split(".")
    members = {
        "major": major,
        "minor": minor,
        "gitVersion": f"v{VERSION}",
        "gitCommit": COMMIT,
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": python_implementation(),
        "platform": f"{system()}/{machine()}".lower(),
    }
    return msgspec.json.encode(members)


def document_route(
    body: bytes,
    content_type: str,
    *,
    max_age: int = 0,
    require: Callable[[], None] = lambda: None,
) -> Route:
    """Make the route of a document that caches may keep for ``max_age`` seconds.

    ``require`` raises an error while it must not be published.
    """
    control = f"public, max-age={max_age}" if max_age else "no-store"
    headers = ((b"cache-control", control.encode("ascii")),)
    response = Response(200, body, content_type.encode("ascii"), headers)

    def route(_request: Request) -> Response:
        require()
        return response

    return route
