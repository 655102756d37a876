"""The oracle of the signer's tests: what it must forbid, and what it must not."""

from collections import Counter

import pytest

from tests.external_jwt.claims import (
    ISSUER,
    JSONObject,
    Limits,
    Mutator,
    account_claims,
    as_go,
    b64,
    bound_claims,
    forbidden,
    pod_claims,
)

NOW = 1_800_000_000.0
LIMITS = Limits()
ACCOUNT = {"name": "loofah", "uid": "u"}
POD = {"name": "p", "uid": "u"}


def private(**members: object) -> JSONObject:
    members = {"namespace": "argo-run", "serviceaccount": ACCOUNT} | members
    return {"kubernetes.io": {n: v for n, v in members.items() if v is not None}}


def claims(**changes: object) -> JSONObject:
    return account_claims(NOW, **changes)


@pytest.mark.parametrize(
    "good",
    [
        claims(),
        pod_claims(NOW),
        bound_claims(NOW, "secret"),
        bound_claims(NOW, "node"),
        claims(jti=None),
        claims(aud="one"),
        claims(aud=["https://example.com/?a=1&b=<2>"]),
        claims(iat=NOW + 60, exp=NOW + 3600),
        claims(iat=NOW - 60),
        claims(exp=NOW + 86_400),
        claims(sub="system:serviceaccount:argo-run:a.b")
        | private(serviceaccount={"name": "a.b", "uid": "u"}),
        claims() | private(pod=POD, node={"name": "n"}),
        claims() | private(unknown="text"),
    ],
)
def test_good_claims(good: JSONObject) -> None:
    assert forbidden(b64(as_go(good)), NOW, LIMITS) == ""


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (claims(iss=ISSUER + "/"), "another issuer"),
        (claims(iss=None), "another issuer"),
        (claims(iss=[ISSUER]), "another issuer"),
        (claims(ISS="https://evil"), "other capitals|twice"),
        (claims(Sub="system:admin"), "other capitals|twice"),
        (claims(**{"\u017fub": "system:admin"}), "other capitals|twice"),
        (claims(sub="system:serviceaccount:kube-system:admin"), "sub contradicts"),
        (claims(sub=None), "sub contradicts"),
        (claims(aud=None), "no audience"),
        (claims(aud=[]), "no audience"),
        (claims(aud=""), "an audience that is empty or not a string"),
        (claims(aud=[""]), "an audience that is empty or not a string"),
        (claims(aud={}), "no audience"),
        (claims(aud=[["a"]]), "an audience that is empty or not a string"),
        (claims(exp=NOW + 86_461), "within the maximum"),
        (claims(exp=NOW), "within the maximum"),
        (claims(exp="1"), "exp is not a number"),
        (claims(exp=True), "exp is not a number"),
        (claims(exp=None), "exp is not a number"),
        (claims(iat=None), "iat is not a number"),
        (claims(nbf=None), "nbf is not a number"),
        (claims(nbf=NOW + 3600), "never valid"),
        (claims(iat=NOW + 62), "within the leeway"),
        (claims(iat=NOW - 62), "within the leeway"),
        (claims(jti=7), "jti is not a string"),
        (claims(**{"kubernetes.io": []}), "kubernetes.io is not an object"),
        (claims(**{"kubernetes.io": None}), "kubernetes.io is not an object"),
        (claims() | private(namespace=None), "namespace is not a string"),
        (claims() | private(namespace="a.b"), "not a namespace"),
        (claims() | private(serviceaccount=None), "serviceaccount is not an object"),
        (claims() | private(serviceaccount={"name": "loofah"}), "the uid of serviceaccount"),
        (claims() | private(serviceaccount={"uid": "u"}), "the name of serviceaccount"),
        (claims() | private(serviceaccount=ACCOUNT | {"Name": "a"}), "twice"),
        (claims() | private(pod=POD, secret=POD), "two objects"),
        (claims() | private(secret=POD, node=POD), "two objects"),
        (claims() | private(pod={"name": "p"}), "the uid of pod"),
        (claims() | private(node={"name": "n"}), "the uid of node"),
        (claims() | private(pod="p"), "pod is not an object"),
        (claims() | private(warnafter="1"), "warnafter is not a number"),
        (claims() | private(binding={"name": "b"}), "an unknown binding"),
        (claims() | private(binding=["b"]), "an unknown binding"),
        (claims(x={"a": 1, "A": 2}), "twice"),
    ],
)
def test_bad_claims(bad: JSONObject, why: str) -> None:
    found = forbidden(b64(as_go(bad)), NOW, LIMITS)
    assert any(part in found for part in why.split("|")), found


GOOD = as_go(claims())
TEXT = b64(as_go(claims(jti="x" * 34)))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not base64url"),
        (TEXT + "=", "not base64url"),
        (TEXT + "\n", "not base64url"),
        (TEXT[:-1], "base64url"),
        (b64(GOOD)[:40], "not JSON"),
        (b64(GOOD + GOOD), "not JSON"),
        (b64(b"\xef\xbb\xbf" + GOOD), "not JSON"),
        (b64(GOOD.decode().encode("utf-16")), "not JSON"),
        (b64(GOOD[:-1] + b',"iss":"x"}'), "twice"),
        (b64(GOOD[:-1] + b',"\\u0069ss":"x"}'), "twice"),
        (b64(GOOD[:-1] + b',"x":NaN}'), "NaN is not JSON"),
        (b64(GOOD[:-1] + b',"x":"\\ud800"}'), "half of a surrogate pair"),
        (b64(b"[" * 100_000), "not JSON"),
        (b64(b"[]"), "the payload is not an object"),
        (b64(b" " * 800_000), "too long"),
    ],
)
def test_bad_text(text: str, why: str) -> None:
    assert why in forbidden(text, NOW, LIMITS)


def test_mutations_are_of_every_kind_and_repeatable() -> None:
    first, second = Mutator(1, NOW), Mutator(1, NOW)
    texts = [first.request() for _ in range(2000)]
    assert texts == [second.request() for _ in range(2000)]
    kinds = Counter(forbidden(text, NOW, LIMITS) for text in texts)
    assert kinds[""] > 200
    assert len(kinds) > 30, kinds
