"""Keys as PEM: PKCS#1, PKCS#8, SEC1 and SubjectPublicKeyInfo (RFC 7468, RFC 8017, RFC 5915)."""

import re
from math import lcm
from typing import Final

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from keys.errors import KeyFileError, UnusableKeyError
from keys.jwk import PrivateKey, PublicKey, VerificationKey, merge_keys, verification_key
from keys.jws import SigningKey

RSA_BITS: Final = 2048
ALGORITHMS: Final = ("RS256", "ES256", "ES384", "ES512", "EdDSA")

# The content ends at the next five dashes, so that a block without an end is not searched further.
INSIDE: Final = rb"[^-]*+(?:-(?!----)[^-]*+)*"
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n" + INSIDE + rb"-----END \1-----")
_PRIVATE_LABELS: Final = (b"PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY")
_PUBLIC_LABELS: Final = (b"PUBLIC KEY", b"RSA PUBLIC KEY")


def generate_signing_key(algorithm: str) -> SigningKey:
    """Make a key for RS256 (2,048 bits), ES256, ES384, ES512 or EdDSA (Ed25519)."""
    private: PrivateKey
    match algorithm:
        case "RS256":
            private = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
        case "ES256":
            private = ec.generate_private_key(ec.SECP256R1())
        case "ES384":
            private = ec.generate_private_key(ec.SECP384R1())
        case "ES512":
            private = ec.generate_private_key(ec.SECP521R1())
        case "EdDSA":
            private = Ed25519PrivateKey.generate()
        case _:
            allowed = ", ".join(ALGORITHMS)
            raise UnusableKeyError(f"algorithm {algorithm!r} is not served; use one of {allowed}")
    return SigningKey(private, verification_key(private.public_key()))


def private_key_pem(private_key: PrivateKey) -> bytes:
    """Render a private key as unencrypted PKCS#8."""
    return private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_key_pem(public_key: PublicKey) -> bytes:
    """Render a public key as SubjectPublicKeyInfo."""
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def parse_private_key(pem: bytes, name: str) -> SigningKey:
    """Parse the only private key of a PEM text, which errors call ``name``.

    Raises KeyFileError if there is no key, more than one, or an encrypted one, and
    UnusableKeyError if it is too weak or of an unsupported kind.
    """
    blocks = [text for label, text in _blocks(pem, name) if label in _PRIVATE_LABELS]
    if len(blocks) != 1:
        raise KeyFileError(
            f"{name} holds {len(blocks)} private keys, one is allowed; leave one key in the file"
        )
    try:
        private = _load_private_key(blocks[0])
    except TypeError as error:
        raise KeyFileError(_encrypted(name)) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{name} does not hold a complete private key; restore it") from error
    if not isinstance(private, PrivateKey):
        raise UnusableKeyError(f"{name}: use a key for RSA, P-256, P-384, P-521 or Ed25519")
    try:
        return SigningKey(private, verification_key(private.public_key()))
    except UnusableKeyError as error:
        raise UnusableKeyError(f"{name}: {error}") from error


def _load_private_key(block: bytes) -> PrivateKeyTypes:
    # OpenSSL's own check tests whether the factors of an RSA key are primes, which takes longer
    # than the rest of a server's start.
    private = load_pem_private_key(block, password=None, unsafe_skip_rsa_key_validation=True)
    if isinstance(private, rsa.RSAPrivateKey) and not _is_consistent(private):
        raise ValueError("its numbers do not belong together")
    return private


def _is_consistent(private: rsa.RSAPrivateKey) -> bool:
    """Return whether the numbers of an RSA key agree, and its signatures can be verified.

    They could not if a factor were not a prime. Source: RFC 8017 section 3.2.
    """
    key = private.private_numbers()
    public, p, q = key.public_numbers, key.p, key.q
    agree = (
        min(p, q) > 1
        and p * q == public.n
        and public.e * key.d % lcm(p - 1, q - 1) == 1
        and key.dmp1 == key.d % (p - 1)
        and key.dmq1 == key.d % (q - 1)
        and key.iqmp * q % p == 1
    )
    if not agree:
        return False
    scheme, digest = padding.PKCS1v15(), hashes.SHA256()
    try:
        private.public_key().verify(private.sign(b"-", scheme, digest), b"-", scheme, digest)
    except (InvalidSignature, ValueError, InternalError):
        return False
    return True


def parse_public_keys(pem: bytes, name: str) -> tuple[VerificationKey, ...]:
    """Parse every key of a PEM text: public keys, certificates, or private keys' public halves.

    Accepts the same as kube-apiserver's ``--service-account-key-file`` (client-go
    ``util/keyutil``, ``ParsePublicKeysPEM``). Duplicates of a key count once. Raises KeyFileError
    or UnusableKeyError.
    """
    keys: list[VerificationKey] = []
    for label, text in _blocks(pem, name):
        if label in _PRIVATE_LABELS:
            key = parse_private_key(text, name).verification_key
        else:
            try:
                if label == b"CERTIFICATE":
                    key = verification_key(x509.load_pem_x509_certificate(text).public_key())
                else:
                    key = verification_key(load_pem_public_key(text))
            except (ValueError, UnsupportedAlgorithm) as error:
                raise KeyFileError(f"{name} does not hold a complete public key") from error
            except UnusableKeyError as error:
                raise UnusableKeyError(f"{name}: {error}") from error
        keys.append(key)
    return merge_keys(keys)


def _blocks(pem: bytes, name: str) -> list[tuple[bytes, bytes]]:
    accepted = (*_PRIVATE_LABELS, *_PUBLIC_LABELS, b"CERTIFICATE")
    found = [(match[1], match[0] + b"\n") for match in _BLOCK.finditer(pem)]
    if any(label == b"ENCRYPTED PRIVATE KEY" for label, _ in found):
        raise KeyFileError(_encrypted(name))
    blocks = [(label, text) for label, text in found if label in accepted]
    if not blocks or pem.count(b"-----BEGIN ") != len(found):
        raise KeyFileError(f"{name} is not a complete PEM file with a key in it; restore it")
    return blocks


def _encrypted(name: str) -> str:
    return f"{name} is encrypted, and there is no password for it; decrypt it with `openssl pkey`"
