import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from keys import jws
from keys.errors import MalformedJWSError
from keys.jwk import VerificationKey
from tests.support import HASHES, as_json, b64, header_of, raw_jws, signing_key, unb64

ALGORITHMS = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
]  # fmt: skip
PAYLOAD = b'{"a":1}'


def independently_verified(token: str, key: VerificationKey) -> bool:
    """Verify with `cryptography` alone; raises InvalidSignature."""
    signing_input, _, segment = token.rpartition(".")
    message, signature, public = signing_input.encode(), unb64(segment), key.public_key
    if isinstance(public, ec.EllipticCurvePublicKey):
        size = (public.curve.key_size + 7) // 8
        assert len(signature) == 2 * size
        der = encode_dss_signature(
            int.from_bytes(signature[:size]), int.from_bytes(signature[size:])
        )
        public.verify(der, message, ec.ECDSA(HASHES[key.algorithm[2:]]))
    elif isinstance(public, rsa.RSAPublicKey):
        digest = HASHES[key.algorithm[2:]]
        pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
        rule = pss if key.algorithm.startswith("PS") else padding.PKCS1v15()
        public.verify(signature, message, rule, digest)
    else:
        public.verify(signature, message)
    return True


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_sign_and_verify(algorithm: str) -> None:
    key = signing_key(algorithm)
    token = jws.sign(PAYLOAD, key)
    assert independently_verified(token, key.verification_key)
    parsed = jws.parse(token)
    assert jws.verify(parsed, key.verification_key)
    assert parsed.unverified_payload == PAYLOAD
    assert jws.header(parsed) == (algorithm, key.verification_key.kid)
    other = signing_key(algorithm, "foreign").verification_key
    assert not jws.verify(parsed, other)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_signatures_of_other_libraries_verify(algorithm: str) -> None:
    key = signing_key(algorithm)
    token = raw_jws(as_json(header_of(key)), PAYLOAD, key)
    assert jws.verify(jws.parse(token), key.verification_key)


def test_header_is_written_as_kubernetes_writes_it() -> None:
    key = signing_key("RS256")
    header = unb64(jws.sign(PAYLOAD, key).split(".")[0]).decode()
    assert header == f'{{"alg":"RS256","kid":"{key.verification_key.kid}"}}'


def test_longest_token() -> None:
    room = jws.MAX_COMPACT_LENGTH - 4
    assert jws.parse("." + "AAAA" * (room // 4) + ".AA").unverified_payload == bytes(room // 4 * 3)
    with pytest.raises(MalformedJWSError, match="32768"):
        jws.parse("." + "A" * jws.MAX_COMPACT_LENGTH + ".")


def test_repr_of_a_signing_key_shows_the_kid_only() -> None:
    key = signing_key("RS256")
    assert repr(key) == f"SigningKey(kid={key.verification_key.kid!r})"


def test_header_cache_does_not_mix_headers_up() -> None:
    key = signing_key("ES256")
    for number in range(600):
        header = header_of(key, x=number)
        parsed = jws.parse(raw_jws(as_json(header), PAYLOAD, key))
        assert jws.header(parsed).kid == key.verification_key.kid
        assert jws.verify(parsed, key.verification_key)
    broken = jws.parse(f"{b64(json.dumps({'alg': 'none'}).encode())}.{b64(PAYLOAD)}.")
    for _ in range(2):
        with pytest.raises(Exception, match="alg"):
            jws.header(broken)


def test_digests_are_those_of_the_names() -> None:
    assert {name: digest.digest_size * 8 for name, digest in HASHES.items()} == {
        "256": 256, "384": 384, "512": 512,
    }  # fmt: skip
    assert isinstance(HASHES["256"], hashes.SHA256)
