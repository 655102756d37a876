"""Public keys: their algorithm, their ``kid``, and JSON Web Key Sets (RFC 7517, RFC 7518).

Invariants:

1. A ``VerificationKey`` is strong enough, and bound to one algorithm.
2. In a set a ``kid`` names one key.
3. A set with a symmetric, private, weak or ambiguous key is refused, not only that key.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys.encoding import decode_base64url, decode_json, encode_base64url
from keys.errors import EncodingError, UnusableKeyError

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
# RFC 7518 section 6, and ``priv`` of the keys for ML-DSA.
_PRIVATE_MEMBERS: Final = ("d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv")
_KEY_TYPES: Final = ("RSA", "EC", "OKP")
_ALGORITHMS: Final = (*_RSA_ALGORITHMS, *_ALGORITHM_OF_CURVE.values(), "EdDSA")
# No public key is for these: one that claims to be is a mistake or an attack.
_NO_PUBLIC_KEY_ALGORITHMS: Final = ("none", "HS256", "HS384", "HS512")
_MAX_NAMED: Final = 5
_ROCA_GENERATOR: Final = 65537
_ROCA_PRIMES: Final = tuple(n for n in range(2, 702) if all(n % d for d in range(2, n)))
"""The first 126 primes."""


@dataclass(frozen=True, slots=True, eq=False)
class VerificationKey:
    """A public key, its one algorithm, and its name. Compared by identity."""

    kid: str
    algorithm: str
    public_key: PublicKey


def verification_key(public_key: object, algorithm: str = "", kid: str = "") -> VerificationKey:
    """Bind a public key to an algorithm and a ``kid``, by default those of Kubernetes.

    The defaults are RS256, ES256, ES384, ES512 or EdDSA, and ``kid_of``. Raises UnusableKeyError
    for other kinds of key, RSA outside 2,048 to 8,192 bits, keys with the fingerprint of
    CVE-2017-15361, and an algorithm that does not fit the key.
    """
    # Invariant 1.
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


def is_roca_modulus(modulus: int) -> bool:
    """Return whether an RSA modulus has the fingerprint of CVE-2017-15361 (ROCA).

    The primes of such keys have the form ``k * M + (65537 ** a mod M)``, where M is the product of
    the first n primes, so the modulus is a power of 65537 modulo each of them. For keys of 1,984 to
    3,936 bits n is 126, for longer ones it is more, and the test over 126 primes finds both; a
    sound key has the fingerprint with a probability below 2**-100. Source: Nemec, Sys, Svenda,
    Klinec and Matyas, "The Return of Coppersmith's Attack", CCS 2017, section 3.
    """
    return all(modulus % prime in _powers_of_generator(prime) for prime in _ROCA_PRIMES)


# Computed on demand, because a sound key fails for one of the first primes.
@lru_cache(maxsize=len(_ROCA_PRIMES))
def _powers_of_generator(prime: int) -> frozenset[int]:
    return frozenset(pow(_ROCA_GENERATOR, exponent, prime) for exponent in range(prime))


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


class KeySet(NamedTuple):
    """The keys of a JWKS that verify signatures, and why each other key is skipped."""

    keys: tuple[VerificationKey, ...]
    skipped: tuple[str, ...]


class _SkippedKey(Exception):  # noqa: N818 - not an error
    """A key that is not used here, and why."""


def parse_jwks(document: bytes) -> KeySet:
    """Parse a JSON Web Key Set, and skip the keys that are not for signatures verified here.

    Those have another ``kty`` or ``crv``, or a ``use``, ``key_ops`` or ``alg`` for another purpose.
    Duplicates of a key count once; an entry without a ``kid`` takes that of its duplicate.

    Raises EncodingError or UnusableKeyError, with the position of the key in the set, for a
    symmetric, private, weak or malformed key, for a ``kid`` that names two keys, and for a set
    without a usable key.
    """
    value = decode_json(document)
    entries = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(entries, list) or not entries:
        raise EncodingError('not a JSON Web Key Set: it needs a member "keys" with a key in it')
    named: list[VerificationKey] = []
    unnamed: list[VerificationKey] = []
    skipped: list[str] = []
    for place, entry in enumerate(entries):
        try:
            key = _parse_jwk(entry)
        except _SkippedKey as reason:
            kid = entry.get("kid")
            name = f"key {place} ({kid[:64]!r})" if kid and isinstance(kid, str) else f"key {place}"
            skipped.append(f"{name}: {reason}")
        except (EncodingError, UnusableKeyError) as error:
            raise UnusableKeyError(f"key {place} of the set: {error}") from error
        else:
            (named if entry.get("kid") else unnamed).append(key)
    if not named and not unnamed:
        raise UnusableKeyError(f"none of its keys can be used: {first_few(skipped)}")
    known = {(kid_of(key.public_key), key.algorithm) for key in named}
    # A key without ``kid`` was given that of ``kid_of``.
    others = [key for key in unnamed if (key.kid, key.algorithm) not in known]
    return KeySet(merge_keys([*named, *others]), tuple(skipped))


def merge_keys(keys: Iterable[VerificationKey]) -> tuple[VerificationKey, ...]:
    """Return keys without duplicates. Raises UnusableKeyError if a ``kid`` names two keys."""
    merged: dict[str, VerificationKey] = {}
    for key in keys:
        other = merged.setdefault(key.kid, key)  # Invariant 2.
        if not is_same_key(other, key):
            raise UnusableKeyError(f"the kid {key.kid[:64]!r} names two different keys; remove one")
    return tuple(merged.values())


def is_same_key(one: VerificationKey, other: VerificationKey) -> bool:
    """Return whether two keys verify the same signatures, whatever their names."""
    return one.algorithm == other.algorithm and one.public_key == other.public_key


def first_few(phrases: Sequence[str]) -> str:
    """List phrases, at most a few of them."""
    left = len(phrases) - _MAX_NAMED
    return "; ".join(phrases[:_MAX_NAMED]) + (f"; and {left} more" if left > 0 else "")


def _parse_jwk(entry: object) -> VerificationKey:
    """Parse one key, after three checks.

    Raises _SkippedKey for a key that is not used here, EncodingError and UnusableKeyError.
    """
    if not isinstance(entry, dict):
        raise EncodingError("a key must be a JSON object")
    kind = _text(entry, "kty")
    # 1. It is not secret, whatever its ``use`` (invariant 3).
    if kind == "oct":
        raise UnusableKeyError("a symmetric key is not accepted; publish public keys only")
    if any(member in entry for member in _PRIVATE_MEMBERS):
        raise UnusableKeyError("it holds a private key; publish public keys only")
    # 2. It is for signatures that are verified here.
    kid = _optional_text(entry, "kid")
    algorithm = _optional_text(entry, "alg")
    _check_purpose(entry, kind, algorithm)
    # 3. It has a printable name, and is strong enough.
    if len(kid) > KID_MAX_LENGTH or not kid.isprintable():
        raise UnusableKeyError(
            f"its kid is not printable text of at most {KID_MAX_LENGTH} characters"
        )
    return verification_key(_public_key(kind, entry), algorithm, kid)


def _check_purpose(entry: dict[str, object], kind: str, algorithm: str) -> None:
    use = _optional_text(entry, "use")
    if use not in ("", "sig"):
        raise _SkippedKey(f'its "use" is {use[:32]!r}, not "sig"')
    operations = entry.get("key_ops")
    if operations is None or operations == []:
        operations = ["verify"]
    if not isinstance(operations, list) or not all(isinstance(text, str) for text in operations):
        raise EncodingError('its member "key_ops" must be a list of strings')
    if "verify" not in operations:
        raise _SkippedKey('its "key_ops" do not have "verify"')
    if kind not in _KEY_TYPES:
        raise _SkippedKey(f'its "kty" is {kind[:32]!r}, not {_one_of(_KEY_TYPES)}')
    if kind != "RSA":
        curve = _text(entry, "crv")
        curves = ("Ed25519",) if kind == "OKP" else tuple(_CURVES)
        if curve not in curves:
            raise _SkippedKey(f'its "crv" is {curve[:32]!r}, not {_one_of(curves)}')
    if algorithm and algorithm not in (*_ALGORITHMS, *_NO_PUBLIC_KEY_ALGORITHMS):
        raise _SkippedKey(
            f'its "alg" is {algorithm[:32]!r}; {", ".join(_ALGORITHMS)} are supported'
        )


def _one_of(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _public_key(kind: str, entry: dict[str, object]) -> PublicKey:
    """Return the key of an entry whose ``kty`` and ``crv`` are supported."""
    try:
        if kind == "RSA":
            numbers = rsa.RSAPublicNumbers(_decode_uint(entry, "e"), _decode_uint(entry, "n"))
            _check_rsa(numbers)
            return numbers.public_key()
        if kind == "OKP":
            return Ed25519PublicKey.from_public_bytes(_bytes(entry, "x"))
        curve = _CURVES[_text(entry, "crv")]
        size = (curve.key_size + 7) // 8
        x, y = _decode_uint(entry, "x", size), _decode_uint(entry, "y", size)
        return ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
    except ValueError as error:
        raise UnusableKeyError("its numbers do not make a public key") from error


def _optional_text(entry: dict[str, object], member: str) -> str:
    """Return a member that may be absent; null and empty count as absent."""
    return "" if entry.get(member) is None else _text(entry, member)


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
