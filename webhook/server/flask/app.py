"""The routes that are not hot.

The ASGI front lets only callers with an identity in, and leaves their name in the scope; under
``/v3`` everybody comes in, and etcd's rules and answers hold.
"""

from collections.abc import Callable
from http import HTTPStatus
from time import time
from typing import Any

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from webhook.errors import InvalidReviewError, LeewayError
from webhook.kube import rules_review as rules_reviews
from webhook.kube.access_review import AUTHORIZATION_GROUP
from webhook.kube.protobuf import json_of
from webhook.kube.request_keys import SKEW_KEY
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import InvalidAuthTokenError, UserEmptyError
from webhook.rbac.model import PermissionType
from webhook.server.flask import api_discovery, openapi_v2
from webhook.server.flask.auth_api import AuthAPI, call_names
from webhook.server.flask.token_requests import TokenRequests
from webhook.server.request.caller import CALLER, NOBODY, Caller, Callers
from webhook.server.request.error_map import (
    INTERNAL_ERROR,
    NOT_FOUND,
    REASONS,
    code_of,
    error_body,
    grpc_body,
    status_body,
)
from webhook.server.request.http import BODY, RequestError, is_protobuf, require_json
from webhook.server.request.request_log import REQUEST_ID_HEADER, RequestLog, request_id
from webhook.skew.report import SKEW_PATH, report_of
from webhook.skew.snapshots import SkewFiles
from webhook.telemetry.audit import Audit
from webhook.telemetry.metrics import CONTENT_TYPE, Metrics

_AUTHENTICATE = "authenticate"
_AUTH_NAME = "<path:name>"
_AUTH_RULE = f"/v3/auth/{_AUTH_NAME}"
_RULES_PATH = f"/apis/{AUTHORIZATION_GROUP}/v1/selfsubjectrulesreviews"


class _App(Flask):
    def __init__(self, log: RequestLog) -> None:
        super().__init__("webhook", static_folder=None)
        self.log = log

    def log_exception(self, exc_info: Any) -> None:
        """Log what no request should cause."""
        self.log.crashed(_scope(), exc_info[1])


def create_flask_app(
    metrics: Metrics,
    auth: AuthAPI,
    callers: Callers,
    token_requests: TokenRequests,
    skew: SkewFiles,
    log: RequestLog,
) -> Flask:
    """Make the Flask application."""
    app = _App(log)
    app.url_map.merge_slashes = False
    # OPTIONS is a method like any other that a route does not have: nothing answers it unasked.
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(RequestError, _request_error)

    @app.after_request
    def log_error(response: Response) -> Response:
        return _log_error(log, response)

    @app.post(_AUTH_RULE)
    def call_auth(name: str) -> Response:
        return _call_auth(auth, name, log)

    def create_token(namespace: str, name: str) -> Response:
        return _create_token(token_requests, namespace, name, log.audit_of(_scope()))

    app.add_url_rule(
        "/api/v1/namespaces/<namespace>/serviceaccounts/<name>/token",
        view_func=create_token,
        methods=["POST"],
    )

    @app.post(_RULES_PATH)
    def review_rules() -> Response:
        return _review_rules(auth.store)

    @app.get("/metrics")
    def show_metrics() -> Response:
        return Response(metrics.render(), content_type=CONTENT_TYPE)

    @app.get(SKEW_PATH)
    def show_skew() -> Response:
        callers.require(_scope()[CALLER], SKEW_KEY, PermissionType.READ)
        return _json(report_of(skew.estimates(), time()))

    @app.get("/openapi/v2")
    def show_openapi_v2() -> Response:
        return Response(openapi_v2.document(), content_type=openapi_v2.CONTENT_TYPE)

    for rule, view in _discovery_views().items():
        app.add_url_rule(rule, rule, view, methods=["GET"])
        if rule.startswith("/api"):
            # The kubernetes client of Python asks with a slash at the end.
            app.add_url_rule(f"{rule}/", f"{rule}/", view, methods=["GET"])
    return app


def routes_of(app: Flask) -> list[tuple[str, str]]:
    """Return the method and the path of every route, etcd's calls one by one."""
    found: list[tuple[str, str]] = []
    for rule in app.url_map.iter_rules():
        methods = sorted((rule.methods or set()) - {"HEAD"})
        names = call_names() if rule.rule == _AUTH_RULE else ("",)
        paths = [rule.rule.replace(_AUTH_NAME, name) for name in names]
        found += [(method, path) for method in methods for path in paths]
    return found


def _discovery_views() -> dict[str, Callable[..., Response]]:
    return {
        "/api": lambda: _json(api_discovery.core_versions()),
        "/api/v1": lambda: _json(api_discovery.resource_list("", "v1")),
        "/apis": lambda: _json(api_discovery.group_list()),
        "/apis/<name>": lambda name: _json(api_discovery.group(name)),
        "/apis/<name>/<version>": lambda name, version: _json(
            api_discovery.resource_list(name, version)
        ),
        "/openapi/v3/api/<version>": lambda version: _json(
            api_discovery.openapi_document("", version)
        ),
        "/openapi/v3": lambda: _json(api_discovery.openapi_index()),
        "/openapi/v3/apis/<name>/<version>": lambda name, version: _json(
            api_discovery.openapi_document(name, version)
        ),
    }


def _call_auth(auth: AuthAPI, name: str, log: RequestLog) -> Response:
    if name in call_names():
        require_json(_scope(), may_be_missing=False)
    try:
        body = auth.call(name, _etcd_caller(name), _body(), log.audit_of(_scope()))
    except LeewayError as error:
        code = code_of(error)
        if code == HTTPStatus.INTERNAL_SERVER_ERROR:
            log.crashed(_scope(), error)
            error = LeewayError(INTERNAL_ERROR)
        response = Response(grpc_body(error), code, content_type="application/json")
        if code == HTTPStatus.SERVICE_UNAVAILABLE:
            response.headers["Retry-After"] = "1"
        return response
    if body is None:
        body = msgspec.json.encode({"code": 5, "message": "Not Found"})
        return Response(body, 404, content_type="application/json")
    return Response(body, content_type="application/json")


def _etcd_caller(name: str) -> Caller:
    caller: Caller | str | None = _scope()[CALLER]
    if name == _AUTHENTICATE:
        return NOBODY
    if caller is None:
        raise UserEmptyError
    if isinstance(caller, str):
        raise InvalidAuthTokenError
    return caller


def _scope() -> Any:
    return request.environ["asgi.scope"]


def _body() -> bytes:
    body: bytes | RequestError = _scope()[BODY]
    if isinstance(body, RequestError):
        raise body
    return body


def _create_token(
    token_requests: TokenRequests, namespace: str, name: str, audit: Audit
) -> Response:
    token_requests.authorize(_scope()[CALLER], namespace, name)
    protobuf = is_protobuf(_scope())
    if not protobuf:
        require_json(_scope())
    data = _body()
    body, warnings = token_requests.create(namespace, name, data, audit, protobuf=protobuf)
    response = Response(body, 201, content_type="application/json")
    # What is in it opens doors, so no cache on the way may keep it.
    response.headers["Cache-Control"] = "no-store"
    for warning in warnings:
        quoted = warning.replace('"', '\\"')
        response.headers.add("Warning", f'299 - "{quoted}"')
    return response


def _review_rules(store: AuthStore) -> Response:
    protobuf = is_protobuf(_scope())
    if not protobuf:
        require_json(_scope())
    body, caller = _body(), _scope()[CALLER]
    try:
        if protobuf:
            body = json_of(body, rules_reviews.MESSAGE)
        namespace = rules_reviews.parse_rules_review(body)
    except InvalidReviewError as error:
        raise RequestError(400, str(error)) from error
    rules = rules_reviews.rules_of(store, caller.username, caller.groups, namespace)
    answer = rules_reviews.render_rules_review(rules)
    return Response(answer, 201, content_type="application/json")


def _log_error(log: RequestLog, response: Response) -> Response:
    code = response.status_code
    if code >= HTTPStatus.BAD_REQUEST:
        response.headers[REQUEST_ID_HEADER.decode("ascii")] = request_id(_scope())
        if code != HTTPStatus.INTERNAL_SERVER_ERROR:
            # Status and etcd's errors alike say why in a member of that name. A crash has a line.
            log.answered(_scope(), code, msgspec.json.decode(response.data)["message"])
    return response


def _json(value: object) -> Response:
    if value is None:
        return Response(status_body(404, NOT_FOUND), 404, content_type="application/json")
    return Response(msgspec.json.encode(value), content_type="application/json")


def _request_error(error: RequestError) -> Response:
    body = error_body(request.path, error.code, str(error), error.details)
    response = Response(body, error.code, content_type="application/json")
    for name, value in error.headers:
        response.headers[name.decode("ascii")] = value.decode("ascii")
    return response


def _http_error(error: HTTPException) -> Response:
    code = error.code if error.code in REASONS else 500
    message = NOT_FOUND if code == 404 else f"{error.name}: {error.description}"
    body = error_body(request.path, code, message)
    response = Response(body, code, content_type="application/json")
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response
