"""Claim: checking a token costs little more than its signature.

Measured in one process, in turn: ``cryptography`` verifies the signatures of tokens that were
parsed beforehand; ``Authenticator.authenticate`` checks the same tokens when it has seen none of
them, and again when it has seen them all. Rates are tokens per second.
"""

import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from benchmarks.report import Row, rate_row
from benchmarks.tokens import make_tokens
from keys.encoding import decode_base64url
from keys.keyring import Keyring
from keys.pem import generate_signing_key
from webhook.token.authenticator import Authenticator, TrustedIssuer
from webhook.token.claims import ClockLeeway
from webhook.token.issuer import TokenPolicy
from webhook.token.outcome import Authenticated

ISSUER: Final = "https://leeway.default.svc"
AUDIENCES: Final = ("https://kubernetes.default.svc",)
POLICY: Final = TokenPolicy(ISSUER, AUDIENCES, 3600, 600, 86400, extend=True)
_LEEWAY: Final = ClockLeeway(60, 60, 60)
_FLOORS: Final = {"RS256": 0.60, "ES256": 0.75}
_SEEN_FLOOR: Final = 10.0
_P256_BYTES: Final = 32


class Signed(NamedTuple):
    """A signature and the signed bytes; an ECDSA signature is DER."""

    signature: bytes
    signing_input: bytes


class _Round(NamedTuple):
    bare: float
    unseen: float
    seen: float


def run(*, quick: bool) -> list[Row]:
    """Measure RS256 and ES256."""
    rounds, count = (7, 500) if quick else (15, 2000)
    return [row for name in _FLOORS for row in _measure(name, rounds, count)]


def _measure(algorithm: str, rounds: int, count: int) -> list[Row]:
    key = generate_signing_key(algorithm)
    keyring = Keyring().with_new_key(key, int(time.time()))
    tokens = make_tokens(keyring, POLICY, count)
    verify_all = _bare_verifier(key.verification_key.public_key)
    pairs = [_split(token, algorithm) for token in tokens]
    _round(verify_all, pairs, keyring, tokens)  # Warms up.
    results = [_round(verify_all, pairs, keyring, tokens) for _ in range(rounds)]
    bare, unseen, seen = zip(*results, strict=True)
    different = f"{count:,} different tokens a round, a new Authenticator each time"
    return [
        rate_row(
            f"{algorithm} verification, tokens not seen before",
            _FLOORS[algorithm],
            ("Authenticator", unseen),
            ("bare cryptography", bare),
            "tokens/s",
            [different],
        ),
        rate_row(
            f"{algorithm} verification, tokens seen before",
            _SEEN_FLOOR,
            ("seen before", seen),
            ("not seen before", unseen),
            "tokens/s",
            [different],
        ),
    ]


def _round(
    verify_all: Callable[[Iterable[Signed]], None],
    pairs: list[Signed],
    keyring: Keyring,
    tokens: list[str],
) -> _Round:
    started = time.perf_counter()
    verify_all(pairs)
    bare = time.perf_counter() - started
    issuer = TrustedIssuer(ISSUER, AUDIENCES, keyring.verification_keys())
    authenticator = Authenticator([issuer], _LEEWAY)
    unseen = _authenticate_all(authenticator, tokens)
    seen = _authenticate_all(authenticator, tokens)
    return _Round(*(len(tokens) / seconds for seconds in (bare, unseen, seen)))


def _authenticate_all(authenticator: Authenticator, tokens: list[str]) -> float:
    authenticate, now = authenticator.authenticate, time.time()
    started = time.perf_counter()
    outcomes = [authenticate(token, AUDIENCES, now) for token in tokens]
    seconds = time.perf_counter() - started
    if not all(isinstance(outcome, Authenticated) for outcome in outcomes):
        raise RuntimeError("a token was refused")
    return seconds


def _bare_verifier(key: object) -> Callable[[Iterable[Signed]], None]:
    """Return a loop over ``key.verify``, which raises InvalidSignature for a wrong signature."""
    sha256 = hashes.SHA256()
    if isinstance(key, rsa.RSAPublicKey):
        verify_rsa, scheme = key.verify, padding.PKCS1v15()

        def verify_all(pairs: Iterable[Signed]) -> None:
            for signature, signing_input in pairs:
                verify_rsa(signature, signing_input, scheme, sha256)

        return verify_all
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError("neither an RSA nor an elliptic-curve key")
    verify_ec, ecdsa = key.verify, ec.ECDSA(sha256)

    def verify_all_ec(pairs: Iterable[Signed]) -> None:
        for signature, signing_input in pairs:
            verify_ec(signature, signing_input, ecdsa)

    return verify_all_ec


def _split(token: str, algorithm: str) -> Signed:
    signing_input, _, segment = token.encode("ascii").rpartition(b".")
    signature = decode_base64url(segment)
    if algorithm.startswith("ES"):
        r, s = signature[:_P256_BYTES], signature[_P256_BYTES:]
        signature = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    return Signed(signature, signing_input)
