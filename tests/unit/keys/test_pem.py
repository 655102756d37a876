import base64
import hashlib
import subprocess
from datetime import UTC, datetime
from math import gcd, lcm
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    RSAPrivateNumbers,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from keys import jws
from keys.errors import InvalidKeyError, KeyFileError, UnusableKeyError
from keys.jwk import jwks_document, kid_of, parse_jwks, verification_key
from keys.pem import (
    ALGORITHMS,
    generate_signing_key,
    parse_private_key,
    parse_public_keys,
    private_key_pem,
)
from keys.pki import make_ca
from tests.support import b64, signing_key

FORMATS = [
    pytest.param("RS256", PrivateFormat.PKCS8, b"PRIVATE KEY", id="RSA-PKCS8"),
    pytest.param("RS256", PrivateFormat.TraditionalOpenSSL, b"RSA PRIVATE KEY", id="RSA-PKCS1"),
    pytest.param("ES256", PrivateFormat.PKCS8, b"PRIVATE KEY", id="P-256-PKCS8"),
    pytest.param("ES256", PrivateFormat.TraditionalOpenSSL, b"EC PRIVATE KEY", id="P-256-SEC1"),
    pytest.param("ES384", PrivateFormat.PKCS8, b"PRIVATE KEY", id="P-384-PKCS8"),
    pytest.param("ES384", PrivateFormat.TraditionalOpenSSL, b"EC PRIVATE KEY", id="P-384-SEC1"),
    pytest.param("ES512", PrivateFormat.PKCS8, b"PRIVATE KEY", id="P-521-PKCS8"),
    pytest.param("ES512", PrivateFormat.TraditionalOpenSSL, b"EC PRIVATE KEY", id="P-521-SEC1"),
    pytest.param("EdDSA", PrivateFormat.PKCS8, b"PRIVATE KEY", id="Ed25519-PKCS8"),
]
OPENSSL = {
    "RS256": ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "ES256": ["ecparam", "-genkey", "-name", "prime256v1"],
    "ES384": ["ecparam", "-genkey", "-name", "secp384r1"],
    "ES512": ["ecparam", "-genkey", "-name", "secp521r1"],
    "EdDSA": ["genpkey", "-algorithm", "ED25519"],
}


@pytest.mark.parametrize(("algorithm", "encoding", "label"), FORMATS)
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_private_key_formats(
    algorithm: str, encoding: PrivateFormat, label: bytes, newline: bytes
) -> None:
    own = signing_key(algorithm)
    pem = own.private_key.private_bytes(Encoding.PEM, encoding, NoEncryption())
    assert pem.startswith(b"-----BEGIN " + label)
    text = b"a comment before\n" + pem.replace(b"\n", newline)
    key = parse_private_key(text, "here")
    assert key.verification_key.kid == own.verification_key.kid
    assert key.verification_key.algorithm == algorithm
    assert jws.verify(jws.parse(jws.sign(b"{}", key)), own.verification_key)
    (public,) = parse_public_keys(text, "here")
    assert public.kid == own.verification_key.kid


@pytest.mark.parametrize("algorithm", OPENSSL)
def test_keys_made_by_openssl(algorithm: str, tmp_path: Path) -> None:
    private = tmp_path / "private.pem"
    subprocess.run(
        ["openssl", *OPENSSL[algorithm], "-out", private], check=True, capture_output=True
    )
    made = subprocess.run(
        ["openssl", "pkey", "-in", private, "-pubout"], check=True, capture_output=True
    )
    key = parse_private_key(private.read_bytes(), "private.pem")
    (public,) = parse_public_keys(made.stdout, "public.pem")
    assert public.algorithm == key.verification_key.algorithm == algorithm
    assert public.kid == key.verification_key.kid
    assert jws.verify(jws.parse(jws.sign(b"{}", key)), public)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_generated_key_round_trip(algorithm: str) -> None:
    key = generate_signing_key(algorithm)
    assert key.verification_key.algorithm == algorithm
    again = parse_private_key(private_key_pem(key.private_key), "here")
    assert again.verification_key.kid == key.verification_key.kid
    assert generate_signing_key("ES256").verification_key.kid != key.verification_key.kid


@pytest.mark.parametrize("algorithm", ["HS256", "none", "", "RS384", "PS256", "rs256"])
def test_no_key_is_generated_for(algorithm: str) -> None:
    with pytest.raises(UnusableKeyError, match="RS256, ES256, ES384, ES512, EdDSA"):
        generate_signing_key(algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_kid_is_the_hash_of_the_public_key(algorithm: str) -> None:
    public = signing_key(algorithm).verification_key.public_key
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert kid_of(public) == b64(hashlib.sha256(der).digest())
    assert verification_key(public).kid == kid_of(public)


def test_public_keys_of_one_text_in_order() -> None:
    algorithms = ["ES256", "RS256", "EdDSA"]
    pem = b"".join(
        signing_key(name).verification_key.public_key.public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        for name in algorithms
    )
    assert [key.algorithm for key in parse_public_keys(pem, "here")] == algorithms


def test_public_key_of_a_certificate() -> None:
    pair = make_ca("test", datetime(2026, 1, 1, tzinfo=UTC))
    (key,) = parse_public_keys(pair.certificate, "ca.crt")
    private = load_pem_private_key(pair.private_key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert key.kid == kid_of(private.public_key())


def test_errors_never_show_key_material() -> None:
    pem = private_key_pem(signing_key("RS256").private_key)
    for text in (pem * 2, pem[:400], pem.replace(b"M", b"?")):
        with pytest.raises(InvalidKeyError) as raised:
            parse_private_key(text, "the-file")
        assert "the-file" in str(raised.value)
        for line in pem.splitlines()[1:-1]:
            assert line.decode() not in str(raised.value)


def test_jwks_round_trip() -> None:
    own = [signing_key(name).verification_key for name in ALGORITHMS]
    parsed = parse_jwks(jwks_document(own)).keys
    for ours, theirs in zip(own, parsed, strict=True):
        assert (ours.kid, ours.algorithm) == (theirs.kid, theirs.algorithm)
        assert ours.public_key == theirs.public_key


def rsa_numbers() -> RSAPrivateNumbers:
    private = signing_key("RS256").private_key
    assert isinstance(private, RSAPrivateKey)
    return private.private_numbers()


def rsa_pem(numbers: RSAPrivateNumbers, **changes: int) -> bytes:
    """Write the numbers of a key as PKCS#1, some of them changed, consistent or not."""
    public = {"n": numbers.public_numbers.n, "e": numbers.public_numbers.e}
    private = {name: getattr(numbers, name) for name in ("d", "p", "q", "dmp1", "dmq1", "iqmp")}
    values = (public | private | changes).values()
    integers = b"".join(der(0x02, n.to_bytes(n.bit_length() // 8 + 1, "big")) for n in (0, *values))
    text = base64.encodebytes(der(0x30, integers))
    return b"-----BEGIN RSA PRIVATE KEY-----\n" + text + b"-----END RSA PRIVATE KEY-----\n"


def der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 128:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def of_factors(p: int, q: int) -> dict[str, int]:
    """Return consistent numbers for any two factors."""
    d = pow(65537, -1, lcm(p - 1, q - 1))
    parts = {"dmp1": d % (p - 1), "dmq1": d % (q - 1), "iqmp": pow(q, -1, p)}
    return {"p": p, "q": q, "n": p * q, "d": d, **parts}


def a_composite_like(prime: int) -> int:
    """Return a number of the same size that is not prime, and suits the public exponent."""
    number = prime + 2
    while gcd(number - 1, 65537) != 1 or pow(2, number - 1, number) == 1:
        number += 2
    return number


@pytest.mark.parametrize("name", ["p", "q", "d", "dmp1", "dmq1", "iqmp", "e", "n", "composite"])
def test_an_inconsistent_key_is_refused(name: str) -> None:
    numbers = rsa_numbers()
    good = rsa_pem(numbers)
    if name == "composite":
        bad = rsa_pem(numbers, **of_factors(a_composite_like(numbers.p), numbers.q))
    else:
        public = numbers.public_numbers
        value = getattr(public if name in ("e", "n") else numbers, name)
        bad = rsa_pem(numbers, **{name: value + 2})
    assert parse_private_key(rsa_pem(numbers, **of_factors(numbers.p, numbers.q)), "other.pem")
    assert parse_private_key(good, "good.pem").verification_key.algorithm == "RS256"
    with pytest.raises(KeyFileError, match=r"bad\.pem does not hold a complete private key"):
        parse_private_key(bad, "bad.pem")
