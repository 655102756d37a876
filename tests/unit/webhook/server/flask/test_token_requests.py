"""The TokenRequest route: what its core refuses, as the Status that Kubernetes answers with."""

import json
from dataclasses import replace

import pytest

from keys.keyring import Keyring
from tests.bound_parts import StillSource
from tests.support import ACCOUNT, ACCOUNT_UID, AUDIENCE, ISSUER, NAMESPACE, NOW, signing_key
from tests.unit.webhook.server.caller_parts import Parts, request_on
from webhook.errors import LeewayError
from webhook.rbac import revocations
from webhook.server.flask.token_requests import TokenRequests
from webhook.server.request.errors import request_error_of
from webhook.server.request.message import Caller, Request, RequestError
from webhook.telemetry.metrics import Metrics
from webhook.token.bound_objects import Absence, Kind, Lookup, ObjectKey, ObjectState
from webhook.token.issuer import TokenPolicy

POLICY = TokenPolicy(ISSUER, (AUDIENCE,), 3600, 600, 86400, extend=True)
KEYRING = Keyring().with_new_key(signing_key("ES256"), 0)
ACCOUNT_KEY = ObjectKey(Kind.SERVICE_ACCOUNT, NAMESPACE, ACCOUNT)
SECRET_KEY = ObjectKey(Kind.SECRET, NAMESPACE, "s")


class Objects(StillSource, dict[ObjectKey, Lookup]):
    """A source of the objects in a dictionary."""

    def find(self, key: ObjectKey, uid: str) -> Lookup:
        return self.look_up(key)

    def look_up(self, key: ObjectKey, uid: str = "") -> Lookup:
        return self.get(key, Absence.GONE)


def route(
    objects: Objects | None = None, keyring: Keyring = KEYRING, parts: Parts | None = None
) -> TokenRequests:
    return TokenRequests(
        (parts or Parts()).callers,
        POLICY,
        keyring,
        lambda: None,
        objects,
        60,
        Metrics(),
        lambda: NOW,
    )


def create(requests: TokenRequests, **spec: object) -> tuple[bytes, tuple[str, ...]]:
    body = json.dumps({"spec": spec}).encode()
    request = Request("POST", "/")
    request.basis = requests.callers._store.basis()
    return requests.create(request, NAMESPACE, ACCOUNT, body, lambda *_line: None)


HERE = {ACCOUNT_KEY: ObjectState(ACCOUNT_UID)}
SECRET = {"kind": "Secret", "name": "s", "uid": "u"}


def test_what_is_looked_up_is_in_the_token() -> None:
    body, warnings = create(route(Objects(HERE)))
    assert json.loads(body)["metadata"]["uid"] == ACCOUNT_UID
    assert warnings == ()


@pytest.mark.parametrize(
    ("objects", "spec", "code", "message", "details"),
    [
        (
            {},
            {},
            404,
            f'serviceaccounts "{ACCOUNT}" not found',
            {"name": ACCOUNT, "kind": "serviceaccounts"},
        ),
        (
            HERE,
            {"boundObjectRef": SECRET},
            404,
            'secrets "s" not found',
            {"name": "s", "kind": "secrets"},
        ),
        (
            HERE | {SECRET_KEY: ObjectState("another")},
            {"boundObjectRef": SECRET},
            409,
            'Operation cannot be fulfilled on Secret "s": the UID in the bound object reference '
            "(u) does not match the UID in record. The object might have been deleted and then "
            "recreated",
            {"name": "s", "kind": "Secret"},
        ),
        (
            {ACCOUNT_KEY: Absence.UNAVAILABLE},
            {},
            503,
            f"{ACCOUNT_KEY} could not be looked up, so no token was made; try again when the "
            "source of objects is reachable (see /readyz?verbose)",
            None,
        ),
    ],
    ids=["no-account", "no-secret", "another-secret", "unavailable"],
)
def test_what_the_objects_say(
    objects: dict[ObjectKey, Lookup],
    spec: dict[str, object],
    code: int,
    message: str,
    details: object,
) -> None:
    requests = route(Objects(objects))
    with pytest.raises(LeewayError) as caught:
        create(requests, **spec)
    error = request_error_of(caught.value)
    assert (error.code, str(error), error.details) == (code, message, details)
    assert ((b"retry-after", b"1") in tuple(error.headers)) is (code == 503)


def test_without_an_active_key_it_is_503() -> None:
    with pytest.raises(RequestError, match="no token can be signed now") as caught:
        create(route(keyring=Keyring()))
    assert caught.value.code == 503
    assert tuple(caught.value.headers) == ((b"retry-after", b"1"),)


def test_a_long_name_is_not_said_back_whole() -> None:
    parts, requests, name = Parts(), route(), "A" * 100_000
    request = request_on(parts.store, caller=Caller("root"))
    requests.authorize(request, NAMESPACE, name)
    with pytest.raises(LeewayError) as caught:
        requests.create(request, NAMESPACE, name, b"{}", lambda *_line: None)
    error = request_error_of(caught.value)
    assert error.code == 404
    assert len(str(error)) < 1000
    assert len(str(error.details)) < 1000


@pytest.mark.parametrize(
    ("ahead", "retry"), [(0.0, b"1"), (8.0, b"9"), (60.0, b"61"), (1e6, b"3600")]
)
def test_a_token_that_would_be_revoked_already_is_not_made(ahead: float, retry: bytes) -> None:
    parts = Parts()
    requests = route(Objects(HERE), parts=parts)
    subject = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
    revoke = revocations.revoke_subject
    lifetimes = revocations.Lifetimes(3600.0, ahead=ahead)
    parts.store.change(revoke, subject + "x", lifetimes, NOW, is_account=True)
    create(requests)
    parts.store.change(revoke, subject, lifetimes, NOW, is_account=True)
    with pytest.raises(RequestError, match=f"no token of '{subject}' can be made before") as caught:
        create(requests)
    assert caught.value.code == 503
    assert caught.value.headers == ((b"retry-after", retry),)
    later = replace(requests, clock=lambda: NOW + ahead + 1)
    create(later)
