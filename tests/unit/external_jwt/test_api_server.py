"""The model of kube-apiserver must fail where a signer is wrong: each wrong answer in a table."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys.jws import SigningKey
from tests.external_jwt.api_server import ALGORITHMS, ApiServer, RejectedError, decode, encode
from tests.external_jwt.claims import as_go, pod_claims
from tests.external_jwt.messages import Key, Keys, Signed
from tests.support import raw_signature, signing_key

PAYLOAD = as_go(pod_claims(time.time()))


def der_of(key: object) -> bytes:
    assert hasattr(key, "public_bytes")
    der: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der


def published(key: SigningKey) -> Key:
    return Key(key.verification_key.kid, der_of(key.verification_key.public_key))


NO_KEYS = Keys((), None, 0)


@dataclass
class FakeSigner:
    """Signs correctly, unless a test changes an answer."""

    key: SigningKey = field(default_factory=lambda: signing_key("ES256"))
    keys: Keys = NO_KEYS
    longest: int = 86_400
    header: str = ""
    change: Callable[[Signed], Signed] = lambda signed: signed

    def __post_init__(self) -> None:
        if not self.keys.keys:
            self.keys = Keys((published(self.key),), (1_800_000_000, 0), 60)

    def sign(self, claims: str) -> Signed:
        algorithm = self.key.verification_key.algorithm
        header = f'{{"alg":"{algorithm}","kid":"{self.key.verification_key.kid}","typ":"JWT"}}'
        header = encode((self.header or header).encode())
        signature = raw_signature(f"{header}.{claims}".encode(), self.key, algorithm)
        return self.change(Signed(header, encode(signature)))

    def fetch_keys(self) -> Keys:
        return self.keys

    def max_expiration(self) -> int:
        return self.longest


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_good_signer(algorithm: str) -> None:
    server = ApiServer(FakeSigner(signing_key(algorithm)), max_expiration=86_400)
    server.start()
    token = server.create_token(PAYLOAD)
    assert decode(token.split(".")[1]) == PAYLOAD
    server.refresh()
    server.verify(token)
    assert (server.fetched, server.changes) == (2, 1)


def test_an_unknown_kid_fetches_the_keys_once() -> None:
    signer = FakeSigner()
    server = ApiServer(signer)
    server.start()
    signer.key = signing_key("ES256", "other")
    with pytest.raises(RejectedError, match="not among the fetched keys"):
        server.create_token(PAYLOAD)
    assert server.fetched == 2
    signer.keys = Keys((*signer.keys.keys, published(signer.key)), (1_800_000_060, 0), 60)
    server.create_token(PAYLOAD)
    server.create_token(PAYLOAD)
    assert (server.fetched, server.changes) == (3, 2)


def header(**changes: object) -> str:
    kid = signing_key("ES256").verification_key.kid
    members = {"alg": '"ES256"', "kid": f'"{kid}"', "typ": '"JWT"'} | changes
    return "{" + ",".join(f'"{name}":{value}' for name, value in members.items() if value) + "}"


KID = signing_key("ES256").verification_key.kid


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (header(crit='["b64"]'), r"has the members \['alg', 'crit'"),
        (header(typ=""), "has the members"),
        (header(alg=""), "has the members"),
        (header(kid=""), "has the members"),
        (header().replace("alg", "ALG"), "has the members"),
        (header()[:-1] + ',"typ":"JWT"}', "has the members"),
        (header(typ='"jwt"'), "typ is 'jwt'"),
        (header(typ='"at+jwt"'), r"typ is 'at\+jwt'"),
        (header(alg='"PS256"'), "alg is 'PS256'"),
        (header(alg='"EdDSA"'), "alg is 'EdDSA'"),
        (header(alg='"RS512"'), "alg is 'RS512'"),
        (header(alg='"none"'), "alg is 'none'"),
        (header(alg='"ES384"'), "alg is ES384, the key is one of ES256"),
        (header(kid='""'), "the kid is not a text of 1 to 1,024 bytes"),
        (header(kid=f'"{"é" * 513}"'), "the kid is not a text of 1 to 1,024 bytes"),
        (header(kid="7"), "the kid is not a text of 1 to 1,024 bytes"),
        (header(kid='"other"'), "not among the fetched keys"),
        ("[]", "has the members"),
        ('[["alg","ES256"],["kid","k"],["typ","JWT"]]', "not an object"),
        ('"text"', "not an object"),
        ("{", "the header is not JSON"),
        (header() + "{}", "the header is not JSON"),
    ],
)
def test_wrong_headers(wrong: str, error: str) -> None:
    server = ApiServer(FakeSigner(header=wrong))
    server.start()
    with pytest.raises(RejectedError, match=error):
        server.create_token(PAYLOAD)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda s: replace(s, signature=""), "the signature is empty"),
        (lambda s: replace(s, signature=s.signature[:-2]), "has 6. bytes"),
        (lambda s: replace(s, signature=encode(bytes(64))), "does not verify"),
        (lambda s: replace(s, signature=s.signature + "=="), "without padding"),
        (lambda s: replace(s, signature=s.signature + "!"), "without padding|not base64url"),
        (lambda s: replace(s, header=s.header + "="), "base64url"),
        (lambda s: replace(s, header=encode(decode(s.header) + b" ")), "does not verify"),
        (lambda s: replace(s, header=""), "the header is not JSON"),
    ],
    ids=["none", "short", "zeros", "padded", "foreign", "header padded", "header", "no header"],
)
def test_wrong_signatures(change: Callable[[Signed], Signed], error: str) -> None:
    server = ApiServer(FakeSigner(change=change))
    server.start()
    with pytest.raises(RejectedError, match=error):
        server.create_token(PAYLOAD)


def test_other_bytes_than_those_sent() -> None:
    signer = FakeSigner()
    server = ApiServer(signer)
    server.start()
    signed = signer.sign(encode(PAYLOAD + b" "))
    with pytest.raises(RejectedError, match="does not verify"):
        server.accept(encode(PAYLOAD), signed)


GOOD = FakeSigner().keys
(GOOD_KEY,) = GOOD.keys


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        (replace(GOOD, refresh_hint=0), "the refresh hint is 0 s"),
        (replace(GOOD, refresh_hint=-1), "the refresh hint is -1 s"),
        (replace(GOOD, timestamp=None), "there is no timestamp"),
        (replace(GOOD, timestamp=(253_402_300_800, 0)), "is not a timestamp"),
        (replace(GOOD, timestamp=(-62_135_596_801, 0)), "is not a timestamp"),
        (replace(GOOD, timestamp=(0, 1_000_000_000)), "is not a timestamp"),
        (replace(GOOD, timestamp=(0, -1)), "is not a timestamp"),
        (Keys((replace(GOOD_KEY, kid=""),), (0, 0), 60), "a kid has 0 bytes"),
        (Keys((replace(GOOD_KEY, kid="é" * 513),), (0, 0), 60), "a kid has 1026 bytes"),
        (Keys((replace(GOOD_KEY, der=b""),), (0, 0), 60), "not a PKIX public key"),
        (Keys((replace(GOOD_KEY, der=GOOD_KEY.der[:-1]),), (0, 0), 60), "not a PKIX public key"),
        (Keys((GOOD_KEY, GOOD_KEY), (0, 0), 60), "a kid is given twice"),
        (Keys((replace(GOOD_KEY, excluded=True),), (0, 0), 60), "excluded from discovery"),
    ],
)
def test_wrong_keys(keys: Keys, error: str) -> None:
    with pytest.raises(RejectedError, match=error):
        start_and_create(ApiServer(FakeSigner(keys=keys)))


def start_and_create(server: ApiServer) -> None:
    server.start()
    server.create_token(PAYLOAD)


def test_no_keys() -> None:
    signer = FakeSigner()
    signer.keys = replace(signer.keys, keys=())
    with pytest.raises(RejectedError, match="there are no keys"):
        ApiServer(signer).start()


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256K1()),
        dsa.generate_private_key(2048),
    ],
    ids=["Ed25519", "secp256k1", "DSA"],
)
def test_keys_that_discovery_cannot_publish(
    key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | dsa.DSAPrivateKey,
) -> None:
    keys = Keys((Key("other", der_of(key.public_key())), GOOD_KEY), (0, 0), 60)
    with pytest.raises(RejectedError, match="discovery has no algorithm"):
        ApiServer(FakeSigner(keys=keys)).start()


OTHER = published(signing_key("ES256", "other"))
BOTH = Keys((GOOD_KEY, OTHER), (1_800_000_000, 0), 60)


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        (Keys((OTHER, GOOD_KEY), BOTH.timestamp, 60), "the order has changed"),
        (replace(BOTH, timestamp=(1_800_000_000, 1)), "the timestamp changed, the keys did not"),
        (replace(BOTH, keys=(GOOD_KEY,)), "the keys changed, the timestamp did not"),
        (
            replace(BOTH, keys=(GOOD_KEY, replace(OTHER, der=GOOD_KEY.der))),
            "the keys changed, the timestamp did not",
        ),
        (
            replace(BOTH, keys=(GOOD_KEY, replace(OTHER, excluded=True))),
            "the keys changed, the timestamp did not",
        ),
    ],
    ids=["order", "timestamp alone", "a key less", "another key", "excluded"],
)
def test_changes_that_are_none(keys: Keys, error: str) -> None:
    signer = FakeSigner(keys=BOTH)
    server = ApiServer(signer)
    server.start()
    signer.keys = keys
    with pytest.raises(RejectedError, match=error):
        server.refresh()


@pytest.mark.parametrize(
    ("longest", "flag", "error"),
    [
        (599, None, "the maximum is 599 s, less than 600 s"),
        (0, None, "the maximum is 0 s"),
        (-1, None, "the maximum is -1 s"),
        (3600, 3601, "the flag allows 3601 s, the signer 3600 s"),
    ],
)
def test_wrong_maximum(longest: int, flag: int | None, error: str) -> None:
    with pytest.raises(RejectedError, match=error):
        ApiServer(FakeSigner(longest=longest), flag).start()
