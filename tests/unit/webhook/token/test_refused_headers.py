"""Bad input 1 to 10: JWT headers. Each token is signed by our key; only its header is wrong."""

import json
import socket
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from keys.jwk import to_jwk
from keys.jws import SigningKey
from tests.support import (
    NOW,
    JSONObject,
    as_json,
    assert_accepted,
    assert_refused,
    authenticator_with,
    b64,
    good_claims,
    header_of,
    raw_jws,
    sign_text,
    signing_key,
    token_of,
)
from tests.unit.webhook.token import hmac_forgery
from webhook.errors import Reason

RSA = signing_key("RS256")
EC = signing_key("ES256")
KID = RSA.verification_key.kid
PAYLOAD = as_json(good_claims())


def refuse(token: str, reason: Reason, *, ours: bool = True) -> str:
    outcome = authenticator_with(RSA, EC).authenticate(token, [], NOW)
    return assert_refused(outcome, token, reason, ours=ours)


@pytest.mark.parametrize("key", [RSA, EC, signing_key("EdDSA")], ids=["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize(
    "header",
    [
        pytest.param(header_of, id="alg-and-kid"),
        pytest.param(lambda key: header_of(key, kid=None), id="no-kid"),
        pytest.param(
            lambda key: header_of(key, kid=""), id="empty-kid", marks=pytest.mark.fault(2)
        ),
        pytest.param(lambda key: header_of(key, typ="JWT"), id="typ-JWT"),
        pytest.param(lambda key: header_of(key, unknown={"a": [1]}), id="unknown-member"),
    ],
)
def test_control_good_headers_are_accepted(
    key: SigningKey, header: Callable[[SigningKey], JSONObject]
) -> None:
    authenticator = authenticator_with(RSA, EC, signing_key("EdDSA"))
    assert_accepted(authenticator.authenticate(token_of(PAYLOAD, key, header(key)), [], NOW))


@pytest.mark.bad_input(1)
@pytest.mark.parametrize("kid", [{"kid": KID}, {}], ids=["kid", "no-kid"])
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "signature-empty"])
@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"alg": "none"}, id="none"),
        pytest.param({"alg": "NoNe"}, id="NoNe"),
        pytest.param({"alg": "NONE"}, id="NONE"),
        pytest.param({}, id="missing"),
        pytest.param({"alg": ""}, id="empty"),
        pytest.param({"alg": None}, id="null"),
        pytest.param({"alg": ["RS256"]}, id="list"),
        pytest.param({"alg": "rs256"}, id="lower-case"),
        pytest.param({"alg": "RS256 "}, id="trailing-space"),
        pytest.param({"ALG": "RS256"}, id="name-in-upper-case"),
    ],
)
def test_alg_none(members: JSONObject, signed: bool, kid: JSONObject) -> None:
    token = raw_jws(as_json(members | kid), PAYLOAD, RSA, "RS256")
    if not signed:
        token = token[: token.rindex(".") + 1]
    assert '"alg"' in refuse(token, Reason.ALGORITHM_NOT_ALLOWED)


@pytest.mark.bad_input(2)
@pytest.mark.parametrize("with_kid", [True, False], ids=["kid", "no-kid"])
@pytest.mark.parametrize("key", [RSA, EC], ids=["RSA", "EC"])
@pytest.mark.parametrize("secret", hmac_forgery.SECRETS)
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_public_key_as_hmac_secret(
    algorithm: str, secret: str, key: SigningKey, with_kid: bool
) -> None:
    kid = key.verification_key.kid if with_kid else None
    header = header_of(key, alg=algorithm, kid=kid)
    signing_input = f"{b64(as_json(header))}.{b64(PAYLOAD)}"
    token = hmac_forgery.sign(signing_input, hmac_forgery.SECRETS[secret](key), algorithm)
    refuse(token, Reason.ALGORITHM_NOT_ALLOWED)


@pytest.mark.bad_input(3)
@pytest.mark.parametrize("with_kid", [True, False], ids=["kid", "no-kid"])
@pytest.mark.parametrize(
    ("key", "algorithm", "others"),
    [
        pytest.param("RS256", signed, named, id=f"RS256-key-signs-{signed}-names-{named}")
        for signed, named in [
            ("RS384", "RS384"),
            ("RS512", "RS512"),
            ("PS256", "PS256"),
            ("PS384", "PS384"),
            ("PS512", "PS512"),
            ("RS256", "ES256"),
            ("RS256", "EdDSA"),
            ("RS256", "RS384"),
        ]
    ]
    + [
        pytest.param("ES256", signed, named, id=f"ES256-key-signs-{signed}-names-{named}")
        for signed, named in [("ES384", "ES384"), ("ES512", "ES512"), ("ES256", "RS256")]
    ]
    + [pytest.param("EdDSA", "EdDSA", "ES256", id="EdDSA-key-names-ES256")],
)
def test_alg_is_not_the_keys(key: str, algorithm: str, others: str, with_kid: bool) -> None:
    own = signing_key(key)
    header = header_of(own, alg=others, kid=own.verification_key.kid if with_kid else None)
    token = token_of(PAYLOAD, own, header, algorithm)
    outcome = authenticator_with(own).authenticate(token, [], NOW)
    text = assert_refused(outcome, token, Reason.ALGORITHM_NOT_ALLOWED)
    assert others in text


@pytest.mark.bad_input(4)
@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"crit": ["b64"], "b64": True}, id="known"),
        pytest.param({"crit": ["exp"], "exp": 1}, id="known-exp"),
        pytest.param({"crit": ["x-unknown"], "x-unknown": 1}, id="unknown"),
        pytest.param({"crit": ["x-unknown"]}, id="unknown-and-absent"),
        pytest.param({"crit": []}, id="empty-list"),
        pytest.param({"crit": None}, id="null"),
        pytest.param({"crit": ["alg"]}, id="alg"),
    ],
)
def test_crit(members: JSONObject) -> None:
    token = token_of(PAYLOAD, RSA, as_json(header_of(RSA) | members))
    assert '"crit"' in refuse(token, Reason.MALFORMED)


@pytest.mark.bad_input(5)
@pytest.mark.parametrize("value", [False, True, None, "false"], ids=str)
def test_b64(value: object) -> None:
    token = token_of(PAYLOAD, RSA, as_json(header_of(RSA) | {"b64": value}))
    assert '"b64"' in refuse(token, Reason.MALFORMED)


@pytest.mark.bad_input(5)
@pytest.mark.parametrize(
    ("payload", "ours"),
    [
        # RFC 7797: the payload stands in the token as it is. It holds dots, and says nothing of
        # its issuer to one who reads it as base64url.
        pytest.param(PAYLOAD.decode(), False, id="payload-as-it-is"),
        pytest.param('{"sub":"x"}', False, id="payload-without-dots"),
        pytest.param("", False, id="detached"),
    ],
)
def test_unencoded_payload(payload: str, ours: bool) -> None:
    header = as_json(header_of(RSA) | {"b64": False, "crit": ["b64"]})
    refuse(sign_text(f"{b64(header)}.{payload}", RSA), Reason.MALFORMED, ours=ours)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        yield server


def _self_signed() -> str:
    foreign = signing_key("RS256", "foreign")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leeway")])
    certificate = (
        x509.CertificateBuilder(name, name, foreign.verification_key.public_key)
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2060, 1, 1, tzinfo=UTC))
        .sign(foreign.private_key, hashes.SHA256())
    )
    return b64(certificate.public_bytes(Encoding.DER))


@pytest.mark.bad_input(6)
@pytest.mark.parametrize("signer", ["own", "foreign"])
@pytest.mark.parametrize("kid", ["own", "foreign", None], ids=["own-kid", "its-kid", "no-kid"])
@pytest.mark.parametrize("parameter", ["jwk", "jku", "x5u", "x5c"])
def test_embedded_key(
    listener: socket.socket, parameter: str, kid: str | None, signer: str
) -> None:
    foreign = signing_key("RS256", "foreign")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/keys"
    values = {
        "jwk": to_jwk(foreign.verification_key),
        "jku": url,
        "x5u": url,
        "x5c": [_self_signed()],
    }
    named = signing_key("RS256", kid).verification_key.kid if kid else None
    header = header_of(RSA, kid=named) | {parameter: values[parameter]}
    text = refuse(token_of(PAYLOAD, signing_key("RS256", signer), header), Reason.MALFORMED)
    assert f'"{parameter}"' in text
    # Nothing was fetched.
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.bad_input(7)
@pytest.mark.parametrize(
    "header",
    [
        pytest.param('{"alg":"none","alg":"RS256","kid":"%s"}', id="alg-other-first"),
        pytest.param('{"alg":"RS256","kid":"%s","alg":"none"}', id="alg-other-last"),
        pytest.param('{"alg":"RS256","alg":"RS256","kid":"%s"}', id="alg-the-same"),
        pytest.param('{"alg":"RS256","\\u0061lg":"RS256","kid":"%s"}', id="alg-escaped"),
        pytest.param('{"alg":"RS256","kid":"other","kid":"%s"}', id="kid-other-first"),
        pytest.param('{"alg":"RS256","kid":"%s","kid":"other"}', id="kid-other-last"),
        pytest.param('{"alg":"RS256","kid":"%s","x":{"y":1,"y":1}}', id="nested"),
        pytest.param('{"alg":"RS256","kid":"%s","x":1,"x":2}', id="unknown-member"),
    ],
)
def test_member_twice(header: str) -> None:
    token = token_of(PAYLOAD, RSA, (header % KID).encode())
    text = refuse(token, Reason.MALFORMED)
    assert "appears twice" in text


@pytest.mark.bad_input(8)
@pytest.mark.parametrize(
    ("kid", "reason"),
    [
        pytest.param("k" * 1024, Reason.UNKNOWN_KEY, id="1024-characters"),
        pytest.param("k" * 1025, Reason.MALFORMED, id="1025-characters"),
        pytest.param("k" * 3000, Reason.MALFORMED, id="3000-characters"),
        pytest.param("k" * 20000, Reason.MALFORMED, id="20000-characters"),
        pytest.param("../../../../etc/passwd", Reason.UNKNOWN_KEY, id="path"),
        pytest.param("/dev/null", Reason.UNKNOWN_KEY, id="absolute-path"),
        pytest.param(f"./{KID}", Reason.UNKNOWN_KEY, id="path-of-our-key"),
        pytest.param("https://example.com/key", Reason.UNKNOWN_KEY, id="url"),
        pytest.param("' OR 1=1 --", Reason.UNKNOWN_KEY, id="sql"),
        pytest.param(f"{KID}\0", Reason.MALFORMED, id="our-kid-and-NUL"),
        pytest.param("\0", Reason.MALFORMED, id="NUL"),
        pytest.param(f"{KID}\n", Reason.MALFORMED, id="our-kid-and-newline"),
        pytest.param("\x1b[31mred", Reason.MALFORMED, id="escape-sequence"),
        pytest.param(f" {KID}", Reason.UNKNOWN_KEY, id="our-kid-after-a-space"),
        pytest.param(KID[:-1], Reason.UNKNOWN_KEY, id="our-kid-cut"),
        pytest.param(KID.swapcase(), Reason.UNKNOWN_KEY, id="our-kid-in-other-case"),
        pytest.param(7, Reason.MALFORMED, id="number"),
        pytest.param(None, Reason.MALFORMED, id="null"),
        pytest.param([KID], Reason.MALFORMED, id="list"),
    ],
)
def test_kid(kid: object, reason: Reason) -> None:
    header = as_json({"alg": "RS256", "kid": kid})
    text = refuse(token_of(PAYLOAD, RSA, header), reason)
    assert "\0" not in text
    assert "\x1b" not in text


@pytest.mark.bad_input(8)
@pytest.mark.fault(2)
def test_an_empty_kid_counts_as_absent() -> None:
    foreign = signing_key("RS256", "foreign")
    header = {"alg": "RS256", "kid": ""}
    assert "any of" not in refuse(token_of(PAYLOAD, foreign, header), Reason.BAD_SIGNATURE)
    assert_accepted(authenticator_with(RSA).authenticate(token_of(PAYLOAD, RSA, header), [], NOW))


@pytest.mark.bad_input(8)
def test_kid_of_one_megabyte() -> None:
    header = as_json({"alg": "RS256", "kid": "k" * 1_000_000})
    refuse(token_of(PAYLOAD, RSA, header), Reason.MALFORMED, ours=False)


@pytest.mark.bad_input(9)
@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"typ": typ}, id=f"typ-{typ!r}")
        for typ in ("jwt", "JWS", "at+jwt", "application/jwt", "JOSE", "", None, 1, ["JWT"])
    ]
    + [
        pytest.param({"cty": "JWT"}, id="cty-JWT"),
        pytest.param({"cty": ""}, id="cty-empty"),
        pytest.param({"zip": "DEF"}, id="zip"),
        pytest.param({"zip": None}, id="zip-null"),
    ],
)
def test_typ_cty_zip(members: JSONObject) -> None:
    token = token_of(PAYLOAD, RSA, as_json(header_of(RSA) | members))
    assert f'"{next(iter(members))}"' in refuse(token, Reason.MALFORMED)


@pytest.mark.bad_input(9)
def test_zipped_payload() -> None:
    header = as_json(header_of(RSA) | {"zip": "DEF"})
    refuse(token_of(zlib.compress(PAYLOAD), RSA, header), Reason.MALFORMED, ours=False)


def _nested(depth: int) -> bytes:
    header = as_json(header_of(RSA))[:-1]
    return header + b',"x":' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.bad_input(10)
@pytest.mark.parametrize(
    ("header", "ours"),
    [
        # Too long to be parsed: its issuer is unknown.
        pytest.param(_nested(100_000), False, id="100000-deep"),
        pytest.param(_nested(100_000)[:-100_000], False, id="100000-deep-and-open"),
        pytest.param(_nested(10_000), True, id="10000-deep"),
        pytest.param(_nested(1_400), True, id="1400-deep-in-4-KiB"),
        pytest.param(b"[" * 3000, True, id="3000-open-brackets"),
        pytest.param(b'{"x":' * 600, True, id="600-open-objects"),
        pytest.param(as_json(header_of(RSA, x="x" * 1_000_000)), False, id="1-MB"),
        pytest.param(as_json(header_of(RSA, x="x" * 20_000)), True, id="20-KB"),
        pytest.param(as_json(header_of(RSA, x="x" * 3_000)), True, id="over-4-KiB-encoded"),
        pytest.param(b"", True, id="empty"),
        pytest.param(b"[]", True, id="list"),
        pytest.param(b"null", True, id="null"),
        pytest.param(b'"RS256"', True, id="text"),
    ],
)
def test_deep_or_long_header(header: bytes, ours: bool) -> None:
    refuse(token_of(PAYLOAD, RSA, header), Reason.MALFORMED, ours=ours)


def test_header_of_the_longest_size_is_accepted() -> None:
    room = 3072 - len(as_json(header_of(RSA, x="")))
    header = as_json(header_of(RSA, x="x" * room))
    assert len(b64(header)) == 4096
    token = token_of(PAYLOAD, RSA, header)
    assert_accepted(authenticator_with(RSA).authenticate(token, [], NOW))
    longer = as_json(header_of(RSA, x="x" * (room + 1)))
    refuse(token_of(PAYLOAD, RSA, longer), Reason.MALFORMED)


def test_error_of_an_unknown_key_names_it_but_not_the_token() -> None:
    token = token_of(PAYLOAD, signing_key("RS256", "foreign"))
    text = refuse(token, Reason.UNKNOWN_KEY)
    assert repr(signing_key("RS256", "foreign").verification_key.kid) in text
    assert json.loads(PAYLOAD)["jti"] not in text
