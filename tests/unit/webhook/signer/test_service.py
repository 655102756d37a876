"""The three calls: what is answered, logged and counted, and what a caller gets to know."""

import hashlib
import json
import logging
from dataclasses import dataclass, replace

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from keys import jws
from keys.keyring import Keyring
from tests.external_jwt.messages import read_keys, read_max_expiration, read_signed, sign_request
from tests.secrets_made import token_made
from tests.support import signing_key, unb64
from tests.unit.webhook.signer.claims_parts import ISSUER, NOW, claims, segment
from webhook.errors import LeewayError
from webhook.signer.key_set import key_set_of
from webhook.signer.policy import SigningPolicy
from webhook.signer.service import RESULTS, CallRefusedError, ExternalJWTSigner, Terms
from webhook.telemetry.signer_metrics import SignerMetrics
from webhook.token.claims import Claims, ClockLeeway

ALGORITHMS = ["RS256", "ES256", "ES384", "ES512"]


@dataclass
class FakeCall:
    """A call of kube-apiserver."""

    remaining: float | None = 5.0
    active: bool = True

    def time_remaining(self) -> float | None:
        return self.remaining

    def is_active(self) -> bool:
        return self.active


class Seen:
    """Keeps what is recorded of clocks."""

    def __init__(self) -> None:
        self.ahead: list[float] = []

    def see(self, claims: Claims, now: float) -> None:
        assert claims.issued_at is not None
        self.ahead.append(claims.issued_at - now)


def terms(algorithm: str = "ES256", seconds: int = 86400, name: str = "own") -> Terms:
    keyring = Keyring().with_new_key(signing_key(algorithm, name), NOW)
    policy = SigningPolicy(ISSUER, seconds, ClockLeeway(60, 60, 60))
    return Terms(policy, key_set_of(keyring), 60)


class Parts:
    """A service with real metrics, and a clock that stands still."""

    def __init__(self, algorithm: str = "ES256") -> None:
        self.terms = terms(algorithm)
        self.seen = Seen()
        self.metrics = SignerMetrics(RESULTS)
        self.service = ExternalJWTSigner(self.terms, self.metrics, self.seen, lambda: float(NOW))

    def sign(self, sent: str, call: FakeCall | None = None) -> str:
        signed = read_signed(self.service.sign(sign_request(sent), call or FakeCall()))
        token = f"{signed.header}.{sent}.{signed.signature}"
        token_made(token)
        return token

    def counts(self) -> dict[str, float]:
        """Return the results of Sign that were counted."""
        found = {}
        for family in self.metrics.registry.collect():
            for sample in family.samples:
                if sample.name == "leeway_signer_requests_total" and sample.value:
                    assert sample.labels["method"] == "Sign"
                    found[sample.labels["result"]] = sample.value
        return found


@pytest.fixture(autouse=True)
def _every_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "leeway")


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, object]]]:
    return [(record.getMessage(), vars(record)["fields"]) for record in caplog.records]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_bytes_that_came_are_signed(algorithm: str) -> None:
    parts = Parts(algorithm)
    # Spacing and order as no encoder here would write them.
    sent = segment(json.dumps(claims(), indent=2))
    token = parts.sign(sent)
    key = parts.terms.keys.signing_key.verification_key
    assert jws.verify(jws.parse(token), key)
    header = json.loads(unb64(token.split(".")[0]))
    assert header == {"alg": algorithm, "kid": key.kid, "typ": "JWT"}
    assert parts.counts() == {"ok": 1}
    assert parts.seen.ahead == [0]


def test_a_token_has_an_audit_line(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts()
    token = parts.sign(segment(claims()))
    assert lines(caplog) == [
        (
            "token.sign done",
            {
                "event": "audit", "action": "token.sign", "outcome": "done", "via": "signer",
                "subject": "system:serviceaccount:team-a:build.bot",
                "audiences": ("https://kubernetes.default.svc",),
                "jti": claims()["jti"],
                "fingerprint": hashlib.sha256(token.encode()).hexdigest()[:12],
                "expiresAt": "2026-11-30T01:53:20Z",
                "boundObjects": ["Pod build-0", "Node node-1.example"],
                "kid": parts.terms.keys.kid,
            },
        )
    ]  # fmt: skip


def refusal(parts: Parts, request: bytes, call: FakeCall | None = None) -> CallRefusedError:
    with pytest.raises(CallRefusedError) as caught:
        parts.service.sign(request, call or FakeCall())
    assert caught.value.__cause__ is None
    return caught.value


@pytest.mark.bad_input(71)
@pytest.mark.parametrize(
    ("request_bytes", "reason", "subject"),
    [
        pytest.param(b"\x0a\xff", "Malformed", None, id="not a message"),
        pytest.param(b"\x0a\x01\xff", "Malformed", None, id="not UTF-8"),
        pytest.param(b"", "Malformed", None, id="no claims"),
        pytest.param(sign_request(segment(claims(iss="x"))), "OtherIssuer", None, id="issuer"),
        pytest.param(sign_request("a" * 1_000_000), "TooLarge", None, id="1 MB"),
        pytest.param(
            sign_request(segment(claims(exp=NOW + 90000))), "LifetimeTooLong", "sub", id="lifetime"
        ),
        pytest.param(
            sign_request(segment(claims(iat=NOW + 90))), "IssuedInFuture", "sub", id="iat"
        ),
    ],
)
def test_why_claims_are_refused_is_in_the_log_only(
    request_bytes: bytes, reason: str, subject: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    parts = Parts()
    error = refusal(parts, request_bytes)
    assert (error.code, str(error)) == (
        grpc.StatusCode.INVALID_ARGUMENT, "the claims were refused",
    )  # fmt: skip
    ((message, fields),) = lines(caplog)
    assert message.startswith("a token was not signed: ")
    assert (fields["event"], fields["reason"]) == ("sign", reason)
    assert fields["subject"] == (claims()["sub"] if subject else None)
    assert fields["skewSeconds"] == (90 if reason == "IssuedInFuture" else None)
    assert parts.counts() == {reason: 1}
    # The clock shows in all claims of our issuer.
    assert parts.seen.ahead == ([90 if reason == "IssuedInFuture" else 0] if subject else [])


@pytest.mark.bad_input(72)
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(FakeCall(remaining=0.0), id="past its deadline"),
        pytest.param(FakeCall(active=False), id="cancelled"),
    ],
)
def test_nothing_is_signed_for_a_caller_that_has_gone(
    call: FakeCall, caplog: pytest.LogCaptureFixture
) -> None:
    parts = Parts()
    error = refusal(parts, sign_request(segment(claims())), call)
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert lines(caplog) == []
    assert parts.counts() == {"Deadline": 1}


@pytest.mark.parametrize(("latest", "signs"), [(NOW + 3600, True), (NOW + 3599, False), (0, False)])
def test_no_token_outlives_a_key_that_is_no_longer_active(
    latest: int, signs: bool, caplog: pytest.LogCaptureFixture
) -> None:
    parts = Parts()
    parts.service.use(replace(parts.terms, latest_expiry=latest))
    sent = segment(claims(exp=NOW + 3600))
    if signs:
        parts.sign(sent)
        return
    error = refusal(parts, sign_request(sent))
    assert (error.code, str(error)) == (grpc.StatusCode.UNAVAILABLE, "no key can sign")
    ((message, fields),) = lines(caplog)
    assert "does not verify for as long as the token would live" in message
    assert (fields["reason"], fields["subject"]) == ("NoKey", claims()["sub"])
    assert parts.counts() == {"NoKey": 1}


def test_without_a_deadline() -> None:
    parts = Parts()
    parts.sign(segment(claims()), FakeCall(remaining=None))
    assert parts.counts() == {"ok": 1}


def test_the_keys() -> None:
    parts = Parts("RS256")
    keys = read_keys(parts.service.fetch_keys(b"", FakeCall()))
    (key,) = keys.keys
    assert (key.kid, key.excluded, keys.refresh_hint) == (parts.terms.keys.kid, False, 60)
    loaded = load_der_public_key(key.der)
    assert loaded == parts.terms.keys.signing_key.verification_key.public_key
    assert keys.timestamp == parts.terms.keys.timestamp
    assert read_max_expiration(parts.service.metadata(b"", FakeCall())) == 86400


def test_other_terms_are_in_use_with_the_next_call() -> None:
    parts = Parts()
    sent = segment(claims())
    parts.sign(sent)
    later = terms("RS256", 600, "other")
    parts.service.use(later)
    refusal(parts, sign_request(sent))
    token = parts.sign(segment(claims(exp=NOW + 600)))
    assert jws.verify(jws.parse(token), later.keys.signing_key.verification_key)
    assert read_max_expiration(parts.service.metadata(b"", FakeCall())) == 600
    assert [key.kid for key in read_keys(parts.service.fetch_keys(b"", FakeCall())).keys] == [
        later.keys.kid
    ]


def test_a_refused_call_is_an_error_of_leeway() -> None:
    assert issubclass(CallRefusedError, LeewayError)
