"""The ASGI application: hot routes here, everything else in Flask behind a thread pool.

Invariants:

1. A path that is not in the table of public routes is answered only to a caller with an identity.
2. Nothing that blocks runs on the event loop.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import time
from typing import Any, Final, cast

from a2wsgi import WSGIMiddleware
from flask import Flask

from keys.errors import KeyScheduleError
from keys.jwk import jwks_document
from keys.keyring import Keyring
from webhook import discovery
from webhook.assembly import authenticator_of, keyring_of, store_of
from webhook.config import Configuration
from webhook.data_dir import TOKEN_REVIEWS_KEY
from webhook.metrics import Metrics
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreUnavailableError
from webhook.rbac.passwords import Passwords
from webhook.rbac.tokens import JWTTokens, NopTokens, SimpleTokens, TokenProvider
from webhook.reviews import AUTHENTICATION_GROUP, AUTHENTICATION_VERSIONS
from webhook.server.caller import CALLER, Callers
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
from webhook.server.routes.auth_api import AuthAPI
from webhook.server.routes.documents import HealthCheck, document_route, health_route, version_body
from webhook.server.routes.token_reviews import token_review_route

FLASK_THREADS: Final = 8
_ETCD_PREFIX: Final = "/v3/"
_logger = logging.getLogger("leeway")


class Application:
    """Dispatches by path.

    ``public`` routes need no identity; ``hot`` ones need to be allowed to write the key beside
    them; Flask has the rest.
    """

    def __init__(
        self,
        public: dict[str, Route],
        hot: dict[str, tuple[Route, bytes]],
        flask: Route,
        callers: Callers,
        store: AuthStore,
    ) -> None:
        self.store = store
        self._public = public
        self._hot = hot
        self._flask = flask
        self._callers = callers

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
        if path.startswith(_ETCD_PREFIX):
            _require_ascii(scope)
            return self._flask
        user = self._callers.identify(scope)
        hot = self._hot.get(path)
        if hot is not None:
            _require_method(scope, "POST")
            self._callers.require(user, hot[1])
            return hot[0]
        _require_ascii(scope)
        scope[CALLER] = user
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
        f"/apis/{AUTHENTICATION_GROUP}/{version}/tokenreviews": (
            token_review_route(version, authenticator, metrics, time, limit),
            TOKEN_REVIEWS_KEY,
        )
        for version in AUTHENTICATION_VERSIONS
    }
    store = store_of(data_dir, configuration)
    tokens = _token_provider(configuration, store, keyring)
    callers = Callers(store, tokens, time)
    auth = AuthAPI(store, Passwords(configuration.auth.bcrypt_cost), tokens, time)
    flask = create_flask_app(metrics, auth, callers)
    flask.config["MAX_CONTENT_LENGTH"] = limit
    return Application(_public_routes(configuration, keyring), hot, _mounted(flask), callers, store)


def _mounted(flask: Flask) -> Route:
    def application(environ: Any, start_response: Any) -> Any:
        # The server has taken the body apart already, chunked or not.
        environ["wsgi.input_terminated"] = True
        return flask.wsgi_app(environ, start_response)

    # a2wsgi has its own names for the types of PEP 3333 and of ASGI.
    return cast(Route, WSGIMiddleware(application, workers=FLASK_THREADS))


def _token_provider(
    configuration: Configuration, store: AuthStore, keyring: Keyring
) -> TokenProvider:
    ttl = configuration.auth.auth_token_ttl
    if configuration.auth.token_provider == "jwt":
        return JWTTokens(store, keyring, ttl)
    if configuration.auth.token_provider == "none":
        return NopTokens()
    writer = ThreadPoolExecutor(1, "leeway-token-uses")
    return SimpleTokens(store, ttl, lambda write: writer.submit(_write_use, write))


def _write_use(write: Callable[[], None]) -> None:
    try:
        write()
    except StoreUnavailableError as error:
        _logger.warning("the use of an auth token was not written down: %s", error)


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


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
