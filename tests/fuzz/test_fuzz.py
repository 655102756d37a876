"""Mutated tokens and TokenReview bodies: never an unexpected exception, never a false accept.

TEST_FUZZ_COUNT sets how many there are of both together, TEST_FUZZ_SEED repeats a run; the
seed is printed. Whether an accepted token should have been is decided here, by the standard
library and without the code under test: its text must be one that was signed, and its header and
claims must pass ``header_is_acceptable`` and ``claims_are_acceptable``.
"""

import json
import math
import os
import random
import re
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeGuard

from tests.support import (
    AUDIENCE,
    ISSUER,
    LEEWAY,
    NOW,
    JSONObject,
    as_json,
    authenticator_with,
    b64,
    good_claims,
    header_of,
    raw_signature,
    signing_key,
    token_of,
    unb64,
)
from webhook.errors import InvalidReviewError
from webhook.kube.token_review import parse_token_review, render_token_review
from webhook.token.authenticator import Authenticator
from webhook.token.explain import explain
from webhook.token.outcome import Authenticated, Refused

COUNT = int(os.environ.get("TEST_FUZZ_COUNT", "100000"))
SEED = int(os.environ.get("TEST_FUZZ_SEED", "0")) or random.SystemRandom().getrandbits(32)

KEYS = [signing_key(name) for name in ("RS256", "ES256", "EdDSA")]
# Signing with RSA is slow; what is signed again is signed with these.
FAST_KEYS = [signing_key("ES256"), signing_key("EdDSA")]
POD = {"name": "p1", "uid": "8ec93c07"}
PRIVATE = good_claims()["kubernetes.io"]
CLAIMS: list[JSONObject] = [
    good_claims(),
    good_claims(aud=AUDIENCE),
    good_claims(**{"kubernetes.io": PRIVATE | {"pod": POD, "node": {"name": "n1"}}}),
    good_claims(**{"kubernetes.io": PRIVATE | {"secret": POD, "warnafter": int(NOW)}}),
]
VALUES: list[object] = [
    None, True, False, 0, -1, 1, 0.5, 1e30, 10**30, int(NOW), int(NOW) + 60, int(NOW) + 61,
    int(NOW) - 60, int(NOW) - 61, NOW + 60.9, "", "a", " ", "\0", "é", "\u212a", "JWT", "none",
    "RS256", "ES256", "EdDSA", "HS256", ISSUER, ISSUER + "/", AUDIENCE, [AUDIENCE], [], [[]], {},
    ["a"] * 101, "x" * 2000, {"name": "a", "uid": "b"}, {"name": "a"}, "kube-system", "a:b",
    "system:serviceaccount:kube-system:admin", "argo-run", "loofah", [None], [AUDIENCE, 1],
]  # fmt: skip
NAMES = [
    "alg", "kid", "typ", "crit", "b64", "jwk", "jku", "x5u", "x5c", "cty", "zip", "iss", "sub",
    "aud", "exp", "iat", "nbf", "jti", "kubernetes.io", "pod", "secret", "node", "warnafter",
    "namespace", "serviceaccount", "name", "uid", "x", "", "Iss", "token", "audiences", "spec",
    "Token", "kind", "apiVersion", "status", "metadata",
]  # fmt: skip
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=. \n\té%"


# An independent oracle ----------------------------------------------------------------------


def unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member appears twice")
    return members


def refuse_constant(name: str) -> None:
    raise ValueError(name)


def read_object(segment: str) -> JSONObject:
    data = unb64(segment)
    if b64(data) != segment:
        raise ValueError("not canonical")
    text = data.decode("utf-8", "strict")
    value = json.loads(text, object_pairs_hook=unique_members, parse_constant=refuse_constant)
    if not isinstance(value, dict):
        raise TypeError
    return value


def header_is_acceptable(header: JSONObject) -> bool:
    forbidden = {"crit", "b64", "jwk", "jku", "x5u", "x5c", "cty", "zip"}
    by_kid = {key.verification_key.kid: key.verification_key.algorithm for key in KEYS}
    algorithm = header.get("alg")
    if forbidden & header.keys() or ("typ" in header and header["typ"] != "JWT"):
        return False
    if header.get("kid", "") != "":
        return isinstance(header["kid"], str) and by_kid.get(header["kid"]) == algorithm
    return algorithm in by_kid.values()


def is_time(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) and 0 <= value < 253402300800


def is_name(value: object) -> TypeGuard[str]:
    label = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    return (
        isinstance(value, str)
        and 0 < len(value) <= 253
        and re.fullmatch(rf"{label}(\.{label})*", value, re.ASCII) is not None
    )


def is_object(value: object, *, uid_required: bool) -> TypeGuard[JSONObject]:
    if not isinstance(value, dict) or not is_name(value.get("name")):
        return False
    uid = value.get("uid", "")
    if not isinstance(uid, str) or not uid.isascii():
        return False
    return bool(uid) or not uid_required


def claims_are_acceptable(claims: JSONObject, asked: tuple[str, ...], now: float) -> bool:
    audiences = claims.get("aud")
    if isinstance(audiences, str):
        audiences = [audiences]
    if not isinstance(audiences, list) or not 1 <= len(audiences) <= 100:
        return False
    if not all(isinstance(entry, str) and entry for entry in audiences):
        return False
    if not set(audiences) & set(asked or (AUDIENCE,)):
        return False
    if not all(is_time(claims.get(name)) for name in ("nbf", "exp", "iat")):
        return False
    if int(claims["nbf"]) > now + 60 or int(claims["iat"]) > now + 60:
        return False
    if int(claims["exp"]) < now - 60:
        return False
    private = claims.get("kubernetes.io")
    if claims.get("iss") != ISSUER or not isinstance(private, dict):
        return False
    namespace, account = private.get("namespace"), private.get("serviceaccount")
    if not is_name(namespace) or "." in namespace or len(namespace) > 63:
        return False
    if not is_object(account, uid_required=True):
        return False
    if claims.get("sub") != f"system:serviceaccount:{namespace}:{account['name']}":
        return False
    known = {"namespace", "serviceaccount", "pod", "secret", "node", "warnafter"}
    if any(isinstance(private[name], dict | list) for name in private.keys() - known):
        return False
    pod, secret, node = (private.get(kind) for kind in ("pod", "secret", "node"))
    if not all(is_object(bound, uid_required=True) for bound in (pod, secret) if bound is not None):
        return False
    if node is not None and not is_object(node, uid_required=pod is None):
        return False
    if secret is not None and (pod is not None or node is not None):
        return False
    if private.get("warnafter") is not None and not is_time(private["warnafter"]):
        return False
    return isinstance(claims.get("jti", ""), str)


def is_acceptable(token: str, signed: set[str], asked: tuple[str, ...]) -> bool:
    if token not in signed:
        return False
    try:
        header, payload = (read_object(segment) for segment in token.split(".")[:2])
    except (ValueError, TypeError, RecursionError):
        return False
    return header_is_acceptable(header) and claims_are_acceptable(payload, asked, NOW)


# Mutations ----------------------------------------------------------------------------------


def edit_bytes(data: bytes, source: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        place = source.randrange(len(changed) + 1)
        match source.randrange(6):
            case 0 if place < len(changed):
                changed[place] ^= 1 << source.randrange(8)
            case 1 if place < len(changed):
                changed[place] = source.randrange(256)
            case 2:
                changed[place:place] = bytes([source.randrange(256)])
            case 3:
                del changed[place : place + source.randrange(1, 9)]
            case 4:
                changed[place:place] = changed[place : place + source.randrange(1, 40)]
            case _:
                tokens = (b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\u0000", b"\\ud800", b"\xff")
                changed[place:place] = source.choice(tokens)
    return bytes(changed)


def objects_of(value: object) -> list[JSONObject | list[Any]]:
    found: list[JSONObject | list[Any]] = []
    if isinstance(value, dict | list):
        found.append(value)
        for entry in value.values() if isinstance(value, dict) else value:
            found += objects_of(entry)
    return found


def edit_json(members: JSONObject, source: random.Random) -> bytes:
    """Edit a JSON object anywhere in it, and write it down in one of several ways."""
    value = json.loads(as_json(members))
    for _ in range(source.choice((0, 1, 1, 1, 2, 3))):
        place = source.choice(objects_of(value))
        if isinstance(place, list):
            place.insert(source.randrange(len(place) + 1), deepcopy(source.choice(VALUES)))
            continue
        times = sorted({"exp", "nbf", "iat"} & place.keys())
        if times and source.random() < 0.1:
            shift = source.choice((-61, -60, -59, 0, 59, 60, 61, 3600, -3600))
            place[source.choice(times)] = int(NOW) + shift
            continue
        names = list(place) or [""]
        name = source.choice(names) if source.random() < 0.7 else source.choice(NAMES)
        match source.randrange(5):
            case 0:
                place.pop(name, None)
            case 1:
                place[source.choice(NAMES)] = place.pop(name, None)
            case 2 if isinstance(place.get(name), int | float):
                place[name] += source.choice((-3661, -61, -60, 60, 70, 71, 3600, 0.5))
            case 3 if isinstance(place.get(name), str) and place[name]:
                text = place[name]
                at = source.randrange(len(text))
                place[name] = text[:at] + source.choice(ALPHABET) + text[at + 1 :]
            case _:
                place[name] = deepcopy(source.choice(VALUES))
    style = source.random()
    if style < 0.8:
        data = as_json(value)
    elif style < 0.9:
        data = json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass")
    else:
        data = json.dumps(value, sort_keys=True).encode("ascii")
    if source.random() < 0.05 and len(value) > 0:
        name = source.choice(list(value))
        data = data[:-1] + as_json({name: value[name]}).replace(b"{", b",", 1)
    return edit_bytes(data, source) if source.random() < 0.15 else data


def flip_bits(token: str, source: random.Random) -> str:
    return edit_bytes(token.encode("utf-8", "surrogatepass"), source).decode("latin-1")


def edit_segments(token: str, source: random.Random) -> str:
    segments = token.split(".")
    match source.randrange(5):
        case 0:
            source.shuffle(segments)
        case 1:
            segments.pop(source.randrange(len(segments)))
        case 2:
            segments.append(source.choice(segments))
        case 3:
            place = source.randrange(len(segments))
            segments[place] = source.choice(BASES).split(".")[min(place, 2)]
        case _:
            segments[source.randrange(len(segments))] = ""
    return ".".join(segments)


def cut(token: str, source: random.Random) -> str:
    place = source.randrange(len(token))
    return token[place:] if source.random() < 0.5 else token[:place]


def repeat(token: str, source: random.Random) -> str:
    return token + source.choice(("", ".", " ", "\n")) + token[: source.randrange(len(token) + 1)]


def change_alphabet(token: str, source: random.Random) -> str:
    place = source.randrange(len(token) + 1)
    match source.randrange(4):
        case 0:
            return token.translate(str.maketrans("-_", "+/"))
        case 1:
            return token[:place] + source.choice("=+/ \n\t\0é%") + token[place:]
        case 2:
            return token + "=" * source.randrange(1, 4)
        case _:
            return token[:place] + source.choice(ALPHABET) + token[place + 1 :]


def edit_inside(token: str, source: random.Random) -> str:
    """Edit the header or the payload and leave the signature as it was."""
    segments = token.split(".")
    place = source.randrange(2)
    try:
        members = read_object(segments[place])
    except (ValueError, TypeError, IndexError, RecursionError):
        return flip_bits(token, source)
    segments[place] = b64(edit_json(members, source))
    return ".".join(segments)


def sign_again(source: random.Random, signed: set[str]) -> str:
    """Edit claims, now and then the header too, and sign the outcome with our key."""
    key = source.choice(FAST_KEYS)
    header = header_of(key) if source.random() < 0.8 else header_of(key, kid=None)
    text = as_json(header) if source.random() < 0.75 else edit_json(header, source)
    signing_input = f"{b64(text)}.{b64(edit_json(source.choice(CLAIMS), source))}"
    algorithm = key.verification_key.algorithm
    token = f"{signing_input}.{b64(raw_signature(signing_input.encode(), key, algorithm))}"
    signed.add(token)
    return token


BASES = [token_of(claims, key) for key in KEYS for claims in CLAIMS]
MUTATIONS: list[Callable[[str, random.Random], str]] = [
    flip_bits, flip_bits, edit_segments, cut, repeat, change_alphabet, edit_inside, edit_inside,
]  # fmt: skip


def mutated_token(source: random.Random, signed: set[str]) -> str:
    if source.random() < 0.5:
        token = sign_again(source, signed)
        if source.random() < 0.9:
            return token
    else:
        token = source.choice(BASES)
    for _ in range(source.choice((1, 1, 1, 2))):
        token = source.choice(MUTATIONS)(token, source) or "."
    return token


def body_around(token: str, source: random.Random) -> bytes:
    spec: JSONObject = {"token": token}
    if source.random() < 0.5:
        spec["audiences"] = source.choice(([], [AUDIENCE], ["vault"], ["vault", AUDIENCE], None))
    review = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": spec}
    match source.randrange(4):
        case 0:
            return as_json(review)
        case 1:
            return edit_bytes(as_json(review), source)
        case 2:
            return edit_json(review, source)
        case _:
            return edit_json(review | {"status": {"authenticated": True}, "metadata": {}}, source)


def check(
    authenticator: Authenticator, token: str, asked: tuple[str, ...], signed: set[str]
) -> str:
    """Authenticate a token and hold the outcome to the oracle; return what came of it."""
    outcome = authenticator.authenticate(token, asked, NOW)
    assert explain(token, outcome, LEEWAY, NOW).verdict
    acceptable = is_acceptable(token, signed, asked)
    if isinstance(outcome, Authenticated):
        assert acceptable, f"false accept: {token!r} asked for {asked}"
        return "accepted"
    assert isinstance(outcome, Refused)
    assert str(outcome.error)
    if acceptable:
        return "refused, though the oracle would not"
    return outcome.error.reason.value


def test_fuzz() -> None:
    print(f"TEST_FUZZ_SEED={SEED} TEST_FUZZ_COUNT={COUNT}")
    source = random.Random(SEED)
    authenticator = authenticator_with(*KEYS)
    outcomes: Counter[str] = Counter()
    signed = set(BASES)
    for token in BASES:
        assert check(authenticator, token, (), signed) == "accepted"
    for number in range(COUNT):
        signed = set(BASES)
        token = mutated_token(source, signed)
        if number % 3:
            outcomes[check(authenticator, token, (), signed)] += 1
            continue
        body = body_around(token if number % 2 else source.choice(BASES), source)
        try:
            request = parse_token_review(body, "v1")
        except InvalidReviewError:
            outcomes["invalid review"] += 1
            continue
        assert request.token
        assert request.token == request.token.strip(" \t\n\r\v\f")
        assert all(isinstance(entry, str) for entry in request.audiences)
        outcomes[check(authenticator, request.token, request.audiences, signed)] += 1
        outcome = authenticator.authenticate(request.token, request.audiences, NOW)
        status = json.loads(render_token_review(request, outcome))["status"]
        assert status["authenticated"] is isinstance(outcome, Authenticated)
        assert ("user" in status) is isinstance(outcome, Authenticated)
    print(dict(outcomes.most_common()))
    assert sum(outcomes.values()) == COUNT
    if COUNT >= 50_000:
        # The mutations reach every depth, or they would prove nothing.
        for reason in (
            "accepted", "invalid review", "Malformed", "NotRecognised", "UnknownKey",
            "AlgorithmNotAllowed", "BadSignature", "AudienceMismatch", "Expired", "NotYetValid",
            "IssuedInFuture", "SubjectMismatch",
        ):  # fmt: skip
            assert outcomes[reason] > 0, (reason, outcomes)
        # The oracle knows nothing of a few limits (length of texts, printable characters).
        assert outcomes["refused, though the oracle would not"] < COUNT // 50
