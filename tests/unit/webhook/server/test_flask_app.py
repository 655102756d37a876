"""Discovery is served with and without a slash at the end."""

import pytest
from caller_parts import Parts
from flask.testing import FlaskClient

from keys.keyring import Keyring
from tests.support import AUDIENCE, ISSUER, NOW
from webhook.issuer import TokenPolicy
from webhook.metrics import Metrics
from webhook.rbac.passwords import Passwords
from webhook.server.flask_app import create_flask_app
from webhook.server.request_log import RequestLog
from webhook.server.routes.auth_api import AuthAPI
from webhook.server.routes.token_requests import TokenRequests
from webhook.skew import SkewTracker
from webhook.skew_files import SkewFiles

POLICY = TokenPolicy(ISSUER, (AUDIENCE,), 3600, 600, 86400, extend=True)
SERVED = [
    "/api",
    "/api/v1",
    "/apis",
    "/apis/apps",
    "/apis/apps/v1",
    "/apis/leeway.dev",
    "/apis/leeway.dev/v1",
]


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    parts, metrics = Parts(), Metrics()
    auth = AuthAPI(parts.store, Passwords(), parts.tokens, lambda: NOW)
    requests = TokenRequests(parts.callers, POLICY, Keyring(), None, 60, metrics, lambda: NOW)
    skew = SkewFiles(SkewTracker())
    return create_flask_app(
        metrics, auth, parts.callers, requests, skew, RequestLog()
    ).test_client()


def get(client: FlaskClient, path: str) -> tuple[int, object]:
    scope = {"type": "http", "method": "GET", "path": path, "headers": []}
    answer = client.get(path, environ_overrides={"asgi.scope": scope})
    return answer.status_code, answer.json


@pytest.mark.parametrize("path", SERVED)
def test_a_slash_at_the_end_changes_nothing(client: FlaskClient, path: str) -> None:
    status, body = get(client, path)
    assert status == 200
    assert get(client, f"{path}/") == (status, body)


@pytest.mark.parametrize(
    "path",
    [
        *(f"{path}//" for path in SERVED),
        "/api/v2/",
        "/apis/no.such/",
        "/apis/apps/v2/",
        "/apis//v1/",
        "/openapi/v2/",
        "/openapi/v3/",
        "/metrics/",
    ],
)
def test_what_is_not_there_with_a_slash(client: FlaskClient, path: str) -> None:
    assert get(client, path)[0] == 404
