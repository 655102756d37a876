"""Every vector of C2SP/wycheproof for JWS and JWK, with its verdict."""

import base64
import hashlib
import hmac
import json
from pathlib import Path

import pytest

from keys import jws
from keys.encoding import decode_base64url
from keys.errors import KeysError
from keys.jwk import VerificationKey, parse_jwks
from tests.support import JSONObject, read_object

# Where the verdict is not the file's label, as vectors/README.md says: the header's "alg" is not
# the JWK's in 346, 347, 350 and 351. All the others are `valid` under a symmetric key, and a
# symmetric key is never loaded, so that 367 and 370 (accepted as far as base64url goes, see
# test_base64url_vectors) end as rejects as well.
ALG_IS_NOT_THE_KEYS = {346, 347, 350, 351}
SIGNATURES_BY_SYMMETRIC_KEYS = {1, 348, 352, 357, 358, 359, 372, 373, 376, 377}
# README.md wants "all 26 as labelled" for keys and "all of their vectors are rejects" for
# symmetric keys. The four below cannot be both; a symmetric key is refused, whatever it signed.
KEYS_SYMMETRIC = {2, 13, 14, 15}


def test_json_web_signature(vectors: Path) -> None:
    groups = _groups(vectors, "json_web_signature_test.json")
    against_label = ALG_IS_NOT_THE_KEYS | SIGNATURES_BY_SYMMETRIC_KEYS
    expected, verdicts = _verdicts(groups, against_label)
    assert verdicts == expected
    assert len(verdicts) == 401
    assert sum(verdicts.values()) == 32


def test_json_web_key(vectors: Path) -> None:
    groups = _groups(vectors, "json_web_key_test.json")
    expected, verdicts = _verdicts(groups, KEYS_SYMMETRIC)
    assert verdicts == expected
    assert len(verdicts) == 26
    assert [number for number, accepted in verdicts.items() if accepted] == [5]


def test_roca_key_is_refused_as_such(vectors: Path) -> None:
    groups = _groups(vectors, "json_web_key_test.json")
    (group,) = [g for g in groups if g["tests"][0]["tcId"] == 7]
    with pytest.raises(KeysError, match="CVE-2017-15361"):
        parse_jwks(json.dumps(group["public"]).encode())


def test_base64url_vectors(vectors: Path) -> None:
    """Check base64url against README.md's verdicts, with the HMAC computed here."""
    groups = _groups(vectors, "json_web_signature_test.json")
    (group,) = [g for g in groups if g["comment"] == "base64"]
    secret = base64.urlsafe_b64decode(group["private"]["k"] + "=")
    verdicts = {test["tcId"]: _decodes_and_macs(test["jws"], secret) for test in group["tests"]}
    slips = {367: True, 370: True, 372: False, 373: False}
    labels = {test["tcId"]: test["result"] == "valid" for test in group["tests"]}
    assert verdicts == labels | slips
    assert len(verdicts) == 21


def _groups(vectors: Path, name: str) -> list[JSONObject]:
    groups: list[JSONObject] = read_object((vectors / "wycheproof" / name).read_bytes())[
        "testGroups"
    ]
    return groups


def _verdicts(
    groups: list[JSONObject], against_label: set[int]
) -> tuple[dict[int, bool], dict[int, bool]]:
    expected, verdicts = {}, {}
    for group in groups:
        keys = _load(group.get("public") or group["private"])
        for test in group["tests"]:
            number = test["tcId"]
            expected[number] = test["result"] == "valid" and number not in against_label
            verdicts[number] = keys is not None and _verifies(test["jws"], keys)
    return expected, verdicts


def _load(jwk: JSONObject) -> tuple[VerificationKey, ...] | None:
    document = jwk if "keys" in jwk else {"keys": [jwk]}
    try:
        return parse_jwks(json.dumps(document).encode()).keys
    except KeysError:
        return None


def _verifies(token: object, keys: tuple[VerificationKey, ...]) -> bool:
    text = token if isinstance(token, str) else json.dumps(token)
    try:
        parsed = jws.parse(text)
        kid = jws.header(parsed).kid
        if kid is None:
            (key,) = keys
            return jws.verify(parsed, key)
        return any(jws.verify(parsed, key) for key in keys if key.kid == kid)
    except KeysError:
        return False


def _decodes_and_macs(token: str, secret: bytes) -> bool:
    signing_input, _, signature = token.rpartition(".")
    try:
        decoded = [decode_base64url(segment.encode()) for segment in token.split(".")]
    except KeysError:
        return False
    assert len(decoded) == 3
    assert signature
    mac = hmac.new(secret, signing_input.encode(), hashlib.sha256).digest()
    return hmac.compare_digest(mac, decoded[2])
