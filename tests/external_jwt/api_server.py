"""A model of kube-apiserver with ``--service-account-signing-endpoint``: what it checks.

Source: kubernetes ``pkg/serviceaccount/externaljwt/plugin/{plugin,keycache}.go`` and the start in
``pkg/controlplane/apiserver/options``. Where it accepts what nobody could use, the model is
stricter and says so.

At the start and at each refresh:

1. Metadata: the maximum is at least 600 s, and ``--service-account-max-token-expiration`` does
   not exceed it.
2. FetchKeys: a refresh hint above 0, at least one key, a valid timestamp.
3. Each key has a ``kid`` of 1 to 1,024 bytes and is a PKIX public key, RSA or on a curve of
   ES256, ES384 or ES512, since discovery publishes no other. Stricter: no ``kid`` twice.
4. A change is seen by the timestamp, the number, the order, the ``kid``s and the flags. Stricter:
   the same keys come in the same order with the same timestamp, and other keys with another.

For each token:

5. The header is base64url without padding, of an object with ``alg``, ``kid`` and ``typ`` and
   nothing else; ``typ`` is ``JWT``. Stricter: in this spelling, and none twice.
6. The ``kid`` has 1 to 1,024 bytes, ``alg`` is RS256, ES256, ES384 or ES512.
7. The ``kid`` is among the fetched keys and not excluded from discovery; for an unknown one the
   keys are fetched once more. Stricter: it is known then.
8. The signature is not empty. Stricter: it verifies over the bytes that were sent.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.external_jwt.messages import Key, Keys, Signed

ALGORITHMS = ("RS256", "ES256", "ES384", "ES512")
LEAST_EXPIRATION = 600
_LONGEST_KID = 1024
_CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
_HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
# From the first second of the year 1 to the last of 9999, as protobuf's Timestamp.
_TIMESTAMPS = range(-62_135_596_800, 253_402_300_800)


class RejectedError(Exception):
    """An answer of the signer that kube-apiserver, or this stricter model, does not accept."""


class Signer(Protocol):
    """The three calls."""

    def sign(self, claims: str) -> Signed: ...

    def fetch_keys(self) -> Keys: ...

    def max_expiration(self) -> int: ...


@dataclass(frozen=True)
class _Header:
    alg: str
    kid: str


class ApiServer:
    """One run of kube-apiserver; ``max_expiration`` is its own flag, None if it is not set.

    ``fetched`` counts the calls of FetchKeys and ``changes`` the changes seen, the first of them
    when the keys become known.
    """

    def __init__(self, signer: Signer, max_expiration: int | None = None) -> None:
        self._signer = signer
        self._max_expiration = max_expiration
        self.keys: Keys = Keys((), None, 0)
        self.fetched = 0
        self.changes = 0

    def start(self) -> None:
        """Do what comes before the first request. Raises RejectedError."""
        longest = self._signer.max_expiration()
        if longest < LEAST_EXPIRATION:  # Check 1.
            raise RejectedError(f"the maximum is {longest} s, less than {LEAST_EXPIRATION} s")
        if self._max_expiration is not None and self._max_expiration > longest:
            raise RejectedError(f"the flag allows {self._max_expiration} s, the signer {longest} s")
        self.refresh()

    def refresh(self) -> None:
        """Fetch the keys. Raises RejectedError."""
        self.fetched += 1
        new = self._signer.fetch_keys()
        check_keys(new)
        old, self.keys = self.keys, new
        if old.keys:
            check_change(old, new)
        self.changes += (old.timestamp, _seen(old)) != (new.timestamp, _seen(new))

    def create_token(self, payload: bytes) -> str:
        """Have a payload signed, and return the token. Raises RejectedError."""
        claims = encode(payload)
        return self.accept(claims, self._signer.sign(claims))

    def accept(self, claims: str, signed: Signed) -> str:
        """Check the answer of a call and put the token together. Raises RejectedError."""
        header = read_header(signed.header)
        key = self._key(header.kid)
        if key is None:  # Check 7.
            self.refresh()
            key = self._key(header.kid)
        if key is None:
            raise RejectedError(f"the kid {header.kid!r} is not among the fetched keys")
        if key.excluded:
            raise RejectedError(f"the kid {header.kid!r} is excluded from discovery")
        token = f"{signed.header}.{claims}.{signed.signature}"
        self.verify(token)
        return token

    def verify(self, token: str) -> None:
        """Verify a token with the keys that are known now. Raises RejectedError."""
        signed, _, signature = token.rpartition(".")
        header = read_header(signed.partition(".")[0])
        key = self._key(header.kid)
        if key is None:
            raise RejectedError(f"the kid {header.kid!r} is not among the fetched keys")
        if not signature:  # Check 8.
            raise RejectedError("the signature is empty")
        check_signature(key.der, header.alg, signed.encode(), decode(signature))

    def _key(self, kid: str) -> Key | None:
        return next((key for key in self.keys.keys if key.kid == kid), None)


def _seen(keys: Keys) -> list[tuple[str, bool]]:
    return [(key.kid, key.excluded) for key in keys.keys]


def check_keys(keys: Keys) -> None:
    """Checks 2 and 3. Raises RejectedError."""
    if keys.refresh_hint <= 0:
        raise RejectedError(f"the refresh hint is {keys.refresh_hint} s")
    if not keys.keys:
        raise RejectedError("there are no keys")
    if keys.timestamp is None:
        raise RejectedError("there is no timestamp")
    seconds, nanoseconds = keys.timestamp
    if seconds not in _TIMESTAMPS or not 0 <= nanoseconds < 1_000_000_000:
        raise RejectedError(f"{keys.timestamp} is not a timestamp")
    for key in keys.keys:
        if not 1 <= len(key.kid.encode()) <= _LONGEST_KID:
            raise RejectedError(f"a kid has {len(key.kid.encode())} bytes")
        algorithm_of(key.der)
    if len({key.kid for key in keys.keys}) != len(keys.keys):
        raise RejectedError("a kid is given twice")


def check_change(old: Keys, new: Keys) -> None:
    """Check 4. Raises RejectedError."""
    same_keys = set(old.keys) == set(new.keys)
    if same_keys and old.keys != new.keys:
        raise RejectedError("the order has changed, the keys have not")
    if same_keys != (old.timestamp == new.timestamp):
        has, has_not = ("keys", "timestamp") if same_keys is False else ("timestamp", "keys")
        raise RejectedError(f"the {has} changed, the {has_not} did not")


def algorithm_of(der: bytes) -> str:
    """Return the algorithm of a PKIX public key. Raises RejectedError."""
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RejectedError("a key is not a PKIX public key") from error
    if isinstance(key, rsa.RSAPublicKey):
        return "RS256"
    for algorithm, curve in _CURVES.items():
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, curve):
            return algorithm
    raise RejectedError("discovery has no algorithm for a key")


def read_header(text: str) -> _Header:
    """Checks 5 and 6. Raises RejectedError."""
    try:
        pairs = json.loads(decode(text), object_pairs_hook=list)
    except ValueError as error:
        raise RejectedError("the header is not JSON") from error
    # An object is a list of pairs here, and so could be an array of arrays; none has these names.
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise RejectedError("the header is not an object")
    names = sorted(name for name, _ in pairs)
    if names != ["alg", "kid", "typ"]:
        raise RejectedError(f"the header has the members {names}")
    members = dict(pairs)
    if members["typ"] != "JWT":
        raise RejectedError(f"typ is {members['typ']!r}")
    if members["alg"] not in ALGORITHMS:
        raise RejectedError(f"alg is {members['alg']!r}")
    kid = members["kid"]
    if not isinstance(kid, str) or not 1 <= len(kid.encode()) <= _LONGEST_KID:
        raise RejectedError("the kid is not a text of 1 to 1,024 bytes")
    return _Header(members["alg"], kid)


def check_signature(der: bytes, algorithm: str, message: bytes, signature: bytes) -> None:
    """Verify a signature (RFC 7518 sections 3.3 and 3.4). Raises RejectedError."""
    if algorithm_of(der) != algorithm:
        raise RejectedError(f"alg is {algorithm}, the key is one of {algorithm_of(der)}")
    key, digest = load_der_public_key(der), _HASHES[algorithm[2:]]
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PKCS1v15(), digest)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            size = (key.curve.key_size + 7) // 8
            if len(signature) != 2 * size:
                raise RejectedError(f"a signature of {algorithm} has {len(signature)} bytes")
            r, s = (int.from_bytes(half) for half in (signature[:size], signature[size:]))
            key.verify(encode_dss_signature(r, s), message, ec.ECDSA(digest))
    except InvalidSignature as error:
        raise RejectedError("the signature does not verify") from error


def encode(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Read base64url without padding, in its one spelling. Raises RejectedError."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error) as error:
        raise RejectedError("it is not base64url") from error
    if not _BASE64URL.fullmatch(text) or encode(data) != text:
        raise RejectedError("it is not base64url without padding")
    return data
