"""Dispatches requests: hot routes here, everything else in Flask behind a thread pool.

Invariants:

1. A path that is not in the table of public routes is answered only to a caller with an identity.
2. Nothing that blocks runs on the event loop.
3. What a page of another site makes a browser send changes nothing.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from webhook.errors import LeewayError
from webhook.rbac.errors import TooManyRequestsError
from webhook.server.flask.late import LateFlask
from webhook.server.request.caller import BAD_IDENTITY, CALLER, Callers
from webhook.server.request.cross_site import refuse_cross_site
from webhook.server.request.error_map import ETCD_PREFIX, INTERNAL_ERROR, NOT_FOUND, error_body
from webhook.server.request.http import (
    DisconnectedError,
    Receive,
    RequestError,
    Route,
    Scope,
    Send,
    request_error_of,
    respond,
    respond_error,
)
from webhook.server.request.request_log import REQUEST_ID_HEADER, RequestLog, request_id

# Below them there are the checks by name, and nothing else.
_CHECKS: Final = ("/livez/", "/readyz/", "/healthz/")


class HotRoute(NamedTuple):
    """A route for ``POST`` that needs to be allowed to write ``key``, where there is one.

    ``at_once`` returns the body of a 201 for the body of a request, or None where ``route`` has to
    answer it; it leaves no trace where it returns None or raises.
    """

    route: Route
    key: bytes = b""
    at_once: Callable[[Scope, bytes], bytes | None] | None = None


class Application:
    """Dispatches by path.

    ``public`` routes need no identity; ``hot`` ones do, and Flask has the rest. Bodies of more
    than ``max_body_bytes`` are refused by the routes. ``count_fall_back`` is called for a request
    that ``answer_at_once`` left to ``__call__`` because of an error that nothing should cause.
    """

    def __init__(
        self,
        public: dict[str, Route],
        hot: dict[str, HotRoute],
        flask: LateFlask,
        callers: Callers,
        log: RequestLog,
        max_body_bytes: int,
        count_fall_back: Callable[[], None],
    ) -> None:
        self._public = public
        self._hot = hot
        self._flask = flask
        self._callers = callers
        self._log = log
        self._max_body_bytes = max_body_bytes
        self._count_fall_back = count_fall_back

    def routes(self) -> list[tuple[str, str]]:
        """Return the method and the path of everything that is served."""
        fast = [("GET", path) for path in self._public] + [("POST", path) for path in self._hot]
        return fast + self._flask.routes()

    def warm_up(self) -> None:
        """Make what was not needed to start; in any thread but the event loop's."""
        self._flask.load()

    def answer_at_once(self, scope: Scope, body: bytes) -> bytes | None:
        """Return the body of a 201 for a POST that shows a certificate and no other identity.

        None where that takes waiting, or where the answer is another one: then nothing has
        happened yet, and the request is for ``__call__``.
        """
        hot = self._hot.get(scope["path"])
        if hot is None or hot.at_once is None or len(body) > self._max_body_bytes:
            return None
        try:
            caller = self._callers.of_certificate(scope)
            if caller is None:
                return None
            scope[CALLER] = caller
            self._callers.require(caller, hot.key)
            return hot.at_once(scope, body)
        except (LeewayError, RequestError):
            # It comes up again in ``__call__``, which answers and logs it.
            return None
        except Exception as error:
            self._log.fell_back(scope, error)
            self._count_fall_back()
            return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope of type ``http``."""
        try:
            await self._answer(scope, receive, send)
        except RequestError as error:
            # A flood is logged as one: see RequestLog.over_limit.
            if not isinstance(error.__cause__, TooManyRequestsError):
                self._log.answered(scope, error.code, str(error))
            error.headers = [*error.headers, _request_id_header(scope)]
            await respond_error(send, error, scope)
        except DisconnectedError:
            pass
        except Exception as error:
            self._log.crashed(scope, error)
            headers = [_request_id_header(scope)]
            body = error_body(scope["path"], 500, INTERNAL_ERROR)
            await respond(send, 500, body, headers=headers)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            route = await self._route(scope)
            await route(scope, receive, send)
        except LeewayError as error:
            raise request_error_of(error) from error

    async def _route(self, scope: Scope) -> Route:
        refuse_cross_site(scope)
        path = scope["path"]
        route = self._public.get(path)
        if route is not None:
            _require_method(scope, "GET", "HEAD")
            return route
        if path.startswith(_CHECKS):
            raise RequestError(404, NOT_FOUND)
        if path.startswith(ETCD_PREFIX):
            _require_ascii(scope)
            # etcd answers in its own words whom it does not know.
            try:
                scope[CALLER] = await self._callers.find(scope)
            except RequestError:
                scope[CALLER] = BAD_IDENTITY
            return self._flask
        caller = scope[CALLER] = await self._callers.identify(scope)
        hot = self._hot.get(path)
        if hot is not None:
            _require_method(scope, "POST")
            if hot.key:
                self._callers.require(caller, hot.key)
            return hot.route
        _require_ascii(scope)
        if path.startswith("//"):
            # Flask would take it for the same path with one slash.
            raise RequestError(404, NOT_FOUND)
        return self._flask


def _request_id_header(scope: Scope) -> tuple[bytes, bytes]:
    return REQUEST_ID_HEADER, request_id(scope).encode("ascii")


def _require_ascii(scope: Scope) -> None:
    if not (scope["path"].isascii() and scope["query_string"].isascii()):
        raise RequestError(400, "the path and query must be ASCII, percent-encoded")


def _require_method(scope: Scope, *allowed: str) -> None:
    if scope["method"] not in allowed:
        raise RequestError(
            405,
            f"method {scope['method'][:16]} is not served here; use {' or '.join(allowed)}",
            [(b"allow", ", ".join(allowed).encode("ascii"))],
        )
