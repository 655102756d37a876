"""Discovery with and without a slash at the end, and calls of etcd's API that go wrong."""

import asyncio
import logging
from collections.abc import Sequence

import msgspec
import pytest

from keys.keyring import Keyring
from keys.pki import make_client_certificate
from tests.memory_backend import MemoryBackend
from tests.support import AUDIENCE, ISSUER, LEEWAY, NOW
from tests.unit.webhook.server.caller_parts import CA, START
from webhook.errors import DataDirectoryError, LeewayError
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.auth_tokens import NopTokens
from webhook.rbac.errors import StoreError, StoreUnavailableError
from webhook.rbac.passwords import Passwords
from webhook.rbac.records import Record
from webhook.server.flask.app import create_flask_app
from webhook.server.flask.auth_api import AuthAPI
from webhook.server.flask.late import FlaskThreads, LateFlask
from webhook.server.flask.token_requests import TokenRequests
from webhook.server.request.caller import Callers
from webhook.server.request.log import RequestLog
from webhook.server.request.message import Headers, Request, Response, settled
from webhook.server.request.verifier import TokenVerifier
from webhook.server.routes.dispatch import Application
from webhook.skew.snapshots import SkewFiles
from webhook.skew.tracker import SkewTracker
from webhook.telemetry.metrics import Metrics
from webhook.token.authenticator import Authenticator
from webhook.token.issuer import TokenPolicy

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


CERTIFICATE = make_client_certificate(CA, "root", START).certificate.decode("ascii")
PLACE = "/var/lib/leeway/auth.db"
NESTED = [b'{"name":' * depth + b"{}" + b"}" * depth for depth in (100, 2000, 20_000)]


class Failing(MemoryBackend):
    """Cannot be written to."""

    def __init__(self, error: LeewayError) -> None:
        super().__init__()
        self.error = error

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        raise self.error


@pytest.fixture(scope="module")
def application() -> Application:
    return application_of(MemoryBackend())


def application_of(backend: MemoryBackend) -> Application:
    store, metrics, log = AuthStore.loaded(backend), Metrics(), RequestLog()
    verifier = TokenVerifier(Authenticator([], LEEWAY), lambda: NOW)
    callers = Callers(store, NopTokens(), verifier, ISSUER, (AUDIENCE,), lambda: NOW)
    auth = AuthAPI(store, callers, Passwords(), NopTokens(), lambda: NOW, lambda: None)
    requests = TokenRequests(
        callers, POLICY, Keyring(), lambda: None, None, 60, metrics, lambda: NOW
    )
    skew = SkewFiles(SkewTracker())
    app = create_flask_app(metrics, auth, callers, requests, skew, log)
    flask = LateFlask(lambda: app, FlaskThreads())
    return Application({}, {}, flask, callers, log, 2**20)


def answer(application: Application, request: Request) -> Response:
    async def settle() -> Response:
        return await settled(application.answer(request))

    request.certificate = CERTIFICATE
    return asyncio.run(settle())


def get(application: Application, path: str) -> tuple[int, object]:
    response = answer(application, Request("GET", path))
    return response.code, msgspec.json.decode(response.body)


@pytest.mark.parametrize("path", SERVED)
def test_a_slash_at_the_end_changes_nothing(application: Application, path: str) -> None:
    status, body = get(application, path)
    assert status == 200
    assert get(application, f"{path}/") == (status, body)


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
def test_what_is_not_there_with_a_slash(application: Application, path: str) -> None:
    assert get(application, path)[0] == 404


def post(application: Application, call: str, body: bytes) -> tuple[int, bytes]:
    headers = Headers([(b"content-type", b"application/json")])
    response = answer(application, Request("POST", f"/v3/auth/{call}", b"", headers, body))
    return response.code, response.body


@pytest.mark.parametrize(
    ("error", "status", "is_crash"),
    [
        (StoreUnavailableError(f"{PLACE} is locked"), 503, False),
        (StoreError(f"{PLACE} is damaged"), 503, False),
        (DataDirectoryError(f"{PLACE} is lost"), 500, True),
    ],
)
def test_what_no_request_should_cause_is_logged_and_not_told(
    error: LeewayError, status: int, is_crash: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "leeway")
    found, body = post(application_of(Failing(error)), "role/add", b'{"name": "r"}')
    assert found == status
    if is_crash:
        message = "an internal error occurred; it is in the server's log"
        assert msgspec.json.decode(body) == {"code": 13, "message": message}
    assert (PLACE.encode() in body) is not is_crash
    (record,) = caplog.records
    assert (record.getMessage() == "a request failed") is is_crash
    assert (record.exc_info is not None and record.exc_info[1] is error) is is_crash


@pytest.mark.parametrize("body", NESTED, ids=len)
@pytest.mark.parametrize("call", ["authenticate", "role/add"])
def test_a_body_that_is_nested_too_deep_is_a_bad_request(
    application: Application, call: str, body: bytes
) -> None:
    status, found = post(application, call, body)
    assert status == 400
    assert msgspec.json.decode(found)["code"] == 3
