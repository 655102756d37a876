"""HMAC "signatures" with a public key as the secret (CVE-2022-29217)."""

import hmac
from collections.abc import Callable

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys.jwk import to_jwk
from keys.jws import SigningKey
from tests.support import as_json, b64


def _public(key: SigningKey, encoding: Encoding) -> bytes:
    public = key.verification_key.public_key
    return public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


SECRETS: dict[str, Callable[[SigningKey], bytes]] = {
    "PEM": lambda key: _public(key, Encoding.PEM),
    "PEM-without-last-newline": lambda key: _public(key, Encoding.PEM).strip(),
    "DER": lambda key: _public(key, Encoding.DER),
    "JWK": lambda key: as_json(to_jwk(key.verification_key)),
}


def sign(signing_input: str, secret: bytes, algorithm: str) -> str:
    mac = hmac.digest(secret, signing_input.encode("ascii"), f"sha{algorithm[2:]}")
    return f"{signing_input}.{b64(mac)}"
