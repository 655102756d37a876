from typing import Any

import pytest

from keys.errors import KeyScheduleError
from keys.keyring import Keyring
from tests.support import (
    ACCOUNT,
    AUDIENCE,
    ISSUER,
    NAMESPACE,
    NOW,
    JSONObject,
    authenticator_with,
    read_object,
    signing_key,
    unb64,
)
from webhook.errors import IssueError
from webhook.token.claims import ObjectReference
from webhook.token.issuer import IssuedToken, TokenPolicy, TokenSpec, issue_token, stable_uid
from webhook.token.outcome import Authenticated

KEY = signing_key("ES256")
KEYRING = Keyring().with_new_key(KEY, 0)
POLICY = TokenPolicy(ISSUER, (AUDIENCE, "second"), 3600, 600, 86400, extend=True)
POD = ObjectReference("p1", "uid-of-p1")
YEAR = 365 * 24 * 3600


def issue(policy: TokenPolicy = POLICY, **members: Any) -> IssuedToken:
    defaults: dict[str, Any] = {
        "namespace": NAMESPACE,
        "name": ACCOUNT,
        "uid": "u1",
        "objects_confirmed": True,
    }
    request = TokenSpec(**(defaults | members))
    return issue_token(request, policy, KEYRING, NOW + 0.75)


def claims_of(issued: IssuedToken) -> JSONObject:
    return read_object(unb64(issued.token.split(".")[1]))


def policy(**changes: object) -> TokenPolicy:
    members = {name: getattr(POLICY, name) for name in TokenPolicy.__slots__}
    return TokenPolicy(**members | changes)


def test_defaults() -> None:
    issued = issue()
    claims = claims_of(issued)
    jti = claims.pop("jti")
    assert len(jti) == 36
    assert claims == {
        "aud": [AUDIENCE, "second"],
        "exp": int(NOW) + 3600,
        "iat": int(NOW),
        "iss": ISSUER,
        "kubernetes.io": {
            "namespace": NAMESPACE,
            "serviceaccount": {"name": ACCOUNT, "uid": "u1"},
        },
        "nbf": int(NOW),
        "sub": f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}",
    }
    assert issued.warning == ""
    assert issued.claims.jti == jti
    assert claims_of(issue())["jti"] != jti


def test_members_are_in_the_order_of_kubernetes() -> None:
    issued = issue(
        pod=POD, node=ObjectReference("n1", "u2"), expiration_seconds=3607, audiences=[AUDIENCE]
    )
    claims = claims_of(issued)
    assert list(claims) == ["aud", "exp", "iat", "iss", "jti", "kubernetes.io", "nbf", "sub"]
    assert list(claims["kubernetes.io"]) == [
        "namespace",
        "node",
        "pod",
        "serviceaccount",
        "warnafter",
    ]
    assert list(claims["kubernetes.io"]["pod"]) == ["name", "uid"]


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "ES384", "ES512", "EdDSA"])
def test_issued_token_is_accepted(algorithm: str) -> None:
    key = signing_key(algorithm)
    request = TokenSpec(NAMESPACE, ACCOUNT, secret=ObjectReference("s", "u"))
    issued = issue_token(request, POLICY, Keyring().with_new_key(key, 0), NOW)
    outcome = authenticator_with(key).authenticate(issued.token, [], NOW)
    assert isinstance(outcome, Authenticated)
    assert outcome.claims == issued.claims


@pytest.mark.parametrize(
    ("asked", "given", "warning"),
    [
        (None, 3600, ""),
        (600, 600, ""),
        (601, 601, ""),
        (86400, 86400, ""),
        (86401, 86400, "requested expiration of 86401 seconds shortened to 86400 seconds"),
        (
            1 << 32,
            86400,
            "requested expiration of 4294967296 seconds shortened to 86400 seconds",
        ),
    ],
)
def test_expiration(asked: int | None, given: int, warning: str) -> None:
    issued = issue(expiration_seconds=asked)
    claims = claims_of(issued)
    assert claims["exp"] - claims["iat"] == given
    assert issued.warning == warning


@pytest.mark.parametrize(
    ("members", "why"),
    [
        pytest.param({"expiration_seconds": 599}, "less than 600 seconds", id="599"),
        pytest.param({"expiration_seconds": 0}, "less than 600 seconds", id="0"),
        pytest.param({"expiration_seconds": -1}, "less than 600 seconds", id="negative"),
        pytest.param({"expiration_seconds": (1 << 32) + 1}, r"2\^32", id="over-2-to-the-32"),
        pytest.param({"namespace": "Argo"}, "namespace 'Argo'", id="namespace"),
        pytest.param({"namespace": ""}, "namespace ''", id="namespace-empty"),
        pytest.param({"namespace": "a.b"}, "namespace 'a.b'", id="namespace-dot"),
        pytest.param({"name": "a:b"}, "name 'a:b'", id="name"),
        pytest.param({"name": ""}, "name ''", id="name-empty"),
        pytest.param({"pod": ObjectReference("P", "u")}, "name 'P'", id="pod-name"),
        pytest.param({"pod": ObjectReference("p")}, "uid", id="pod-uid"),
        pytest.param({"node": ObjectReference("n")}, "uid", id="node-uid"),
        pytest.param(
            {"pod": POD, "secret": ObjectReference("s", "u")}, "two objects", id="pod-and-secret"
        ),
        pytest.param({"audiences": [""]}, "printable text, and not empty", id="audience-empty"),
        pytest.param({"audiences": ["a\n"]}, "printable", id="audience-newline"),
        pytest.param({"audiences": ["a"] * 101}, "101 audiences", id="101-audiences"),
        pytest.param({"uid": "u\0"}, "printable", id="uid-NUL"),
        pytest.param(
            {"audiences": [f"{n}-" + "a" * 1000 for n in range(40)]}, "32768", id="too-long"
        ),
    ],
)
def test_request_out_of_range(members: dict[str, Any], why: str) -> None:
    with pytest.raises(IssueError, match=why):
        issue(**members)


@pytest.mark.fault(62)
def test_audiences_are_kept_unchanged() -> None:
    sent = ["b", "a", "b", "café", "\U0001f600"]
    issued = issue(audiences=sent)
    assert claims_of(issued)["aud"] == sent
    assert issued.claims.audiences == tuple(sent)


@pytest.mark.parametrize(
    ("members", "extended"),
    [
        pytest.param({"pod": POD, "audiences": [AUDIENCE]}, True, id="one-API-server-audience"),
        pytest.param({"pod": POD}, True, id="default-audiences"),
        pytest.param({"pod": POD, "audiences": ["second"]}, True, id="second-audience"),
        pytest.param({"pod": POD, "audiences": ["vault"]}, False, id="other-audience"),
        pytest.param(
            {"pod": POD, "audiences": [AUDIENCE, "vault"]}, False, id="one-of-two-audiences"
        ),
        pytest.param({"pod": POD, "expiration_seconds": 3606}, False, id="3606-seconds"),
        pytest.param({"pod": POD, "expiration_seconds": 3608}, False, id="3608-seconds"),
        pytest.param({"pod": POD, "expiration_seconds": None}, False, id="default-seconds"),
        pytest.param({}, False, id="not-bound"),
        pytest.param({"secret": ObjectReference("s", "u")}, False, id="bound-to-a-secret"),
        pytest.param({"node": ObjectReference("n", "u")}, False, id="bound-to-a-node"),
        pytest.param({"pod": POD, "policy": policy(extend=False)}, False, id="turned-off"),
        pytest.param({"pod": POD, "objects_confirmed": False}, False, id="not-looked-up"),
    ],
)
@pytest.mark.fault(45)
def test_extension(members: dict[str, Any], extended: bool) -> None:
    members = {"expiration_seconds": 3607} | members
    issued = issue(**members)
    claims = claims_of(issued)
    if extended:
        assert claims["exp"] - claims["iat"] == YEAR
        assert claims["kubernetes.io"]["warnafter"] == claims["iat"] + 3607
    else:
        assert claims["exp"] - claims["iat"] == (members["expiration_seconds"] or 3600)
        assert "warnafter" not in claims["kubernetes.io"]


@pytest.mark.fault(45)
@pytest.mark.parametrize("confirmed", [True, False])
def test_a_shortened_token_is_not_extended(confirmed: bool) -> None:
    issued = issue(
        policy(max_seconds=3600), pod=POD, expiration_seconds=3607, objects_confirmed=confirmed
    )
    assert issued.warning == "requested expiration of 3607 seconds shortened to 3600 seconds"
    assert issued.claims.expires_at == int(NOW) + 3600
    assert issued.claims.warn_after is None


def test_uid_of_an_account_without_one() -> None:
    uid = claims_of(issue(uid=""))["kubernetes.io"]["serviceaccount"]["uid"]
    assert uid == stable_uid(ISSUER, NAMESPACE, ACCOUNT)
    others = {
        stable_uid(ISSUER, NAMESPACE, "other"),
        stable_uid(ISSUER, "other", ACCOUNT),
        stable_uid("https://other.example", NAMESPACE, ACCOUNT),
    }
    assert len(others | {uid}) == 4


def test_no_active_key() -> None:
    with pytest.raises(KeyScheduleError):
        issue_token(TokenSpec(NAMESPACE, ACCOUNT), POLICY, Keyring(), NOW)


def test_the_token_is_not_in_a_repr() -> None:
    issued = issue()
    assert issued.token not in repr(issued)
    assert issued.token.rpartition(".")[2] not in repr(issued)
