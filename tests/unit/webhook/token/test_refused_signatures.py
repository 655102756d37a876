"""Bad input 11 to 16: encodings, signatures and keys of a token."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from keys.folder import load_keyring
from keys.keyring import KeyState
from keys.pem import private_key_pem
from tests.support import (
    AUDIENCE,
    ISSUER,
    LEEWAY,
    NOW,
    as_json,
    assert_accepted,
    assert_refused,
    assert_token_not_in,
    authenticator_with,
    b64,
    good_claims,
    header_of,
    review,
    sign_text,
    signing_key,
    token_of,
    unb64,
)
from webhook.errors import Reason
from webhook.kube.token_review import identity_of
from webhook.token.authenticator import Authenticator, TrustedIssuer
from webhook.token.outcome import Refused

RSA = signing_key("RS256")
ALL_ALGORITHMS = (
    "RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA".split()  # noqa: SIM905
)
ORDER = {
    "ES256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "ES384": int(
        "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf"
        "581a0db248b0a77aecec196accc52973",
        16,
    ),
    "ES512": int(
        "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b"
        "7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
        16,
    ),
}
# A member whose text makes base64url use both characters that base64 has others for.
SPECIAL = "~~~???>>>"
Change = Callable[[str], str]
Numbers = Callable[[int, int, int], tuple[int, int]]


def refuse(token: str, reason: Reason, *, ours: bool = True) -> str:
    outcome = authenticator_with(RSA, signing_key("ES256")).authenticate(token, [], NOW)
    return assert_refused(outcome, token, reason, ours=ours)


def segments_of(token: str) -> list[str]:
    segments = token.split(".")
    assert len(segments) == 3
    return segments


@pytest.mark.parametrize("algorithm", ALL_ALGORITHMS)
def test_control_every_algorithm_is_accepted(algorithm: str) -> None:
    key = signing_key(algorithm)
    token = token_of(good_claims(), key)
    assert_accepted(authenticator_with(key).authenticate(token, [], NOW))


def _length(remainder: int, place: int) -> list[str]:
    """Return a token's segments with one of a length that leaves ``remainder`` modulo 4."""
    for extra in range(8):
        header = as_json(header_of(RSA, x=SPECIAL + "x" * extra))
        payload = as_json(good_claims(x=SPECIAL + "x" * extra))
        segments = [b64(header), b64(payload)]
        if len(segments[place]) % 4 == remainder:
            return segments
    raise AssertionError


def _next_character(text: str) -> str:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) + 1]


ENCODINGS = [
    pytest.param(0, lambda s: s + "=", id="one-pad-too-many"),
    pytest.param(0, lambda s: s + "====", id="four-pads"),
    pytest.param(2, lambda s: s + "==", id="two-pads"),
    pytest.param(2, lambda s: s + "=", id="one-pad-of-two"),
    pytest.param(3, lambda s: s + "=", id="one-pad"),
    pytest.param(0, lambda s: s.replace("-", "+"), id="plus"),
    pytest.param(0, lambda s: s.replace("_", "/"), id="slash"),
    pytest.param(0, lambda s: s[:8] + "\n" + s[8:], id="newline-inside"),
    pytest.param(0, lambda s: s[:8] + "\r\n" + s[8:], id="crlf-inside"),
    pytest.param(0, lambda s: s[:8] + " " + s[8:], id="space-inside"),
    pytest.param(0, lambda s: " " + s, id="space-before"),
    pytest.param(0, lambda s: s + " ", id="space-after"),
    pytest.param(0, lambda s: s + "\n", id="newline-after"),
    pytest.param(0, lambda s: s + "\t", id="tab-after"),
    pytest.param(0, lambda s: s + "\0", id="NUL-after"),
    pytest.param(2, _next_character, id="trailing-bits-of-two"),
    pytest.param(3, _next_character, id="trailing-bits-of-three"),
    pytest.param(0, lambda s: s + "A", id="one-character-more"),
    pytest.param(0, lambda s: s[:8] + "%2B" + s[8:], id="percent-encoded"),
    pytest.param(0, lambda s: s[:8] + "!" + s[8:], id="character-of-no-alphabet"),
]


@pytest.mark.bad_input(11)
@pytest.mark.parametrize(("remainder", "change"), ENCODINGS)
@pytest.mark.parametrize("place", [0, 1], ids=["header", "payload"])
def test_encoding_of_header_or_payload(place: int, remainder: int, change: Change) -> None:
    segments = _length(remainder, place)
    assert_accepted(authenticator_with().authenticate(sign_text(".".join(segments), RSA), [], NOW))
    changed = change(segments[place])
    assert changed != segments[place]
    segments[place] = changed
    # Signed as it is sent, so that only the encoding is wrong.
    token = sign_text(".".join(segments), RSA)
    refuse(token, Reason.MALFORMED, ours=place == 0)


SIGNATURES = {"RS256": 2, "ES256": 2, "ES384": 0, "ES512": 0, "EdDSA": 2}


def _signed_with(algorithm: str, characters: str) -> str:
    """Return a token in whose signature the characters occur."""
    for number in range(1000):
        token = token_of(good_claims(jti=f"id-{number}"), signing_key(algorithm))
        if all(character in token.rpartition(".")[2] for character in characters):
            return token
    raise AssertionError


@pytest.mark.bad_input(11)
@pytest.mark.parametrize(
    "change",
    [pytest.param(case.values[1], id=case.id) for case in ENCODINGS],
)
@pytest.mark.parametrize("algorithm", SIGNATURES)
def test_encoding_of_signature(algorithm: str, change: Change) -> None:
    token = _signed_with(algorithm, "-_")
    start, _, signature = token.rpartition(".")
    assert len(signature) % 4 == SIGNATURES[algorithm]
    if change is _next_character and signature[-1] == "_":
        signature = signature[:-1] + "A"
    key = signing_key(algorithm)
    changed = f"{start}.{change(signature)}"
    try:
        # Some changes give canonical base64url of another signature.
        canonical = b64(unb64(change(signature))) == change(signature)
    except ValueError:
        canonical = False
    reason = Reason.BAD_SIGNATURE if canonical else Reason.MALFORMED
    assert changed != token
    outcome = authenticator_with(key).authenticate(changed, [], NOW)
    assert_refused(outcome, changed, reason)


@pytest.mark.bad_input(11)
def test_es256_with_two_pads() -> None:
    token = token_of(good_claims(), signing_key("ES256"))
    assert len(token.rpartition(".")[2]) == 86
    assert_accepted(authenticator_with(signing_key("ES256")).authenticate(token, [], NOW))
    refuse(token + "==", Reason.MALFORMED)


@pytest.mark.bad_input(11)
@pytest.mark.parametrize("character", [" ", "\t", "\n", "\r", "\v", "\f", "\xa0", "\u2028"])
@pytest.mark.parametrize("after", [True, False], ids=["after", "before"])
def test_white_space_around_the_token(character: str, after: bool) -> None:
    token = token_of(good_claims())
    # A review strips ASCII white space; the authenticator refuses it.
    token = token + character if after else character + token
    refuse(token, Reason.MALFORMED, ours=character.isascii())


def _cut(signature: bytes) -> list[tuple[str, bytes]]:
    size = len(signature)
    return [
        ("empty", b""),
        ("one-byte", signature[:1]),
        ("half", signature[: size // 2]),
        ("one-byte-short", signature[:-1]),
        ("first-byte-gone", signature[1:]),
        ("zero-after", signature + b"\0"),
        ("zero-before", b"\0" + signature),
        ("twice", signature * 2),
        ("all-zero", bytes(size)),
        ("all-ones", b"\xff" * size),
        ("reversed", signature[::-1]),
    ]


@pytest.mark.bad_input(12)
@pytest.mark.parametrize("case", range(11), ids=[name for name, _ in _cut(b"12345678")])
@pytest.mark.parametrize("algorithm", ALL_ALGORITHMS)
def test_signature_of_another_length_or_value(algorithm: str, case: int) -> None:
    key = signing_key(algorithm)
    start, _, signature = token_of(good_claims(), key).rpartition(".")
    changed = f"{start}.{b64(_cut(unb64(signature))[case][1])}"
    outcome = authenticator_with(key).authenticate(changed, [], NOW)
    assert_refused(outcome, changed, Reason.BAD_SIGNATURE)


@pytest.mark.bad_input(12)
@pytest.mark.parametrize("algorithm", ALL_ALGORITHMS)
def test_signature_of_another_token(algorithm: str) -> None:
    key = signing_key(algorithm)
    authenticator = authenticator_with(key)
    tokens = [token_of(good_claims(jti=jti), key) for jti in ("one", "two")]
    for token in tokens:
        assert_accepted(authenticator.authenticate(token, [], NOW))
    start, other = tokens[0].rpartition(".")[0], tokens[1].rpartition(".")[2]
    mixed = f"{start}.{other}"
    # Both tokens are good and cached, but the mixture is refused.
    assert_refused(authenticator.authenticate(mixed, [], NOW), mixed, Reason.BAD_SIGNATURE)


def _names_our_issuer(token: str) -> bool:
    """Return whether three segments name our issuer, by the standard library alone."""
    segments = token.split(".")
    if not token.isascii() or len(segments) != 3:
        return False
    try:
        payload = unb64(segments[1])
        # The claims of a payload that is not UTF-8 are undefined; it is refused anyway.
        claims = json.loads(payload.decode("utf-8", "replace"))
    except ValueError:
        return False
    same = b64(payload) == segments[1]
    return same and isinstance(claims, dict) and claims.get("iss") == ISSUER


@pytest.mark.bad_input(12)
def test_every_bit_of_one_token() -> None:
    token = token_of(good_claims())
    authenticator = authenticator_with()
    assert_accepted(authenticator.authenticate(token, [], NOW))
    flipped_tokens = 0
    for place in range(len(token)):
        for bit in range(8):
            data = bytearray(token, "ascii")
            data[place] ^= 1 << bit
            flipped = data.decode("latin-1")
            outcome = authenticator.authenticate(flipped, [], NOW)
            assert isinstance(outcome, Refused), f"bit {bit} of byte {place}"
            status = review(outcome)["status"]
            assert status["authenticated"] is False
            assert "user" not in status
            assert ("error" in status) == _names_our_issuer(flipped), (place, bit, status)
            assert_token_not_in(flipped, str(outcome.error))
            flipped_tokens += 1
    assert flipped_tokens == 8 * len(token) > 6000


def _ecdsa(algorithm: str) -> tuple[str, int, int, int]:
    """Return a token's signing input, its r and s, and the bytes of each."""
    start, _, signature = token_of(good_claims(), signing_key(algorithm)).rpartition(".")
    data = unb64(signature)
    size = len(data) // 2
    return start, int.from_bytes(data[:size]), int.from_bytes(data[size:]), size


def _with_numbers(start: str, r: int, s: int, size: int) -> str:
    return f"{start}.{b64(r.to_bytes(size) + s.to_bytes(size))}"


@pytest.mark.bad_input(13)
@pytest.mark.parametrize("algorithm", ORDER)
def test_signature_as_der(algorithm: str) -> None:
    start, r, s, _ = _ecdsa(algorithm)
    token = f"{start}.{b64(encode_dss_signature(r, s))}"
    outcome = authenticator_with(signing_key(algorithm)).authenticate(token, [], NOW)
    assert_refused(outcome, token, Reason.BAD_SIGNATURE)


@pytest.mark.bad_input(13)
def test_der_signature_of_the_raw_length() -> None:
    """A DER signature may by chance be as long as a raw one; it is still refused."""
    key = signing_key("ES256")
    assert isinstance(key.private_key, ec.EllipticCurvePrivateKey)
    start = ".".join(segments_of(token_of(good_claims(), key))[:2])
    der = key.private_key.sign(start.encode(), ec.ECDSA(hashes.SHA256()))
    for data in (der[:64], der[-64:], der[6:70]):
        refuse(f"{start}.{b64(data)}", Reason.BAD_SIGNATURE)


@pytest.mark.bad_input(13)
@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(lambda _r, s, _n: (0, s), id="r-0"),
        pytest.param(lambda r, _s, _n: (r, 0), id="s-0"),
        pytest.param(lambda _r, _s, _n: (0, 0), id="both-0"),
        pytest.param(lambda _r, s, n: (n, s), id="r-n"),
        pytest.param(lambda r, _s, n: (r, n), id="s-n"),
        pytest.param(lambda _r, _s, n: (n, n), id="both-n"),
        pytest.param(lambda _r, _s, n: (0, n), id="r-0-s-n"),
        pytest.param(lambda _r, _s, n: (n, 0), id="r-n-s-0"),
        pytest.param(lambda _r, _s, _n: (1, 1), id="both-1"),
        pytest.param(lambda _r, _s, n: (n - 1, n - 1), id="both-n-minus-1"),
        pytest.param(lambda r, _s, n: (r, n + 1), id="s-n-plus-1"),
        pytest.param(lambda r, s, _n: (s, r), id="exchanged"),
        pytest.param(lambda r, s, n: (n - r, s), id="r-negated"),
    ],
)
@pytest.mark.parametrize("algorithm", ORDER)
def test_numbers_at_the_edges(algorithm: str, numbers: Numbers) -> None:
    start, r, s, size = _ecdsa(algorithm)
    token = _with_numbers(start, *numbers(r, s, ORDER[algorithm]), size)
    outcome = authenticator_with(signing_key(algorithm)).authenticate(token, [], NOW)
    assert_refused(outcome, token, Reason.BAD_SIGNATURE)


@pytest.mark.bad_input(13)
@pytest.mark.parametrize(("of_r", "of_s"), [(1, 0), (0, 1), (1, 1), (0, 60)])
def test_numbers_above_the_order_are_not_reduced(of_r: int, of_s: int) -> None:
    """P-521's numbers leave seven bits of their bytes free, so that a second one would fit."""
    start, r, s, size = _ecdsa("ES512")
    order = ORDER["ES512"]
    token = _with_numbers(start, r + of_r * order, s + of_s * order, size)
    outcome = authenticator_with(signing_key("ES512")).authenticate(token, [], NOW)
    assert_refused(outcome, token, Reason.BAD_SIGNATURE)


@pytest.mark.bad_input(13)
@pytest.mark.parametrize("algorithm", ORDER)
def test_high_s_is_the_same_token_for_revocation(algorithm: str) -> None:
    start, r, s, size = _ecdsa(algorithm)
    both = {_with_numbers(start, r, value, size) for value in (s, ORDER[algorithm] - s)}
    assert len(both) == 2
    authenticator = authenticator_with(signing_key(algorithm))
    accepted = [assert_accepted(authenticator.authenticate(token, [], NOW)) for token in both]
    assert accepted[0].claims == accepted[1].claims
    assert accepted[0].claims.jti
    credentials = {
        tuple(identity_of(answer).extra["authentication.kubernetes.io/credential-id"])
        for answer in accepted
    }
    assert credentials == {(f"JTI={accepted[0].claims.jti}",)}


@pytest.mark.bad_input(14)
@pytest.mark.parametrize(
    ("bound_to", "named", "signed", "reason"),
    [
        ("RS256", "RS256", "PS256", Reason.BAD_SIGNATURE),
        ("PS256", "PS256", "RS256", Reason.BAD_SIGNATURE),
        ("RS256", "PS256", "PS256", Reason.ALGORITHM_NOT_ALLOWED),
        ("PS256", "RS256", "RS256", Reason.ALGORITHM_NOT_ALLOWED),
        ("RS256", "PS256", "RS256", Reason.ALGORITHM_NOT_ALLOWED),
        ("PS256", "RS256", "PS256", Reason.ALGORITHM_NOT_ALLOWED),
        ("RS384", "RS384", "RS256", Reason.BAD_SIGNATURE),
        ("RS512", "RS512", "PS512", Reason.BAD_SIGNATURE),
        ("PS384", "PS384", "PS256", Reason.BAD_SIGNATURE),
    ],
)
def test_padding_of_another_rule(bound_to: str, named: str, signed: str, reason: Reason) -> None:
    key = signing_key(bound_to)
    token = token_of(good_claims(), key, header_of(key, alg=named), signed)
    outcome = authenticator_with(key).authenticate(token, [], NOW)
    assert_refused(outcome, token, reason)


def _serializations() -> dict[str, str]:
    header, payload, signature = segments_of(token_of(good_claims()))
    flattened = {"payload": payload, "protected": header, "signature": signature}
    one = {"protected": header, "signature": signature}
    unprotected = {"header": header_of(RSA), "signature": signature}
    return {
        "flattened": json.dumps(flattened),
        "flattened-compact": as_json(flattened).decode(),
        "general": json.dumps({"payload": payload, "signatures": [one]}),
        "general-unprotected": json.dumps({"payload": payload, "signatures": [unprotected]}),
        "one-segment": header,
        "two-segments": f"{header}.{payload}",
        "two-segments-and-signature": f"{payload}.{signature}",
        "four-segments": f"{header}.{payload}.{signature}.{signature}",
        "four-segments-last-empty": f"{header}.{payload}.{signature}.",
        "four-segments-first-empty": f".{header}.{payload}.{signature}",
        "four-segments-empty-inside": f"{header}..{payload}.{signature}",
        "five-segments": f"{header}.{payload}.{signature}.{payload}.{signature}",
        "five-segments-empty": f"{header}.{payload}.{signature}..",
        "jwe": ".".join(
            [b64(b'{"alg":"dir","enc":"A128GCM"}'), "", b64(b"iv" * 6), payload, b64(b"tag" * 5)]
        ),
        "no-segment": "",
        "dots": "..",
        "four-dots": "....",
        "prefixed": f"Bearer {header}.{payload}.{signature}",
        "quoted": f'"{header}.{payload}.{signature}"',
        "detached": f"{header}..{signature}",
    }


# In the two below the payload is in its place, so that the issuer can be read.
OURS_BUT_SPOILED = ("prefixed", "quoted")


@pytest.mark.bad_input(15)
@pytest.mark.parametrize("name", _serializations())
def test_other_serializations(name: str) -> None:
    refuse(_serializations()[name], Reason.MALFORMED, ours=name in OURS_BUT_SPOILED)


def _folder(path: Path, states: dict[str, KeyState]) -> Path:
    """Write a folder of keys as `leeway keys` would, one RSA key a name."""
    entries = []
    for place, (name, state) in enumerate(states.items()):
        key = signing_key("RS256", name)
        file = path / f"{name}.pem"
        file.touch(0o600)
        file.write_bytes(private_key_pem(key.private_key))
        kid = key.verification_key.kid
        entries.append({"kid": kid, "file": file.name, "state": state, "since": place})
    schedule = path / "schedule.json"
    schedule.touch(0o600)
    schedule.write_bytes(as_json({"keys": entries}))
    return path


STATES = {
    "own": KeyState.ACTIVE,
    "old": KeyState.VERIFY_ONLY,
    "next": KeyState.PENDING,
    "gone": KeyState.RETIRED,
}


@pytest.fixture(scope="module")
def scheduled(tmp_path_factory: pytest.TempPathFactory) -> Authenticator:
    keyring = load_keyring(_folder(tmp_path_factory.mktemp("keys"), STATES))
    other = TrustedIssuer(
        "https://other.example", [AUDIENCE], [signing_key("RS256", "other").verification_key]
    )
    own = TrustedIssuer(ISSUER, [AUDIENCE], keyring.verification_keys())
    return Authenticator([own, other], LEEWAY)


@pytest.mark.parametrize("with_kid", [True, False], ids=["kid", "no-kid"])
@pytest.mark.parametrize("name", ["own", "old"], ids=["active", "verify-only"])
def test_control_keys_in_use_verify(scheduled: Authenticator, name: str, with_kid: bool) -> None:
    key = signing_key("RS256", name)
    header = header_of(key) if with_kid else header_of(key, kid=None)
    assert_accepted(scheduled.authenticate(token_of(good_claims(), key, header), [], NOW))


@pytest.mark.bad_input(16)
@pytest.mark.parametrize(
    ("kid", "reason"),
    [
        pytest.param("its", Reason.UNKNOWN_KEY, id="its-kid"),
        pytest.param("own", Reason.BAD_SIGNATURE, id="kid-of-the-active-key"),
        pytest.param(None, Reason.BAD_SIGNATURE, id="no-kid"),
    ],
)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("gone", id="retired"),
        pytest.param("next", id="pending"),
        pytest.param("foreign", id="foreign"),
        pytest.param("other", id="of-another-trusted-issuer"),
    ],
)
def test_key_not_in_use(
    scheduled: Authenticator, name: str, kid: str | None, reason: Reason
) -> None:
    key = signing_key("RS256", name)
    named = kid and (key if kid == "its" else signing_key("RS256", kid)).verification_key.kid
    token = token_of(good_claims(), key, header_of(key, kid=named))
    assert_refused(scheduled.authenticate(token, [], NOW), token, reason)


@pytest.mark.bad_input(16)
def test_key_of_no_algorithm_in_use(scheduled: Authenticator) -> None:
    key = signing_key("ES256", "foreign")
    token = token_of(good_claims(), key, header_of(key, kid=None))
    outcome = scheduled.authenticate(token, [], NOW)
    assert_refused(outcome, token, Reason.ALGORITHM_NOT_ALLOWED)


def test_issuer_without_keys_accepts_nothing() -> None:
    authenticator = Authenticator([TrustedIssuer(ISSUER, [AUDIENCE], [])], LEEWAY)
    token = token_of(good_claims())
    assert_refused(authenticator.authenticate(token, [], NOW), token, Reason.UNKNOWN_KEY)
    token = token_of(good_claims(), RSA, header_of(RSA, kid=None))
    outcome = authenticator.authenticate(token, [], NOW)
    assert_refused(outcome, token, Reason.ALGORITHM_NOT_ALLOWED)
