"""Answers that are the same bytes for everybody: discovery, JWKS and health."""

from collections.abc import Callable, Iterable
from platform import machine, python_implementation, system
from typing import Final

import msgspec

from webhook.server.http import Headers, Receive, Route, Scope, Send, respond
from webhook.version import COMMIT, VERSION

_TEXT: Final = b"text/plain; charset=utf-8"

HealthCheck = tuple[str, Callable[[], str]]
"""A name, and a function that returns what is wrong, or nothing."""


def version_body() -> bytes:
    """Render ``GET /version`` as ``apimachinery/pkg/version.Info``, which clients insist on."""
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


def document_route(body: bytes, content_type: str, *, max_age: int = 0) -> Route:
    """Make the route of a document that caches may keep for ``max_age`` seconds."""
    control = f"public, max-age={max_age}" if max_age else "no-store"
    headers: Headers = [(b"cache-control", control.encode("ascii"))]
    kind = content_type.encode("ascii")

    async def route(scope: Scope, _receive: Receive, send: Send) -> None:
        await respond(send, 200, body, kind, headers, method=scope["method"])

    return route


def health_route(
    name: str, checks: Iterable[HealthCheck], warnings: Iterable[HealthCheck] = ()
) -> Route:
    """Make a health route; ``?verbose``, with any value, lists its checks as kube-apiserver does.

    Of ``warnings`` those that have something to say are listed too, and decide nothing.
    """
    checks, warnings = tuple(checks), tuple(warnings)

    async def route(scope: Scope, _receive: Receive, send: Send) -> None:
        results = [(check, run()) for check, run in checks]
        healthy = not any(problem for _, problem in results)
        lines = [
            f"[-]{check} failed: {problem}" if problem else f"[+]{check} ok"
            for check, problem in results
        ]
        heard = [(warning, run()) for warning, run in warnings]
        lines += [f"[!]{warning} warning: {text}" for warning, text in heard if text]
        lines.append(f"{name} check {'passed' if healthy else 'failed'}")
        asked = [part.partition(b"=")[0] for part in scope["query_string"].split(b"&")]
        verbose = not healthy or b"verbose" in asked
        body = "\n".join(lines) + "\n" if verbose else "ok"
        code = 200 if healthy else 503
        await respond(send, code, body.encode("utf-8"), _TEXT, method=scope["method"])

    return route
