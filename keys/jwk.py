"""Public keys: their algorithm, their ``kid``, and JSON Web Key Sets (RFC 7517, RFC 7518).

Invariants:

1. A ``VerificationKey`` is strong enough and bound to one algorithm for its whole life.
2. No two keys of a set share a ``kid``.
3. Symmetric and private keys never pass ``parse_jwks``.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys.encoding import decode_base64url, decode_json, encode_base64url
from keys.errors import EncodingError, UnusableKeyError
from keys.roca import is_roca_modulus

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | Ed25519PublicKey
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed25519PrivateKey

RSA_MIN_BITS: Final = 2048
RSA_MAX_BITS: Final = 8192
KID_MAX_LENGTH: Final = 1024
_RSA_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_ALGORITHM_OF_CURVE: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}
_PRIVATE_MEMBERS: Final = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")


@dataclass(frozen=True, slots=True, eq=False)
class VerificationKey:
    """A public key, the one algorithm it verifies, and its name. Compared by identity."""

    kid: str
    algorithm: str
    public_key: PublicKey


def verification_key(public_key: object, algorithm: str = "", kid: str = "") -> VerificationKey:
    """Bind a public key to an algorithm and a ``kid``, by default those Kubernetes gives it.

    The defaults are RS256, ES256, ES384, ES512 or EdDSA, and ``kid_of``. Raises UnusableKeyError
    for other kinds of key, RSA outside 2,048 to 8,192 bits, keys with the fingerprint of
    CVE-2017-15361, and an algorithm that does not go with the key.
    """
    public, default = _supported(public_key)
    fits = algorithm in _RSA_ALGORITHMS if default == "RS256" else algorithm == default
    if algorithm and not fits:
        raise UnusableKeyError(f"algorithm {algorithm[:32]!r} does not go with a key for {default}")
    return VerificationKey(kid or kid_of(public), algorithm or default, public)


def _supported(public_key: object) -> tuple[PublicKey, str]:
    if isinstance(public_key, rsa.RSAPublicKey):
        _check_rsa(public_key.public_numbers())
        return public_key, "RS256"
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        algorithm = _ALGORITHM_OF_CURVE.get(public_key.curve.name)
        if algorithm is not None:
            return public_key, algorithm
    elif isinstance(public_key, Ed25519PublicKey):
        return public_key, "EdDSA"
    raise UnusableKeyError(
        "a key of this kind is not served; use RSA, P-256, P-384, P-521 or Ed25519"
    )


def _check_rsa(numbers: rsa.RSAPublicNumbers) -> None:
    bits = numbers.n.bit_length()
    if not RSA_MIN_BITS <= bits <= RSA_MAX_BITS:
        raise UnusableKeyError(
            f"an RSA key of {bits} bits is not accepted; use {RSA_MIN_BITS} to {RSA_MAX_BITS} bits"
        )
    if numbers.n % 2 == 0:
        raise UnusableKeyError("this RSA modulus is even; it is not that of a sound key")
    if numbers.e < 3 or numbers.e % 2 == 0:
        raise UnusableKeyError("this RSA public exponent is not accepted; use 65537")
    if is_roca_modulus(numbers.n):
        raise UnusableKeyError("this RSA key can be factored (CVE-2017-15361); make a new one")


def kid_of(public_key: PublicKey) -> str:
    """Name a key as Kubernetes does: base64url(SHA-256(SubjectPublicKeyInfo)).

    Source: kubernetes ``pkg/serviceaccount/jwt.go``, ``keyIDFromPublicKey``.
    """
    der = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encode_base64url(hashlib.sha256(der).digest())


def to_jwk(key: VerificationKey) -> dict[str, str]:
    """Render a key as a JWK (RFC 7517) with the members and the order of Kubernetes (go-jose)."""
    public = key.public_key
    name, algorithm = {"kid": key.kid}, {"alg": key.algorithm}
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        modulus = {"n": _encode_uint(numbers.n), "e": _encode_uint(numbers.e)}
        return {"use": "sig", "kty": "RSA"} | name | algorithm | modulus
    if isinstance(public, ec.EllipticCurvePublicKey):
        point = public.public_numbers()
        size = (public.curve.key_size + 7) // 8
        curve = next(text for text, c in _CURVES.items() if c.name == public.curve.name)
        x, y = _encode_uint(point.x, size), _encode_uint(point.y, size)
        return {"use": "sig", "kty": "EC"} | name | {"crv": curve} | algorithm | {"x": x, "y": y}
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    x = encode_base64url(raw)
    return {"use": "sig", "kty": "OKP"} | name | {"crv": "Ed25519"} | algorithm | {"x": x}


def jwks_document(keys: Iterable[VerificationKey]) -> bytes:
    """Render a JSON Web Key Set (RFC 7517 section 5) as UTF-8 JSON."""
    return msgspec.json.encode({"keys": [to_jwk(key) for key in keys]})


def parse_jwks(document: bytes) -> tuple[VerificationKey, ...]:
    """Parse a JSON Web Key Set whose keys are all fit for verifying signatures.

    Raises EncodingError or UnusableKeyError, naming the key by its place in the set, as soon as
    one key is not: a set that is half understood is a set that verifies the wrong half.
    """
    value = decode_json(document)
    entries = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(entries, list) or not entries:
        raise EncodingError('not a JSON Web Key Set: it needs a member "keys" with a key in it')
    keys: dict[str, VerificationKey] = {}
    for place, entry in enumerate(entries):
        try:
            key = _parse_jwk(entry)
        except (EncodingError, UnusableKeyError) as error:
            raise UnusableKeyError(f"key {place} of the set: {error}") from error
        if key.kid in keys:
            raise UnusableKeyError(f"key {place} of the set: its kid is that of another key")
        keys[key.kid] = key
    return tuple(keys.values())


def _parse_jwk(entry: object) -> VerificationKey:
    if not isinstance(entry, dict):
        raise EncodingError("a key must be a JSON object")
    kind = _text(entry, "kty")
    if kind == "oct":
        raise UnusableKeyError("a symmetric key is not accepted; publish public keys only")
    if any(member in entry for member in _PRIVATE_MEMBERS):
        raise UnusableKeyError("it holds a private key; publish public keys only")
    if entry.get("use", "sig") != "sig":
        raise UnusableKeyError('its "use" is not "sig"')
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise UnusableKeyError('its "key_ops" do not allow "verify"')
    kid = _text(entry, "kid") if "kid" in entry else ""
    if len(kid) > KID_MAX_LENGTH or not kid.isprintable():
        raise UnusableKeyError(
            f"its kid is not printable text of at most {KID_MAX_LENGTH} characters"
        )
    algorithm = _text(entry, "alg") if "alg" in entry else ""
    return verification_key(_public_key(kind, entry), algorithm, kid)


def _public_key(kind: str, entry: dict[str, object]) -> PublicKey:
    try:
        if kind == "RSA":
            numbers = rsa.RSAPublicNumbers(_decode_uint(entry, "e"), _decode_uint(entry, "n"))
            _check_rsa(numbers)
            return numbers.public_key()
        curve = _text(entry, "crv")
        if kind == "EC" and curve in _CURVES:
            size = (_CURVES[curve].key_size + 7) // 8
            x, y = _decode_uint(entry, "x", size), _decode_uint(entry, "y", size)
            return ec.EllipticCurvePublicNumbers(x, y, _CURVES[curve]).public_key()
        if kind == "OKP" and curve == "Ed25519":
            return Ed25519PublicKey.from_public_bytes(_bytes(entry, "x"))
    except ValueError as error:
        raise UnusableKeyError("its numbers do not make a public key") from error
    raise UnusableKeyError(
        "its kty and crv are not served; use RSA, P-256, P-384, P-521 or Ed25519"
    )


def _text(entry: dict[str, object], member: str) -> str:
    value = entry.get(member)
    if not isinstance(value, str):
        raise EncodingError(f'its member "{member}" must be a string')
    return value


def _bytes(entry: dict[str, object], member: str) -> bytes:
    return decode_base64url(_text(entry, member).encode("utf-8"))


def _decode_uint(entry: dict[str, object], member: str, size: int | None = None) -> int:
    data = _bytes(entry, member)
    if size is not None and len(data) != size:
        raise EncodingError(f'its member "{member}" must be {size} bytes long')
    return int.from_bytes(data, "big")


def _encode_uint(value: int, size: int | None = None) -> str:
    return encode_base64url(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))
