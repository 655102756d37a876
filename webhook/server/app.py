"""The ASGI application: hot routes here, everything else in Flask behind a thread pool.

Invariants:

1. A path that is not in the table of public routes is answered only to a caller with an identity.
2. Nothing that blocks runs on the event loop.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from time import time
from typing import Any, Final, cast

from a2wsgi import WSGIMiddleware

from keys.errors import KeyScheduleError
from keys.jwk import jwks_document
from keys.keyring import Keyring
from webhook import discovery
from webhook.assembly import authenticator_of, keyring_of
from webhook.config import Configuration
from webhook.metrics import Metrics
from webhook.reviews import AUTHENTICATION_GROUP, AUTHENTICATION_VERSIONS
from webhook.server.caller import caller
from webhook.server.error_map import status_body
from webhook.server.flask_app import create_flask_app
from webhook.server.http import (
    DisconnectedError,
    Receive,
    RequestError,
    Route,
    Scope,
    Send,
    respond,
    respond_error,
)
from webhook.server.routes.documents import HealthCheck, document_route, health_route, version_body
from webhook.server.routes.token_reviews import token_review_route

FLASK_THREADS: Final = 8
_logger = logging.getLogger("leeway")


class Application:
    """Dispatches by path: ``public`` routes need no identity, ``hot`` ones and Flask do."""

    def __init__(
        self,
        public: dict[str, Route],
        hot: dict[str, Route],
        flask: Route,
        clock: Callable[[], float],
    ) -> None:
        self._public = public
        self._hot = hot
        self._flask = flask
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        kind = scope["type"]
        if kind == "lifespan":
            await _lifespan(receive, send)
        elif kind == "http":
            await self._serve(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._route(scope)(scope, receive, send)
        except RequestError as error:
            await respond_error(send, error, scope["method"])
        except DisconnectedError:
            pass
        except Exception:
            _logger.exception("a request failed")
            message = "an internal error occurred; it is in the server's log"
            await respond(send, 500, status_body(500, message))

    def _route(self, scope: Scope) -> Route:
        path = scope["path"]
        route = self._public.get(path)
        if route is not None:
            _require_method(scope, "GET", "HEAD")
            return route
        caller(scope, self._clock())
        route = self._hot.get(path)
        if route is not None:
            _require_method(scope, "POST")
            return route
        if not (path.isascii() and scope["query_string"].isascii()):
            raise RequestError(400, "the path and query must be ASCII, percent-encoded")
        return self._flask


def create_app(data_dir: Path, configuration: Configuration) -> Application:
    """Build the application of one worker from its data directory.

    Raises the errors of ``webhook.assembly`` where the directory cannot be served.
    """
    keyring = keyring_of(data_dir)
    authenticator = authenticator_of(data_dir, configuration, keyring)
    metrics = Metrics()
    limit = configuration.server.max_body_bytes
    hot = {
        f"/apis/{AUTHENTICATION_GROUP}/{version}/tokenreviews": token_review_route(
            version, authenticator, metrics, time, limit
        )
        for version in AUTHENTICATION_VERSIONS
    }
    flask = create_flask_app(metrics)
    flask.config["MAX_CONTENT_LENGTH"] = limit
    # a2wsgi has its own names for the types of PEP 3333 and of ASGI.
    mounted = cast(Route, WSGIMiddleware(cast(Any, flask.wsgi_app), workers=FLASK_THREADS))
    return Application(_public_routes(configuration, keyring), hot, mounted, time)


def _public_routes(configuration: Configuration, keyring: Keyring) -> dict[str, Route]:
    published = keyring.published_keys()
    max_age = discovery.MAX_AGE_SECONDS
    issuer, jwks_uri = configuration.issuer, configuration.jwks_uri
    openid = discovery.openid_configuration(issuer, jwks_uri, published)
    checks: list[HealthCheck] = [("ping", lambda: "")]
    ready = [*checks, ("signing-key", lambda: _signing_problem(keyring))]
    version = document_route(version_body(), "application/json")
    return {
        discovery.CONFIGURATION_PATH: document_route(openid, "application/json", max_age=max_age),
        discovery.JWKS_PATH: document_route(
            jwks_document(published), discovery.JWKS_CONTENT_TYPE, max_age=max_age
        ),
        "/version": version,
        "/version/": version,
        "/livez": health_route("livez", checks),
        "/readyz": health_route("readyz", ready),
        "/healthz": health_route("healthz", ready),
    }


def _signing_problem(keyring: Keyring) -> str:
    try:
        keyring.signing_key()
    except KeyScheduleError as error:
        return str(error)
    return ""


def _require_method(scope: Scope, *allowed: str) -> None:
    if scope["method"] not in allowed:
        raise RequestError(
            405,
            f"method {scope['method'][:16]} is not served here; use {' or '.join(allowed)}",
            [(b"allow", ", ".join(allowed).encode("ascii"))],
        )


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
