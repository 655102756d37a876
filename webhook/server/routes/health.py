"""``/livez``, ``/readyz`` and ``/healthz``, and each of their checks as a path below.

Source: kubernetes ``apiserver/pkg/server/healthz/healthz.go``, parameters and texts. Unlike there,
a failed check gives its reason and is answered with 503, and warnings are listed.
"""

from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import parse_qs

import msgspec

from webhook.server.request.message import Fields, Request, Response, Route

_TEXT: Final = b"text/plain; charset=utf-8"
_HEADERS: Final[Fields] = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)

HealthCheck = tuple[str, Callable[[], str]]
"""A name, and a function that returns what is wrong, or nothing."""


def health_routes(
    name: str, checks: Iterable[HealthCheck], warnings: Iterable[HealthCheck] = ()
) -> dict[str, Route]:
    """Make the route ``/NAME`` and one for each of its checks, ``/NAME/CHECK``.

    The first takes ``?verbose``, with any value, to list its checks, and ``?exclude=CHECK``, any
    number of times, to leave checks out. Warnings are listed too, and do not affect the status.
    """
    checks, warnings = tuple(checks), tuple(warnings)

    def all_checks(request: Request) -> Response:
        query = parse_qs(request.query.decode("latin-1"), keep_blank_values=True)
        excluded = set(query.get("exclude", ()))
        results = [(check, None if check in excluded else run()) for check, run in checks]
        healthy = not any(problem for _, problem in results)
        lines = [_line(check, problem) for check, problem in results]
        unknown = sorted(excluded.difference(check for check, _ in checks))
        if unknown:
            quoted = ",".join(msgspec.json.encode(other).decode("utf-8") for other in unknown)
            lines.append(f"warn: some health checks cannot be excluded: no matches for {quoted}")
        heard = [(warning, run()) for warning, run in warnings]
        lines += [f"[!]{warning} warning: {text}" for warning, text in heard if text]
        lines.append(f"{name} check {'passed' if healthy else 'failed'}")
        is_listed = not healthy or "verbose" in query
        return _response("\n".join(lines) + "\n" if is_listed else "ok", healthy=healthy)

    def one_check(run: Callable[[], str]) -> Route:
        def route(_request: Request) -> Response:
            problem = run()
            text = f"internal server error: {problem}\n" if problem else "ok"
            return _response(text, healthy=not problem)

        return route

    return {f"/{name}": all_checks} | {f"/{name}/{check}": one_check(run) for check, run in checks}


def _line(check: str, problem: str | None) -> str:
    if problem is None:
        return f"[+]{check} excluded: ok"
    return f"[-]{check} failed: {problem}" if problem else f"[+]{check} ok"


def _response(text: str, *, healthy: bool) -> Response:
    body = text.encode("utf-8", "backslashreplace")
    return Response(200 if healthy else 503, body, _TEXT, _HEADERS)
