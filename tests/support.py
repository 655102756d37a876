"""Forges tokens for tests, without the code under test to sign, encode or decode.

``raw_jws`` signs any bytes as header and payload, so that a token can be wrong in one place only.
"""

import asyncio
import base64
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from keys.jwk import VerificationKey
from keys.jws import SigningKey
from keys.pem import generate_signing_key, private_key_pem
from keys.pki import CertifiedKey
from tests.secrets_made import key_made, token_made
from webhook.errors import Reason
from webhook.kube.token_review import TokenReviewRequest, render_token_review
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreLockedError
from webhook.server.request.refreshing import Refreshing
from webhook.token.authenticator import Authenticator, TrustedIssuer
from webhook.token.bound_objects import ObjectSource
from webhook.token.claims import ClockLeeway
from webhook.token.outcome import Authenticated, Outcome, Refused

NOW = 1_800_000_000.0
ISSUER = "https://leeway.default.svc"
AUDIENCE = "https://kubernetes.default.svc"
NAMESPACE = "argo-run"
ACCOUNT = "loofah"
ACCOUNT_UID = "66bff4eb-5231-4bfa-b116-b20312443c46"
JTI = "23c4d832-c540-422a-9e85-304452db3136"
LEEWAY = ClockLeeway(60, 60, 60)
# Only `make chaos` judges times: beside other tests they say little.
JUDGES_TIMES = "TEST_TIMES" in os.environ
_HANGS_SECONDS = 30.0
HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}

JSONObject = dict[str, Any]


@cache
def signing_key(algorithm: str, name: str = "own") -> SigningKey:
    """Return the one key of an algorithm and a name; PS and the longer RS share an RSA key."""
    if algorithm not in ("RS256", "ES256", "ES384", "ES512", "EdDSA"):
        rsa_key = signing_key("RS256", name)
        return SigningKey(
            rsa_key.private_key, replace(rsa_key.verification_key, algorithm=algorithm)
        )
    key = generate_signing_key(algorithm)
    key_made(private_key_pem(key.private_key))
    return key


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def claims_in(token: str) -> JSONObject:
    """Return the claims of a token, whether or not it is valid."""
    return read_object(unb64(token.split(".")[1]))


def jti_of(token: str) -> str:
    jti: str = claims_in(token)["jti"]
    return jti


def raw_signature(message: bytes, key: SigningKey, algorithm: str) -> bytes:
    """Sign with any algorithm of the key's kind, whatever algorithm the key is bound to."""
    private = key.private_key
    if isinstance(private, Ed25519PrivateKey):
        return private.sign(message)
    digest = HASHES[algorithm[2:]]
    if isinstance(private, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(private.sign(message, ec.ECDSA(digest)))
        size = (private.curve.key_size + 7) // 8
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    assert isinstance(private, rsa.RSAPrivateKey)
    if algorithm.startswith("PS"):
        pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
        return private.sign(message, pss, digest)
    return private.sign(message, padding.PKCS1v15(), digest)


def sign_text(signing_input: str, key: SigningKey, algorithm: str = "") -> str:
    """Append a good signature over a text that need not be a header and a payload."""
    algorithm = algorithm or key.verification_key.algorithm
    signature = raw_signature(signing_input.encode("ascii"), key, algorithm)
    token = f"{signing_input}.{b64(signature)}"
    token_made(token)
    return token


def raw_jws(header: bytes, payload: bytes, key: SigningKey, algorithm: str = "") -> str:
    return sign_text(f"{b64(header)}.{b64(payload)}", key, algorithm)


def header_of(key: SigningKey, **changes: object) -> JSONObject:
    """Return the header that goes with a key; a change to None removes a member."""
    members = {"alg": key.verification_key.algorithm, "kid": key.verification_key.kid} | changes
    return {name: value for name, value in members.items() if value is not None}


def good_claims(**changes: object) -> JSONObject:
    """Return claims that are valid at NOW, with members replaced or added."""
    return {
        "aud": [AUDIENCE],
        "exp": int(NOW) + 3600,
        "iat": int(NOW) - 10,
        "iss": ISSUER,
        "jti": JTI,
        "kubernetes.io": {
            "namespace": NAMESPACE,
            "serviceaccount": {"name": ACCOUNT, "uid": ACCOUNT_UID},
        },
        "nbf": int(NOW) - 10,
        "sub": f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}",
    } | changes


def as_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def read_object(text: str | bytes) -> JSONObject:
    """Parse JSON whose value is an object."""
    value = json.loads(text)
    assert isinstance(value, dict)
    return value


def token_of(
    claims: Mapping[str, object] | bytes,
    key: SigningKey | None = None,
    header: Mapping[str, object] | bytes | None = None,
    algorithm: str = "",
) -> str:
    """Sign claims; by default with the RSA key of the tests and the header that goes with it."""
    key = key or signing_key("RS256")
    header = header_of(key) if header is None else header
    return raw_jws(
        header if isinstance(header, bytes) else as_json(header),
        claims if isinstance(claims, bytes) else as_json(claims),
        key,
        algorithm,
    )


def authenticator_with(
    *keys: SigningKey | VerificationKey,
    leeway: ClockLeeway = LEEWAY,
    legacy: bool = False,
    objects: ObjectSource | None = None,
) -> Authenticator:
    """Make an authenticator with one issuer, by default with the RSA key of the tests."""
    verification = [k.verification_key if isinstance(k, SigningKey) else k for k in keys]
    verification = verification or [signing_key("RS256").verification_key]
    issuer = TrustedIssuer(ISSUER, [AUDIENCE], verification, legacy=legacy)
    return Authenticator([issuer], leeway, objects=objects)


def assert_within(seconds: float, limit: float) -> None:
    """Assert that something took less than a limit, or in `make test` that it did not hang."""
    assert seconds < (limit if JUDGES_TIMES else limit + _HANGS_SECONDS)


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for a condition; the limit is for a broken test only."""
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, "it did not happen"
        sleep(0.005)


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition beside an event loop, and fail after 10 s."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def refresh_as_requests_do(store: AuthStore) -> None:
    """Refresh a store, and wait while another process keeps the database locked."""
    asyncio.run(refresh_or_wait(store, Refreshing(store)))


async def refresh_or_wait(store: AuthStore, refreshing: Refreshing) -> None:
    """Do the same on an event loop, where several may wait together."""
    try:
        store.refresh()
    except StoreLockedError as error:
        await refreshing.wait(error)


def revocation_list(
    ca: CertifiedKey,
    revoked: Iterable[bytes] = (),
    start: datetime | None = None,
    due: datetime | None = None,
) -> bytes:
    """Make the PEM of a list of revoked PEM certificates, good from a minute ago for a day."""
    key = load_pem_private_key(ca.private_key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    start = start or datetime.now(UTC) - timedelta(minutes=1)
    issuer = x509.load_pem_x509_certificate(ca.certificate).subject
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer)
    builder = builder.last_update(start).next_update(due or start + timedelta(days=1))
    for certificate in revoked:
        serial = x509.load_pem_x509_certificate(certificate).serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def review(outcome: Outcome, audiences: Sequence[str] = ()) -> JSONObject:
    """Render an outcome as a TokenReview and parse it as a client does."""
    request = TokenReviewRequest("authentication.k8s.io/v1", "not shown", tuple(audiences))
    return read_object(render_token_review(request, outcome))


def assert_accepted(outcome: Outcome) -> Authenticated:
    assert isinstance(outcome, Authenticated), f"refused: {outcome.error}"
    return outcome


def assert_refused(outcome: Outcome, token: str, reason: Reason, *, ours: bool = True) -> str:
    """Assert what bad-input.md calls F, and return the error's text.

    ``ours`` tells whether the token names our issuer: only then does the review carry an error.
    """
    assert isinstance(outcome, Refused)
    answer = review(outcome)
    status = answer["status"]
    assert status["authenticated"] is False
    assert status.keys() == ({"authenticated", "error"} if ours else {"authenticated"})
    assert answer["metadata"]["annotations"]["leeway.dev/reason"] == reason
    assert outcome.error.reason is reason, str(outcome.error)
    text = str(outcome.error)
    assert text
    assert "Traceback" not in text
    assert "\n" not in text
    assert len(text) < 1000
    assert_token_not_in(token, json.dumps(answer) + text)
    return text


def assert_token_not_in(token: str, text: str) -> None:
    """Assert that neither a token nor its signature occurs in a text."""
    assert not token or token not in text
    signature = token.rpartition(".")[2]
    assert len(signature) < 16 or signature not in text


def processes_of_session(session: int) -> list[int]:
    """Return the processes of a session, as ``setsid`` makes one, that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, *rest = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(rest[2]) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found
