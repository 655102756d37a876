"""The routes that are not hot. The ASGI front lets only callers with an identity in."""

from collections.abc import Callable

import msgspec
from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from webhook.metrics import CONTENT_TYPE, Metrics
from webhook.server.error_map import REASONS, status_body
from webhook.server.routes import api_discovery, openapi_v2


def create_flask_app(metrics: Metrics) -> Flask:
    """Make the Flask application."""
    app = Flask("webhook", static_folder=None)
    app.register_error_handler(HTTPException, _http_error)

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


def _json(value: object) -> Response:
    if value is None:
        return Response(status_body(404, _NOT_FOUND), 404, content_type="application/json")
    return Response(msgspec.json.encode(value), content_type="application/json")


_NOT_FOUND = "the server could not find the requested resource"


def _http_error(error: HTTPException) -> Response:
    code = error.code if error.code in REASONS else 500
    message = _NOT_FOUND if code == 404 else f"{error.name}: {error.description}"
    response = Response(status_body(code, message), code, content_type="application/json")
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response
