"""The rarely used routes, called with a complete Request.

The dispatcher has identified the caller; only under ``/v3`` may it be missing, where etcd's rules
and answers hold. It also confirms what a view has decided, where the view leaves no trace of it
before: see ``Callers.confirm``.
"""

from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from time import time
from typing import Final, NoReturn

import msgspec
from flask import Flask
from flask import Response as FlaskResponse
from flask import request as flask_request
from werkzeug.exceptions import HTTPException

from webhook.kube import rules_review, token_request
from webhook.kube.access_review import AUTHORIZATION_GROUP
from webhook.kube.request_keys import SKEW_KEY
from webhook.rbac.errors import InvalidAuthTokenError, UserEmptyError
from webhook.rbac.model import PermissionType
from webhook.server.flask import api_discovery, openapi_v2
from webhook.server.flask.auth_api import AuthAPI, call_names
from webhook.server.flask.token_requests import TokenRequests
from webhook.server.request.caller import NOBODY, Callers
from webhook.server.request.errors import NOT_FOUND, STATUSES
from webhook.server.request.log import RequestLog
from webhook.server.request.message import (
    Caller,
    Request,
    RequestError,
    Response,
    basis_of,
    caller_of,
    json_body,
    require_type,
    too_long,
)
from webhook.skew.report import SKEW_PATH, report_of
from webhook.skew.snapshots import SkewFiles
from webhook.telemetry.metrics import CONTENT_TYPE, Metrics

_AUTHENTICATE = "authenticate"
_AUTH_NAME = "<path:name>"
_AUTH_RULE = f"/v3/auth/{_AUTH_NAME}"
_TOKEN_RULE = "/api/v1/namespaces/<namespace>/serviceaccounts/<name>/token"
_RULES_PATH = f"/apis/{AUTHORIZATION_GROUP}/v1/selfsubjectrulesreviews"
_RENDERED: Final[Mapping[str, Callable[..., object]]] = {
    "/api": api_discovery.core_versions,
    "/api/v1": partial(api_discovery.resource_list, "", "v1"),
    "/apis": api_discovery.group_list,
    "/apis/<name>": api_discovery.group,
    "/apis/<name>/<version>": api_discovery.resource_list,
    "/openapi/v3": api_discovery.openapi_index,
    "/openapi/v3/api/<version>": partial(api_discovery.openapi_document, ""),
    "/openapi/v3/apis/<name>/<version>": api_discovery.openapi_document,
}
_Views = dict[str, Callable[..., FlaskResponse]]
_REQUEST = "leeway.request"
_JSON = "application/json"


class FlaskApp(Flask):
    """A Flask application that is called with a complete Request, in any thread."""

    def __init__(self) -> None:
        super().__init__("webhook", static_folder=None)
        self.url_map.merge_slashes = False
        # OPTIONS gets 405 like any other method that a route does not have.
        self.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
        self.register_error_handler(HTTPException, _raise_request_error)

    def answer(self, request: Request) -> Response:
        """Answer a request. Raises RequestError, and the errors of the views."""
        environ = {
            "REQUEST_METHOD": request.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query.decode("ascii"),
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "443",
            "wsgi.url_scheme": "https",
            "wsgi.input": BytesIO(),
            # The views use nothing else.
            _REQUEST: request,
        }
        with self.request_context(environ):
            answer = self.full_dispatch_request()
        headers = tuple(
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in answer.headers
            if name not in ("Content-Type", "Content-Length")
        )
        content_type = answer.headers["Content-Type"].encode("latin-1")
        return Response(answer.status_code, answer.get_data(), content_type, headers)

    def routes(self) -> list[tuple[str, str]]:
        """Return the method and the path of every route, with one for each of etcd's calls."""
        found: list[tuple[str, str]] = []
        for rule in self.url_map.iter_rules():
            methods = sorted((rule.methods or set()) - {"HEAD"})
            names = call_names() if rule.rule == _AUTH_RULE else ("",)
            paths = [rule.rule.replace(_AUTH_NAME, name) for name in names]
            found += [(method, path) for method in methods for path in paths]
        return found


def create_flask_app(
    metrics: Metrics,
    auth: AuthAPI,
    callers: Callers,
    token_requests: TokenRequests,
    skew: SkewFiles,
    log: RequestLog,
) -> FlaskApp:
    """Make the Flask application."""
    posted: _Views = {
        _AUTH_RULE: partial(_call_auth, auth, log),
        _TOKEN_RULE: partial(_create_token, token_requests, log),
        _RULES_PATH: _review_rules,
    }
    read: _Views = {
        "/metrics": lambda: FlaskResponse(metrics.render(), content_type=CONTENT_TYPE),
        SKEW_PATH: partial(_show_skew, callers, skew),
        "/openapi/v2": lambda: FlaskResponse(
            openapi_v2.document(), content_type=openapi_v2.CONTENT_TYPE
        ),
    }
    for rule, render in _RENDERED.items():
        read[rule] = partial(_show, render)
        if rule.startswith("/api"):
            # The kubernetes client of Python requests these with a slash at the end.
            read[f"{rule}/"] = read[rule]
    app = FlaskApp()
    for method, views in (("POST", posted), ("GET", read)):
        for rule, view in views.items():
            app.add_url_rule(rule, rule, view, methods=[method])
    return app


def _call_auth(auth: AuthAPI, log: RequestLog, name: str) -> FlaskResponse:
    request = _request()
    if name in call_names():
        require_type(request, may_be_missing=False)
    caller = _etcd_caller(request, name)
    if request.length > request.max_length:
        raise too_long(request)
    answer = auth.call(name, caller, request, log.audit_of(request))
    if answer is None:
        raise RequestError(404, "Not Found")
    return FlaskResponse(answer, content_type=_JSON)


def _etcd_caller(request: Request, name: str) -> Caller:
    if name == _AUTHENTICATE:
        return NOBODY
    if request.is_refused:
        raise InvalidAuthTokenError
    if request.caller is None:
        raise UserEmptyError
    return request.caller


def _request() -> Request:
    request: Request = flask_request.environ[_REQUEST]
    return request


def _create_token(
    token_requests: TokenRequests, log: RequestLog, namespace: str, name: str
) -> FlaskResponse:
    request = _request()
    token_requests.authorize(request, namespace, name)
    body = json_body(request, token_request.MESSAGE)
    answer, warnings = token_requests.create(request, namespace, name, body, log.audit_of(request))
    response = FlaskResponse(answer, 201, content_type=_JSON)
    # It contains a credential, which must not be cached.
    response.headers["Cache-Control"] = "no-store"
    for warning in warnings:
        quoted = warning.replace('"', '\\"')
        response.headers.add("Warning", f'299 - "{quoted}"')
    return response


def _review_rules() -> FlaskResponse:
    request = _request()
    caller = caller_of(request)
    namespace = rules_review.parse_rules_review(json_body(request, rules_review.MESSAGE))
    state = basis_of(request).state
    rules = rules_review.rules_of(state, caller.username, caller.groups, namespace)
    return FlaskResponse(rules_review.render_rules_review(rules), 201, content_type=_JSON)


def _show_skew(callers: Callers, skew: SkewFiles) -> FlaskResponse:
    callers.require(_request(), SKEW_KEY, PermissionType.READ)
    return _show(lambda: report_of(skew.estimates(), time()))


def _show(render: Callable[..., object], **names: str) -> FlaskResponse:
    value = render(**names)
    if value is None:
        raise RequestError(404, NOT_FOUND)
    return FlaskResponse(msgspec.json.encode(value), content_type=_JSON)


def _raise_request_error(error: HTTPException) -> NoReturn:
    code = error.code if error.code in STATUSES else 500
    message = NOT_FOUND if code == 404 else f"{error.name}: {error.description}"
    allowed = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
    headers = ((b"allow", allowed.encode("ascii")),) if allowed else ()
    raise RequestError(code, message, headers) from error
