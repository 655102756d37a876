"""The routes that are not hot.

The ASGI front lets only callers with an identity in, and leaves their name in the scope; under
``/v3`` everybody comes in, and etcd's rules and answers hold.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from webhook.data_dir import ACCESS_REVIEWS_KEY
from webhook.errors import LeewayError
from webhook.metrics import CONTENT_TYPE, Metrics
from webhook.range_reviews import parse_range_review, render_range_review
from webhook.rbac.access import explain_access
from webhook.rbac.errors import UserEmptyError
from webhook.server.caller import (
    CALLER,
    Callers,
    authorization_token,
    certificate_user,
)
from webhook.server.error_map import REASONS, code_of, grpc_body, status_body
from webhook.server.http import RequestError
from webhook.server.routes import api_discovery, openapi_v2
from webhook.server.routes.auth_api import AuthAPI

_AUTHENTICATE = "authenticate"


def create_flask_app(metrics: Metrics, auth: AuthAPI, callers: Callers) -> Flask:
    """Make the Flask application."""
    app = Flask("webhook", static_folder=None)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(RequestError, _request_error)

    @app.post("/v3/auth/<path:name>")
    def call_auth(name: str) -> Response:
        return _call_auth(auth, name)

    @app.post("/apis/leeway.dev/v1/rangeaccessreviews")
    def review_range() -> Response:
        return _review_range(auth, callers)

    @app.get("/metrics")
    def show_metrics() -> Response:
        return Response(metrics.render(), content_type=CONTENT_TYPE)

    @app.get("/openapi/v2")
    def show_openapi_v2() -> Response:
        return Response(openapi_v2.document(), content_type=openapi_v2.CONTENT_TYPE)

    for rule, view in _discovery_views().items():
        app.add_url_rule(rule, rule, view, methods=["GET"])
    return app


def _discovery_views() -> dict[str, Callable[..., Response]]:
    return {
        "/api": lambda: _json(api_discovery.core_versions()),
        "/api/v1": lambda: _json(api_discovery.resource_list("", "v1")),
        "/apis": lambda: _json(api_discovery.group_list()),
        "/apis/<name>": lambda name: _json(api_discovery.group(name)),
        "/apis/<name>/<version>": lambda name, version: _json(
            api_discovery.resource_list(name, version)
        ),
        "/openapi/v3": lambda: _json(api_discovery.openapi_index()),
        "/openapi/v3/apis/<name>/<version>": lambda name, version: _json(
            api_discovery.openapi_document(name, version)
        ),
    }


def _call_auth(auth: AuthAPI, name: str) -> Response:
    try:
        auth.store.refresh()
        body = auth.call(name, _auth_caller(auth, name), request.get_data())
    except LeewayError as error:
        response = Response(grpc_body(error), code_of(error), content_type="application/json")
        if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            response.headers["Retry-After"] = "1"
        return response
    if body is None:
        body = msgspec.json.encode({"code": 5, "message": "Not Found"})
        return Response(body, 404, content_type="application/json")
    return Response(body, content_type="application/json")


def _auth_caller(auth: AuthAPI, name: str) -> str:
    scope: Any = request.environ["asgi.scope"]
    now = auth.clock()
    user = certificate_user(scope, now)
    token = authorization_token(scope)
    if not user and token and auth.store.enabled and name != _AUTHENTICATE:
        user = auth.tokens.resolve(token, now)
    if not user and name != _AUTHENTICATE:
        raise UserEmptyError
    return user


def _review_range(auth: AuthAPI, callers: Callers) -> Response:
    callers.require(request.environ["asgi.scope"][CALLER], ACCESS_REVIEWS_KEY)
    try:
        asked = parse_range_review(request.get_data())
    except LeewayError as error:
        raise RequestError(code_of(error), str(error)) from error
    revision = auth.store.revision
    access = explain_access(auth.store, asked.spec.user, asked.spec.groups, asked.kind, asked.span)
    body = render_range_review(asked, access.roles, access.uncovered, revision)
    return Response(body, 201, content_type="application/json")


def _json(value: object) -> Response:
    if value is None:
        return Response(status_body(404, _NOT_FOUND), 404, content_type="application/json")
    return Response(msgspec.json.encode(value), content_type="application/json")


_NOT_FOUND = "the server could not find the requested resource"


def _request_error(error: RequestError) -> Response:
    body = status_body(error.code, str(error))
    response = Response(body, error.code, content_type="application/json")
    for name, value in error.headers:
        response.headers[name.decode("ascii")] = value.decode("ascii")
    return response


def _http_error(error: HTTPException) -> Response:
    code = error.code if error.code in REASONS else 500
    message = _NOT_FOUND if code == 404 else f"{error.name}: {error.description}"
    response = Response(status_body(code, message), code, content_type="application/json")
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response
