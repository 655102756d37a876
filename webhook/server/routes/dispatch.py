"""Dispatches requests: reviews and public documents here, everything else in Flask on its threads.

Invariants:

1. A path that is not in the table of public routes is answered only to a caller with an identity.
2. Nothing that blocks runs on the event loop.
3. What a page of another site makes a browser send changes nothing.
"""

from typing import Final, NamedTuple

from webhook.kube.protobuf import Message, json_of
from webhook.rbac.errors import TooManyRequestsError
from webhook.server.flask.late import LateFlask
from webhook.server.request.caller import Callers, require_identity
from webhook.server.request.cross_site import refuse_cross_site
from webhook.server.request.errors import (
    ETCD_PREFIX,
    NOT_FOUND,
    error_response,
    request_error_of,
)
from webhook.server.request.log import RequestLog
from webhook.server.request.message import (
    Answer,
    Caller,
    Later,
    Request,
    RequestError,
    Response,
    Route,
    require_type,
    settled,
    too_long,
)

# Below them there are the checks by name, and nothing else.
_CHECKS: Final = ("/livez/", "/readyz/", "/healthz/")
ANONYMOUS_BODY_BYTES: Final = 16 * 1024
"""What anybody may send, as a name and a password: it is in memory until it is complete."""


class Review(NamedTuple):
    """A route for ``POST``, whose caller needs permission to write ``key`` if that is not empty.

    ``message`` describes the body as a protocol buffer, which becomes JSON before the route sees
    it; without one only JSON is served.
    """

    route: Route
    key: bytes = b""
    message: Message | None = None


class Application:
    """Dispatches by path.

    ``public`` routes need no identity; ``reviews`` do, and Flask has the rest. Bodies of more than
    ``max_body_bytes`` are refused.
    """

    def __init__(
        self,
        public: dict[str, Route],
        reviews: dict[str, Review],
        flask: LateFlask,
        callers: Callers,
        log: RequestLog,
        max_body_bytes: int,
    ) -> None:
        self._public = public
        self._reviews = reviews
        self._flask = flask
        self._callers = callers
        self._log = log
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[tuple[str, str]]:
        """Return the method and the path of everything that is served."""
        here = [("GET", path) for path in self._public] + [("POST", path) for path in self._reviews]
        return here + self._flask.routes()

    def warm_up(self) -> None:
        """Create what was not needed to start; in any thread but the event loop's."""
        self._flask.load()

    def answer(self, request: Request) -> Answer:
        """Answer a request whose body is complete. Neither this nor its coroutine raises."""
        try:
            route: Route | Later[Route] | None = request.route
            # Since the head was admitted, a chunked body may have become too long.
            if route is None or request.length > request.max_length:
                route = self._route(request)
            answer = route(request) if callable(route) else self._answer_later(request, route)
        except Exception as error:
            return self._failed(request, error)
        return answer if isinstance(answer, Response) else self._guarded(request, answer)

    async def _answer_later(self, request: Request, route: Later[Route]) -> Response:
        return await settled((await route)(request))

    async def _guarded(self, request: Request, answer: Later[Response]) -> Response:
        try:
            return await answer
        except Exception as error:
            return self._failed(request, error)

    async def admit(self, request: Request) -> Response | None:
        """Answer a request whose body is not complete if its head decides, else return None.

        ``answer`` is to be called once the body is complete, or this again as soon as a chunked
        body is longer than ``request.max_length``. Never raises.
        """
        try:
            route = self._route(request)
            if not callable(route):
                route = await route
            if request.length > request.max_length:
                return await settled(route(request))
        except Exception as error:
            return self._failed(request, error)
        request.route = route
        return None

    def _failed(self, request: Request, error: Exception) -> Response:
        answer = request_error_of(error)
        if answer.code == 500:
            self._log.crashed(request, error)
        # A flood is logged as one: see RequestLog.over_limit.
        elif not isinstance(error, TooManyRequestsError):
            self._log.answered(request, answer.code, str(answer))
        return error_response(request, answer)

    def _route(self, request: Request) -> Route | Later[Route]:
        if request.headers.of_browser:
            refuse_cross_site(request)  # Invariant 3.
        path = request.path
        if path not in self._reviews:
            public = self._public.get(path)
            if public is not None:
                if request.method not in ("GET", "HEAD"):
                    raise _method_not_allowed(request, "GET", "HEAD")
                return public
            if path.startswith(_CHECKS):
                raise RequestError(404, NOT_FOUND)
            if path.startswith(ETCD_PREFIX):
                return self._etcd_route(request)
        found = self._callers.find(request)
        if found is None or isinstance(found, Caller):
            return self._route_of(request, found)
        return self._route_later(request, found)

    async def _route_later(self, request: Request, found: Later[Caller | None]) -> Route:
        return self._route_of(request, await found)

    async def _etcd_route(self, request: Request) -> Route:
        _require_ascii(request)
        request.max_length = self._max_body_bytes
        # etcd has its own answer for an unknown caller.
        try:
            request.caller = await settled(self._callers.find(request))
        except RequestError:
            request.is_refused = True
        if request.caller is None:
            request.max_length = min(self._max_body_bytes, ANONYMOUS_BODY_BYTES)
        return self._flask

    def _route_of(self, request: Request, found: Caller | None) -> Route:
        caller = request.caller = require_identity(found)  # Invariant 1.
        request.max_length = self._max_body_bytes
        review = self._reviews.get(request.path)
        if review is None:
            _require_ascii(request)
            if request.path.startswith("//"):
                # Flask would take it for the same path with one slash.
                raise RequestError(404, NOT_FOUND)
            return self._flask  # Invariant 2.
        if request.method != "POST":
            raise _method_not_allowed(request, "POST")
        route, key, message = review
        if key:
            self._callers.require(caller, key)
        is_protobuf = not request.headers.of_json and require_type(request, message)
        if request.length > request.max_length:
            raise too_long(request)
        return _from_protobuf(message, route) if is_protobuf and message else route


def _from_protobuf(message: Message, route: Route) -> Route:
    def decoded(request: Request) -> Answer:
        request.body = json_of(request.body, message)
        return route(request)

    return decoded


def _require_ascii(request: Request) -> None:
    if not (request.path.isascii() and request.query.isascii()):
        raise RequestError(400, "the path and query must be ASCII, percent-encoded")


def _method_not_allowed(request: Request, *allowed: str) -> RequestError:
    return RequestError(
        405,
        f"method {request.method[:16]} is not served here; use {' or '.join(allowed)}",
        ((b"allow", ", ".join(allowed).encode("ascii")),),
    )
