"""Bad input 38 and 39: keys, key sets and key files that must not load."""

import base64
import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from keys.errors import InvalidKeyError, KeysError
from keys.files import read_private_file
from keys.folder import load_keyring
from keys.jwk import is_roca_modulus, kid_of, parse_jwks, to_jwk, verification_key
from keys.pem import parse_private_key, parse_public_keys, private_key_pem
from tests.support import JSONObject, as_json, b64, signing_key, unb64
from webhook.assembly import authenticator_of, issuer_keys_of
from webhook.config.load import parse_configuration
from webhook.config.paths import tls_files
from webhook.errors import ConfigurationError
from webhook.setup.init import InitOptions, initialise

RSA_JWK = to_jwk(signing_key("RS256").verification_key)
EC_JWK = to_jwk(signing_key("ES256").verification_key)
OKP_JWK = to_jwk(signing_key("EdDSA").verification_key)


def uint(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8))


@cache
def rsa_private(bits: int, exponent: int = 65537) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(exponent, bits)


@cache
def rsa_modulus(bits: int) -> int:
    """Make a modulus of that many bits, which need not be a product of two primes."""
    return random.Random(bits).getrandbits(bits) | 1 << (bits - 1) | 1


def _is_probable_prime(number: int, source: random.Random) -> bool:
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(8):
        power = pow(source.randrange(2, number - 1), odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


@cache
def roca_modulus() -> int:
    """Make a 2,048-bit modulus as the library of CVE-2017-15361 does (section 2 of the paper)."""
    source = random.Random(17)
    primes = [n for n in range(2, 702) if all(n % d for d in range(2, int(n**0.5) + 1))]
    primorial = 1
    for prime in primes[:126]:
        primorial *= prime
    low, high = (3 << 1022) // primorial + 1, (1 << 1024) // primorial - 1
    found: list[int] = []
    while len(found) < 2:
        power = pow(65537, source.getrandbits(254), primorial)
        candidate = source.randrange(low, high) * primorial + power
        if _is_probable_prime(candidate, source):
            found.append(candidate)
    return found[0] * found[1]


def edit(text: str, place: int) -> str:
    data = bytearray(unb64(text))
    data[place] ^= 1
    return b64(bytes(data))


AKP_JWK = {"kty": "AKP", "alg": "ML-DSA-65", "kid": "pq", "pub": "AAAA"}


def without(jwk: dict[str, str], member: str) -> dict[str, str]:
    return {name: value for name, value in jwk.items() if name != member}


SETS = [
    pytest.param([RSA_JWK, EC_JWK | {"kid": RSA_JWK["kid"]}], "kid", id="two-keys-one-kid"),
    pytest.param([RSA_JWK, RSA_JWK | {"alg": "PS256"}], "kid", id="one-kid-for-two-algorithms"),
    pytest.param(
        [without(EC_JWK, "kid"), RSA_JWK | {"kid": EC_JWK["kid"]}], "kid", id="kid-by-default"
    ),
    pytest.param([RSA_JWK | {"n": uint(rsa_modulus(1024))}], "1024 bits", id="rsa-1024"),
    pytest.param([RSA_JWK | {"n": uint(rsa_modulus(2047))}], "2047 bits", id="rsa-2047"),
    pytest.param([RSA_JWK | {"n": uint(rsa_modulus(512))}], "512 bits", id="rsa-512"),
    pytest.param([RSA_JWK | {"n": uint(rsa_modulus(8193))}], "8193 bits", id="rsa-8193"),
    pytest.param([RSA_JWK | {"n": uint(rsa_modulus(65536))}], "65536 bits", id="rsa-65536"),
    pytest.param([RSA_JWK | {"n": ""}], "0 bits", id="rsa-n-empty"),
    pytest.param([RSA_JWK | {"e": uint(1)}], "exponent", id="rsa-e-1"),
    pytest.param([RSA_JWK | {"e": ""}], "exponent", id="rsa-e-0"),
    pytest.param([RSA_JWK | {"e": uint(2)}], "exponent", id="rsa-e-2"),
    pytest.param([RSA_JWK | {"e": uint(65536)}], "exponent", id="rsa-e-even"),
    pytest.param([RSA_JWK | {"n": uint(roca_modulus())}], "CVE-2017-15361", id="roca"),
    pytest.param([RSA_JWK | {"n": uint(rsa_modulus(2048) - 1)}], "even", id="rsa-n-even"),
    pytest.param([EC_JWK | {"y": edit(EC_JWK["y"], -1)}], "public key", id="ec-off-the-curve"),
    pytest.param([EC_JWK | {"x": b64(bytes(32)), "y": b64(bytes(32))}], "public key", id="ec-0-0"),
    pytest.param([EC_JWK | {"x": b64(b"\xff" * 32)}], "public key", id="ec-x-beyond-p"),
    pytest.param([EC_JWK | {"crv": "P-384"}], "48 bytes", id="ec-other-curve"),
    pytest.param([EC_JWK | {"crv": "secp256k1"}], '"crv" is', id="ec-secp256k1"),
    pytest.param([EC_JWK | {"x": b64(unb64(EC_JWK["x"])[1:])}], "32 bytes", id="ec-x-short"),
    pytest.param([EC_JWK | {"x": b64(b"\0" + unb64(EC_JWK["x"]))}], "32 bytes", id="ec-x-long"),
    pytest.param([OKP_JWK | {"x": b64(bytes(31))}], "public key", id="ed25519-short"),
    pytest.param([OKP_JWK | {"crv": "X25519"}], '"crv" is', id="x25519"),
    pytest.param([OKP_JWK | {"crv": "Ed448"}], '"crv" is', id="ed448"),
    pytest.param([RSA_JWK | {"use": "enc"}], '"use"', id="use-enc"),
    pytest.param([RSA_JWK | {"use": 1}], '"use"', id="use-number"),
    pytest.param([RSA_JWK | {"key_ops": ["sign"]}], '"key_ops"', id="key_ops-sign"),
    pytest.param([RSA_JWK | {"key_ops": [1]}], '"key_ops"', id="key_ops-number"),
    pytest.param([RSA_JWK | {"key_ops": ""}], '"key_ops"', id="key_ops-empty-text"),
    pytest.param([AKP_JWK], '"kty" is', id="only-of-another-kind"),
    pytest.param([RSA_JWK, AKP_JWK | {"priv": "AAAA"}], "private", id="another-kind-private"),
    pytest.param([RSA_JWK, OKP_JWK | {"crv": "X25519", "d": "AA"}], "private", id="x25519-private"),
    pytest.param(
        [RSA_JWK, {"kty": "oct", "k": "AAAA", "use": "enc"}], "symmetric", id="symmetric-use-enc"
    ),
    pytest.param([RSA_JWK, without(AKP_JWK, "kty")], '"kty"', id="no-kty"),
    pytest.param([RSA_JWK, without(OKP_JWK, "crv")], '"crv"', id="no-crv"),
    pytest.param([RSA_JWK | {"key_ops": "verify"}], '"key_ops"', id="key_ops-text"),
    pytest.param([{"kty": "oct", "k": b64(b"x" * 32)}], "symmetric", id="symmetric"),
    pytest.param(
        [RSA_JWK, {"kty": "oct", "k": b64(b"x" * 32), "alg": "HS256", "kid": "a"}],
        "key 1",
        id="symmetric-beside-rsa",
    ),
    pytest.param([RSA_JWK | {"k": "AAAA"}], "private", id="rsa-with-k"),
    pytest.param([RSA_JWK | {"d": "AAAA"}], "private", id="rsa-with-d"),
    pytest.param([EC_JWK | {"d": "AAAA"}], "private", id="ec-with-d"),
    pytest.param([RSA_JWK | {"alg": "HS256"}], "does not go", id="rsa-alg-HS256"),
    pytest.param([RSA_JWK | {"alg": "none"}], "does not go", id="rsa-alg-none"),
    pytest.param([RSA_JWK | {"alg": "ES256"}], "does not go", id="rsa-alg-ES256"),
    pytest.param([EC_JWK | {"alg": "ES384"}], "does not go", id="ec-alg-ES384"),
    pytest.param([EC_JWK | {"alg": 1}], '"alg"', id="alg-number"),
    pytest.param([RSA_JWK | {"kid": "k" * 1025}], "kid", id="kid-long"),
    pytest.param([RSA_JWK | {"kid": "a\0"}], "kid", id="kid-NUL"),
    pytest.param([RSA_JWK | {"kid": 1}], '"kid"', id="kid-number"),
    pytest.param([RSA_JWK | {"n": RSA_JWK["n"] + "="}], "base64url", id="n-padded"),
    pytest.param([RSA_JWK | {"n": "é"}], "base64url", id="n-not-ascii"),
    pytest.param([{**RSA_JWK, "n": 5}], '"n"', id="n-number"),
    pytest.param([{"kty": "RSA"}], '"e"', id="rsa-without-numbers"),
    pytest.param([{}], '"kty"', id="empty-key"),
    pytest.param(["key"], "object", id="text-for-a-key"),
    pytest.param([RSA_JWK, None], "key 1", id="null-for-a-key"),
    pytest.param([], '"keys"', id="no-keys"),
]


@pytest.mark.bad_input(38)
@pytest.mark.parametrize(("keys", "why"), SETS)
def test_key_set(keys: list[JSONObject], why: str) -> None:
    with pytest.raises(KeysError) as raised:
        parse_jwks(as_json({"keys": keys}))
    assert why in str(raised.value)


@pytest.mark.bad_input(38)
@pytest.mark.parametrize(("keys", "why"), SETS)
def test_file_of_a_key_set(keys: list[JSONObject], why: str, tmp_path: Path) -> None:
    (tmp_path / "cluster-jwks.json").write_bytes(as_json({"keys": keys}))
    text = _refused_trusted_issuer(tmp_path, "jwksFile: cluster-jwks.json")
    assert str(tmp_path / "cluster-jwks.json") in text
    assert why in text


def _refused_trusted_issuer(folder: Path, keys: str) -> str:
    text = f"trustedIssuers: [{{url: 'https://cluster.example', keys: {{{keys}}}}}]"
    configuration = parse_configuration(text, "test", {}, {})
    (folder / "keys").mkdir(exist_ok=True)
    with pytest.raises(ConfigurationError) as raised:
        authenticator_of(folder, configuration, load_keyring(folder / "keys"))
    assert "https://cluster.example" in str(raised.value)
    return str(raised.value)


@pytest.mark.bad_input(38)
@pytest.mark.parametrize(
    "document",
    [
        b'{"keys":[],"keys":[]}',
        b'{"keys":{}}',
        b'{"key":[]}',
        b"[]",
        b"null",
        b"",
        b"{",
        as_json({"keys": [RSA_JWK]})[:-20],
        as_json({"keys": [RSA_JWK]}).replace(b'"kid"', b'"e":"AQAB","kid"'),
        as_json({"keys": [RSA_JWK]}).decode().encode("utf-16"),
        as_json(RSA_JWK),
    ],
)
def test_text_that_is_not_a_key_set(document: bytes) -> None:
    with pytest.raises(KeysError):
        parse_jwks(document)


UNNAMED = without(RSA_JWK, "kid")
SAME = [
    pytest.param([RSA_JWK, RSA_JWK], id="identical"),
    pytest.param([RSA_JWK, UNNAMED], id="without-kid"),
    pytest.param([UNNAMED, RSA_JWK], id="without-kid-first"),
    pytest.param([RSA_JWK, RSA_JWK | {"kid": ""}], id="empty-kid"),
    pytest.param([RSA_JWK, RSA_JWK | {"kid": None}], id="null-kid"),
    pytest.param([UNNAMED, UNNAMED], id="both-without-kid"),
    pytest.param([RSA_JWK, without(RSA_JWK, "alg"), without(RSA_JWK, "use")], id="three"),
]


@pytest.mark.bad_input(38)
@pytest.mark.fault(3)
@pytest.mark.parametrize("keys", SAME)
def test_the_same_key_twice_is_one_key(keys: list[JSONObject]) -> None:
    parsed = parse_jwks(as_json({"keys": [*keys, EC_JWK]}))
    assert {key.kid for key in parsed.keys} == {RSA_JWK["kid"], EC_JWK["kid"]}
    assert len(parsed.keys) == 2
    assert parsed.skipped == ()


@pytest.mark.bad_input(38)
@pytest.mark.fault(3)
def test_a_key_without_kid_takes_the_one_it_has_elsewhere() -> None:
    named = RSA_JWK | {"kid": "cluster-key"}
    for keys in ([named, UNNAMED], [UNNAMED, named]):
        (key,) = parse_jwks(as_json({"keys": keys})).keys
        assert key.kid == "cluster-key"


SKIPPED = [
    pytest.param(AKP_JWK, "\"kty\" is 'AKP'", id="AKP"),
    pytest.param(EC_JWK | {"kid": "x", "crv": "secp256k1"}, "\"crv\" is 'secp256k1'", id="k1"),
    pytest.param(OKP_JWK | {"kid": "x", "crv": "X25519"}, "\"crv\" is 'X25519'", id="X25519"),
    pytest.param(OKP_JWK | {"kid": "x", "crv": "Ed448"}, "\"crv\" is 'Ed448'", id="Ed448"),
    pytest.param(RSA_JWK | {"use": "enc"}, "\"use\" is 'enc'", id="enc"),
    pytest.param(EC_JWK | {"use": "x509-svid", "x5c": ["AAAA"]}, '"use" is', id="x509-svid"),
    pytest.param({"kty": "RSA", "use": "enc", "n": "AQ", "e": "AQ"}, '"use" is', id="weak-enc"),
    pytest.param(RSA_JWK | {"key_ops": ["encrypt"]}, '"key_ops"', id="key_ops"),
    pytest.param(without(RSA_JWK, "use") | {"alg": "RSA-OAEP-256"}, '"alg" is', id="alg"),
]


@pytest.mark.bad_input(38)
@pytest.mark.fault(4)
@pytest.mark.parametrize(("entry", "why"), SKIPPED)
def test_a_key_that_is_never_used_is_skipped(entry: JSONObject, why: str) -> None:
    for keys, place in (([entry, OKP_JWK], 0), ([OKP_JWK, entry], 1)):
        parsed = parse_jwks(as_json({"keys": keys}))
        assert [key.kid for key in parsed.keys] == [OKP_JWK["kid"]]
        (skipped,) = parsed.skipped
        assert skipped.startswith(f"key {place}")
        assert repr(entry["kid"]) in skipped if "kid" in entry else "(" not in skipped
        assert why in skipped


ABSENT = [{"use": None}, {"use": ""}, {"key_ops": None}, {"key_ops": []}, {"alg": None}]


@pytest.mark.fault(4)
@pytest.mark.parametrize("members", ABSENT, ids=[str(members) for members in ABSENT])
def test_an_optional_member_that_is_null_or_empty_counts_as_absent(
    members: JSONObject,
) -> None:
    parsed = parse_jwks(as_json({"keys": [RSA_JWK | members]}))
    assert [key.kid for key in parsed.keys] == [RSA_JWK["kid"]]
    assert parsed.skipped == ()


def test_many_skipped_keys_make_a_short_error() -> None:
    with pytest.raises(KeysError) as raised:
        parse_jwks(as_json({"keys": [AKP_JWK | {"kid": "k" * 2000}] * 50}))
    assert "and 45 more" in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_control_key_set_with_every_kind() -> None:
    algorithms = ["RS256", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
    keys = [to_jwk(signing_key(name).verification_key) for name in algorithms]
    keys[1]["kid"] = "another"
    parsed = parse_jwks(as_json({"keys": keys, "unknown": 1})).keys
    assert [key.algorithm for key in parsed] == algorithms
    assert [to_jwk(key) for key in parsed] == keys


def pem_of(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: PrivateKeyTypes) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x82]) + size.to_bytes(2)
    return bytes([tag]) + length + content


def _rsa_public_pem(modulus: int, exponent: int) -> bytes:
    """Write any numbers as PKCS#1, also those of which no library makes a key."""
    numbers = [value.to_bytes(value.bit_length() // 8 + 1) for value in (modulus, exponent)]
    text = base64.encodebytes(_der(0x30, b"".join(_der(2, number) for number in numbers)))
    return b"-----BEGIN RSA PUBLIC KEY-----\n" + text + b"-----END RSA PUBLIC KEY-----\n"


WEAK_KEYS: dict[str, Callable[[], PrivateKeyTypes]] = {
    "rsa-1024": lambda: rsa_private(1024),
    "p-224": lambda: ec.generate_private_key(ec.SECP224R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "dsa": lambda: dsa.generate_private_key(1024),
    "ed448": ed448.Ed448PrivateKey.generate,
    "x25519": x25519.X25519PrivateKey.generate,
}


@pytest.mark.bad_input(38)
@pytest.mark.parametrize("name", WEAK_KEYS)
def test_private_key_file(name: str, tmp_path: Path) -> None:
    text = _refused_signing_key(tmp_path, pem_of(WEAK_KEYS[name]()))
    assert "use " in text


@pytest.mark.bad_input(38)
@pytest.mark.parametrize("name", WEAK_KEYS)
def test_public_key_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "sa.pub").write_bytes(public_pem(WEAK_KEYS[name]()))
    text = _refused_trusted_issuer(tmp_path, "publicKeyFiles: [sa.pub]")
    assert str(tmp_path / "sa.pub") in text


@pytest.mark.bad_input(38)
@pytest.mark.parametrize(
    ("modulus", "exponent"),
    [
        pytest.param(rsa_modulus(2048), 1, id="e-1"),
        pytest.param(rsa_modulus(2048), 2, id="e-2"),
        pytest.param(rsa_modulus(1024), 65537, id="1024"),
        pytest.param(roca_modulus(), 65537, id="roca"),
    ],
)
def test_rsa_numbers_in_a_pem_file(modulus: int, exponent: int, tmp_path: Path) -> None:
    (tmp_path / "sa.pub").write_bytes(_rsa_public_pem(modulus, exponent))
    text = _refused_trusted_issuer(tmp_path, "publicKeyFiles: [sa.pub]")
    assert str(tmp_path / "sa.pub") in text


def test_control_rsa_numbers_in_a_pem_file() -> None:
    private = rsa_private(2048)
    numbers = private.public_key().public_numbers()
    (key,) = parse_public_keys(_rsa_public_pem(numbers.n, numbers.e), "test")
    assert key.kid == kid_of(private.public_key())


@pytest.mark.bad_input(38)
@pytest.mark.fault(3)
def test_the_same_public_key_twice_is_one_key(tmp_path: Path) -> None:
    pem = public_pem(signing_key("RS256").private_key)
    (tmp_path / "a.pub").write_bytes(pem + pem)
    (tmp_path / "b.pub").write_bytes(pem)
    text = "trustedIssuers: [{url: a, keys: {publicKeyFiles: [a.pub, b.pub]}}]"
    (issuer,) = issuer_keys_of(tmp_path, parse_configuration(text, "test", {}, {})).issuers
    assert list(issuer.keys) == [RSA_JWK["kid"]]


@pytest.mark.bad_input(38)
def test_same_key_in_two_private_files(tmp_path: Path) -> None:
    for name in ("a.pem", "b.pem"):
        _private_file(tmp_path / name, private_key_pem(signing_key("RS256").private_key))
    with pytest.raises(InvalidKeyError) as raised:
        load_keyring(tmp_path)
    text = str(raised.value)
    assert "same key" in text
    assert str(tmp_path / "a.pem") in text
    assert str(tmp_path / "b.pem") in text


def test_roca_test_spares_sound_keys() -> None:
    assert is_roca_modulus(roca_modulus())
    assert not is_roca_modulus(rsa_private(2048).public_key().public_numbers().n)
    assert not is_roca_modulus(roca_modulus() + 2)
    assert verification_key(rsa_private(2048).public_key()).algorithm == "RS256"


def _private_file(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def _refused_signing_key(folder: Path, data: bytes, mode: int = 0o600) -> str:
    path = _private_file(folder / "signing.pem", data, mode)
    with pytest.raises(InvalidKeyError) as raised:
        load_keyring(folder)
    # The search for secrets would not recognise a part of a key, and would report it.
    path.unlink()
    text = str(raised.value)
    assert str(path) in text
    assert "PRIVATE KEY-----" not in text
    return text


GOOD_PEM = private_key_pem(signing_key("ES256").private_key)


@pytest.mark.bad_input(39)
@pytest.mark.parametrize(
    "mode", [0o640, 0o604, 0o644, 0o660, 0o620, 0o602, 0o610, 0o601, 0o666, 0o777], ids=oct
)
def test_private_key_open_to_others(mode: int, tmp_path: Path) -> None:
    text = _refused_signing_key(tmp_path, GOOD_PEM, mode)
    assert f"{mode:04o}" in text
    assert "chmod 600" in text


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700], ids=oct)
def test_control_private_key_of_its_owner(mode: int, tmp_path: Path) -> None:
    _private_file(tmp_path / "signing.pem", GOOD_PEM, mode)
    kid = signing_key("ES256").verification_key.kid
    assert load_keyring(tmp_path).signing_key().verification_key.kid == kid


@pytest.mark.bad_input(39)
def test_schedule_open_to_others(tmp_path: Path) -> None:
    _private_file(tmp_path / "signing.pem", GOOD_PEM)
    path = _private_file(tmp_path / "schedule.json", b'{"keys":[]}', 0o644)
    with pytest.raises(InvalidKeyError, match="chmod 600") as raised:
        load_keyring(tmp_path)
    assert str(path) in str(raised.value)


@pytest.mark.bad_input(39)
@pytest.mark.parametrize("kind", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("encoding", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_encrypted_pem(kind: str, encoding: PrivateFormat, tmp_path: Path) -> None:
    secret: KeySerializationEncryption
    if kind == "EdDSA" and encoding is PrivateFormat.TraditionalOpenSSL:
        encoding, secret = PrivateFormat.OpenSSH, NoEncryption()
    else:
        secret = BestAvailableEncryption(b"secret")
    pem = signing_key(kind).private_key.private_bytes(Encoding.PEM, encoding, secret)
    text = _refused_signing_key(tmp_path, pem)
    assert encoding is PrivateFormat.OpenSSH or "encrypted" in text


@pytest.mark.bad_input(39)
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\n \t\n", id="white-space"),
    ],
)
def test_empty_file(data: bytes, tmp_path: Path) -> None:
    assert "empty" in _refused_signing_key(tmp_path, data)


@pytest.mark.bad_input(39)
@pytest.mark.parametrize("kind", ["RS256", "ES256", "ES512", "EdDSA"])
def test_a_file_truncated_anywhere(kind: str, tmp_path: Path) -> None:
    pem = private_key_pem(signing_key(kind).private_key)
    whole = len(pem.rstrip())
    for size in range(1, whole):
        with pytest.raises(InvalidKeyError, match="here"):
            parse_private_key(pem[:size], "here")
    for size in (1, whole // 2, whole - 1):
        _refused_signing_key(tmp_path, pem[:size])


def _lines(pem: bytes) -> list[bytes]:
    return pem.splitlines(keepends=True)


@pytest.mark.bad_input(39)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda pem: b"".join(_lines(pem)[1:]), id="no-begin"),
        pytest.param(lambda pem: b"".join(_lines(pem)[:-1]), id="no-end"),
        pytest.param(lambda pem: b"".join(_lines(pem)[:1] + _lines(pem)[2:]), id="a-line-gone"),
        pytest.param(lambda pem: pem.replace(b"A", b"!"), id="not-base64"),
        pytest.param(lambda pem: pem.replace(b"PRIVATE", b"SECRET"), id="other-label"),
        pytest.param(lambda pem: pem.replace(b" PRIVATE", b""), id="public-label"),
        pytest.param(lambda pem: pem + pem, id="twice"),
        pytest.param(
            lambda pem: pem + private_key_pem(signing_key("RS256").private_key), id="two-keys"
        ),
        pytest.param(lambda pem: pem + pem[:40], id="and-half-a-key"),
        pytest.param(lambda _: b"\0" * 200, id="zeros"),
        pytest.param(lambda _: b"not a key\n", id="text"),
        pytest.param(lambda _: json.dumps(RSA_JWK).encode(), id="JWK"),
        pytest.param(lambda pem: pem.decode().encode("utf-16"), id="utf-16"),
        pytest.param(
            lambda _: b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", id="no-content"
        ),
    ],
)
def test_file_that_is_damaged(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    _refused_signing_key(tmp_path, change(GOOD_PEM))


@pytest.mark.bad_input(39)
def test_missing_file_or_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pem", tmp_path):
        with pytest.raises(InvalidKeyError) as raised:
            read_private_file(path)
        assert str(path) in str(raised.value)


@pytest.mark.bad_input(39)
def test_public_key_file_damaged(tmp_path: Path) -> None:
    pem = public_pem(signing_key("RS256").private_key)
    for data in (b"", b"  \n", pem[:100], pem[:-30], pem.replace(b"A", b"!"), b"text"):
        (tmp_path / "sa.pub").write_bytes(data)
        text = _refused_trusted_issuer(tmp_path, "publicKeyFiles: [sa.pub]")
        assert str(tmp_path / "sa.pub") in text
    (tmp_path / "sa.pub").unlink()
    assert str(tmp_path / "sa.pub") in _refused_trusted_issuer(tmp_path, "publicKeyFiles: [sa.pub]")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    initialise(folder, InitOptions(algorithm="ES256"), 1_800_000_000)
    return folder


@pytest.mark.bad_input(39)
@pytest.mark.parametrize("name", ["server.key", "server.crt", "ca.crt"])
def test_tls_file(name: str, data_dir: Path) -> None:
    tls_files(data_dir)
    path = data_dir / "tls" / name
    data, mode = path.read_bytes(), path.stat().st_mode
    try:
        path.write_bytes(b"")
        with pytest.raises(InvalidKeyError, match="empty") as raised:
            tls_files(data_dir)
        assert str(path) in str(raised.value)
        path.unlink()
        with pytest.raises(InvalidKeyError, match="is missing") as raised:
            tls_files(data_dir)
        assert str(path) in str(raised.value)
        if name.endswith(".key"):
            _private_file(path, data, 0o640)
            with pytest.raises(InvalidKeyError, match="chmod 600") as raised:
                tls_files(data_dir)
            assert str(path) in str(raised.value)
    finally:
        _private_file(path, data, mode & 0o777)
    tls_files(data_dir)
