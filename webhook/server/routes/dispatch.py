"""Dispatches requests: reviews and public documents here, everything else in Flask on its threads.

Invariants:

1. A path that is not in the table of public routes is answered only to a caller with an identity.
2. Nothing that blocks runs on the event loop.
3. What a page of another site makes a browser send changes nothing.
4. An answer that rests on the store rests on one basis, which is taken when the request is here
   completely. Before its first trace (a count, a log line, the answer itself) it is confirmed that
   the basis still holds; otherwise everything is decided again, the caller included.
"""

from typing import Final, NamedTuple

from webhook.kube.protobuf import Message, json_of
from webhook.rbac.errors import StoreUnavailableError, TooManyRequestsError
from webhook.rbac.records import BasisLostError
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
MAX_ATTEMPTS: Final = 3
"""How often a request is decided before it is refused."""
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
        while True:
            try:
                route = self._route(request)
                answer = route(request) if callable(route) else self._answer_later(request, route)
                if isinstance(answer, Response):
                    if request.basis is not None:
                        self._callers.confirm(request)
                    return answer
                request.has_waited = True
                return self._guarded(request, answer)
            except Exception as error:
                refusal = self._failed(request, error)
            if refusal is not None:
                return refusal

    async def _answer_later(self, request: Request, route: Later[Route]) -> Response:
        return await settled((await route)(request))

    async def _guarded(self, request: Request, answer: Later[Response]) -> Response:
        try:
            response = await answer
            self._callers.confirm(request)
            return response
        except Exception as error:
            refusal = self._failed(request, error)
        return await settled(self.answer(request)) if refusal is None else refusal

    async def admit(self, request: Request) -> Response | None:
        """Answer a request whose body is not complete if its head decides, else return None.

        ``answer`` is to be called once the body is complete, or this again as soon as a chunked
        body is longer than ``request.max_length``. What the head does not refuse is not decided by
        it: the body may take seconds, so that the caller is identified again (invariant 4). Never
        raises.
        """
        request.has_waited = True
        while True:
            refusal = None
            try:
                route = self._route(request)
                if not callable(route):
                    route = await route
                if request.length > request.max_length:
                    refusal = await settled(route(request))
                    self._callers.confirm(request)
                _forget(request)
                request.attempts = 0
                return refusal
            except Exception as error:
                refusal = self._failed(request, error)
            if refusal is not None:
                return refusal

    def _failed(self, request: Request, error: Exception) -> Response | None:
        """Return the response to an error, or None if the request has to be decided again."""
        try:
            self._callers.confirm(request)  # Invariant 4: to refuse something is to decide, too.
        except BasisLostError as lost:
            error = lost
        if isinstance(error, BasisLostError):
            _forget(request)
            request.attempts += 1
            if request.attempts < MAX_ATTEMPTS:
                return None
            error = StoreUnavailableError(
                "the store has changed each time before this request was answered; try again"
            )
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
        request.caller = require_identity(found)  # Invariant 1.
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
            self._callers.require(request, key)
        is_protobuf = not request.headers.of_json and require_type(request, message)
        if request.length > request.max_length:
            raise too_long(request)
        return _from_protobuf(message, route) if is_protobuf and message else route


def _from_protobuf(message: Message, route: Route) -> Route:
    def decoded(request: Request) -> Answer:
        sent, request.body = request.body, json_of(request.body, message)
        try:
            return route(request)
        finally:
            request.body = sent  # It may be decided again.

    return decoded


def _forget(request: Request) -> None:
    request.basis = request.caller = None
    request.is_refused = request.has_waited = False


def _require_ascii(request: Request) -> None:
    if not (request.path.isascii() and request.query.isascii()):
        raise RequestError(400, "the path and query must be ASCII, percent-encoded")


def _method_not_allowed(request: Request, *allowed: str) -> RequestError:
    return RequestError(
        405,
        f"method {request.method[:16]} is not served here; use {' or '.join(allowed)}",
        ((b"allow", ", ".join(allowed).encode("ascii")),),
    )
