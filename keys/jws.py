"""Compact JWS (RFC 7515 section 7.1): strict parsing, signing and verification.

Invariants:

1. Of all texts that decode to one header, payload and signature, exactly one is accepted.
2. A signature is verified with the algorithm of the key; the header only has to agree with it.
3. Nothing in the header is ever used as a key, and nothing it refers to is fetched.

>>> from keys.pem import generate_signing_key
>>> key = generate_signing_key("ES256")
>>> token = sign(b'{"iss":"https://a.example"}', key)
>>> verify(parse(token), key.verification_key)
True
>>> parse(token).unverified_payload
b'{"iss":"https://a.example"}'
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, RSAPSSAlgorithm

from keys.encoding import decode_base64url, decode_json, encode_base64url
from keys.errors import AlgorithmNotAllowedError, EncodingError, MalformedJWSError
from keys.jwk import KID_MAX_LENGTH, PrivateKey, VerificationKey

MAX_COMPACT_LENGTH: Final = 32 * 1024
DEFAULT_TYPE: Final = "JWT"
_MAX_HEADER_LENGTH: Final = 4 * 1024


class _RSAAlgorithm(RSAAlgorithm):
    """PyJWT's, with one set of parameters for all signatures.

    That saves a tenth of the time of a verification.
    """

    _PADDING: Final = padding.PKCS1v15()

    def __init__(self, hash_algorithm: type[hashes.HashAlgorithm]) -> None:
        super().__init__(hash_algorithm)
        self._hash = hash_algorithm()

    def sign(self, msg: bytes, key: RSAPrivateKey) -> bytes:
        return key.sign(msg, self._PADDING, self._hash)

    def verify(self, msg: bytes, key: RSAPublicKey, sig: bytes) -> bool:
        try:
            key.verify(sig, msg, self._PADDING, self._hash)
        except InvalidSignature:
            return False
        return True


class _ECAlgorithm(ECAlgorithm):
    """PyJWT's, with one set of parameters, and a faster conversion of signatures."""

    def __init__(self, hash_algorithm: type[hashes.HashAlgorithm]) -> None:
        super().__init__(hash_algorithm)
        self._ecdsa = ec.ECDSA(hash_algorithm())

    def sign(self, msg: bytes, key: Any) -> bytes:
        size = (key.key_size + 7) // 8
        r, s = decode_dss_signature(key.sign(msg, self._ecdsa))
        return r.to_bytes(size) + s.to_bytes(size)

    def verify(self, msg: bytes, key: Any, sig: bytes) -> bool:
        size = (key.key_size + 7) // 8
        if len(sig) != 2 * size:
            return False
        der = encode_dss_signature(int.from_bytes(sig[:size]), int.from_bytes(sig[size:]))
        try:
            key.verify(der, msg, self._ecdsa)
        except InvalidSignature:
            return False
        return True


# PyJWT's algorithm objects have different types of keys.
_ALGORITHMS: Final[dict[str, Any]] = {
    "RS256": _RSAAlgorithm(RSAAlgorithm.SHA256),
    "RS384": _RSAAlgorithm(RSAAlgorithm.SHA384),
    "RS512": _RSAAlgorithm(RSAAlgorithm.SHA512),
    "PS256": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA256),
    "PS384": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA384),
    "PS512": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA512),
    "ES256": _ECAlgorithm(ECAlgorithm.SHA256),
    "ES384": _ECAlgorithm(ECAlgorithm.SHA384),
    "ES512": _ECAlgorithm(ECAlgorithm.SHA512),
    "EdDSA": OKPAlgorithm(),
}
# Invariant 3: RFC 7515 section 4.1.11, RFC 7797, and the parameters that name a key or change the
# meaning of the payload. None of them is supported.
_REFUSED_PARAMETERS: Final = ("crit", "b64", "jwk", "jku", "x5u", "x5c", "cty", "zip")


class Header(NamedTuple):
    """The protected header: ``alg``, and ``kid``, which is None if it is absent or empty.

    Kubernetes before 1.16 wrote an empty ``kid`` into the tokens in Secrets.
    """

    algorithm: str
    kid: str | None


class CompactJWS(NamedTuple):
    """The parts of a compact JWS. Nothing in it is verified."""

    header_segment: bytes
    signing_input: bytes
    unverified_payload: bytes
    signature_segment: bytes


@dataclass(frozen=True, slots=True, eq=False)
class SigningKey:
    """A private key and its verification key."""

    private_key: PrivateKey
    verification_key: VerificationKey

    def __repr__(self) -> str:
        return f"SigningKey(kid={self.verification_key.kid!r})"


def parse(token: str) -> CompactJWS:
    """Take a compact JWS of at most 32 KiB apart.

    The header and the signature are decoded by ``header`` and ``verify``, so that a caller can
    first learn from the payload whose token it is. Raises MalformedJWSError for anything but
    three segments separated by dots with base64url in the middle one.
    """
    if len(token) > MAX_COMPACT_LENGTH:
        raise MalformedJWSError(f"it is longer than {MAX_COMPACT_LENGTH} characters")
    try:
        data = token.encode("ascii")
    except UnicodeEncodeError as error:
        raise MalformedJWSError("it is not ASCII") from error
    signing_input, _, signature_segment = data.rpartition(b".")
    header_segment, dot, payload_segment = signing_input.partition(b".")
    if not dot or b"." in payload_segment:
        raise MalformedJWSError("it is not three segments separated by dots")
    try:
        payload = decode_base64url(payload_segment)
    except EncodingError as error:
        raise MalformedJWSError(f"its payload is {error}") from error
    return CompactJWS(header_segment, signing_input, payload, signature_segment)


def header(jws: CompactJWS, token_type: str = DEFAULT_TYPE) -> Header:
    """Return the protected header of a token of a type (RFC 8725 section 3.11).

    It (1) has at most 4,096 characters, (2) is a JSON object, (3) has no parameter that names a key
    or changes the payload's meaning, and has (4) that ``typ``, if any, (5) a printable ``kid``, if
    any, and (6) an ``alg`` that is supported. Raises MalformedJWSError, and for check 6
    AlgorithmNotAllowedError.
    """
    try:
        return _parse_header(jws.header_segment, token_type)
    except EncodingError as error:
        raise MalformedJWSError(f"its header is {error}") from error


@lru_cache(maxsize=256)
def _parse_header(segment: bytes, token_type: str) -> Header:
    # Memoised because all tokens of a key have the same header; a refusal is not remembered.
    if len(segment) > _MAX_HEADER_LENGTH:  # 1.
        raise MalformedJWSError(f"its header is longer than {_MAX_HEADER_LENGTH} characters")
    members = decode_json(decode_base64url(segment))
    if not isinstance(members, dict):  # 2.
        raise MalformedJWSError("its header is not a JSON object")
    for parameter in _REFUSED_PARAMETERS:  # 3.
        if parameter in members:
            raise MalformedJWSError(f'its header has "{parameter}", which is not accepted')
    if members.get("typ", DEFAULT_TYPE) != token_type:  # 4.
        raise MalformedJWSError(f'the "typ" of its header is not "{token_type}"')
    kid = members.get("kid", "")  # 5.
    if not isinstance(kid, str) or len(kid) > KID_MAX_LENGTH or not kid.isprintable():
        raise MalformedJWSError(
            f'the "kid" of its header is not printable text of at most {KID_MAX_LENGTH} characters'
        )
    algorithm = members.get("alg")  # 6.
    if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
        shown = repr(algorithm[:16]) if isinstance(algorithm, str) else "absent or not a string"
        raise AlgorithmNotAllowedError(f'the "alg" of its header is {shown}')
    return Header(algorithm, kid or None)


def verify(jws: CompactJWS, key: VerificationKey, token_type: str = DEFAULT_TYPE) -> bool:
    """Return whether the signature of a token of a type is one by this key.

    Raises AlgorithmNotAllowedError if the header names an algorithm other than the key's (RFC 8725
    section 3.1), and MalformedJWSError if header or signature cannot be decoded.
    """
    named = header(jws, token_type).algorithm
    if named != key.algorithm:  # Invariant 2.
        raise AlgorithmNotAllowedError(
            f'the "alg" of its header is {named}, but the key is for {key.algorithm}'
        )
    try:
        signature = decode_base64url(jws.signature_segment)
    except EncodingError as error:
        raise MalformedJWSError(f"its signature is {error}") from error
    verified: bool = _ALGORITHMS[named].verify(jws.signing_input, key.public_key, signature)
    return verified


def sign(payload: bytes, key: SigningKey, token_type: str = DEFAULT_TYPE) -> str:
    """Sign a payload and return the compact JWS.

    Like Kubernetes, it does not write the default type into the header.
    """
    header_segment = _header_segment(key.verification_key, token_type)
    segments = header_segment + b"." + encode_base64url(payload).encode()
    algorithm = _ALGORITHMS[key.verification_key.algorithm]
    signature: bytes = algorithm.sign(segments, key.private_key)
    return f"{segments.decode()}.{encode_base64url(signature)}"


def sign_segment(payload_segment: bytes, key: SigningKey) -> tuple[bytes, bytes]:
    """Sign a payload that is base64url already, and return the header and the signature segment.

    The header has ``alg``, ``kid`` and ``typ``, as Kubernetes' ExternalJWTSigner requires.
    """
    header_segment = _header_segment(key.verification_key, DEFAULT_TYPE, writes_default=True)
    algorithm = _ALGORITHMS[key.verification_key.algorithm]
    signature = algorithm.sign(b"%b.%b" % (header_segment, payload_segment), key.private_key)
    return header_segment, encode_base64url(signature).encode()


@lru_cache(maxsize=16)
def _header_segment(
    key: VerificationKey, token_type: str, *, writes_default: bool = False
) -> bytes:
    members = {"alg": key.algorithm, "kid": key.kid}
    if writes_default or token_type != DEFAULT_TYPE:
        members["typ"] = token_type
    header = msgspec.json.encode(members)
    return encode_base64url(header).encode("ascii")
