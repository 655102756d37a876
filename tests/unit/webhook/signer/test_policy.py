"""Which claims are signed for kube-apiserver."""

import json
from typing import Any

import pytest

from tests.unit.webhook.signer.claims_parts import (
    ISSUER,
    NOW,
    claims,
    private,
    segment,
    text,
    without,
)
from webhook.signer.policy import (
    MAX_CLAIMS_LENGTH,
    ClaimsRefusedError,
    Refusal,
    SigningPolicy,
    check_claims,
)
from webhook.token.claims import ClockLeeway

POLICY = SigningPolicy(ISSUER, 86400, ClockLeeway(60, 60, 60))
NODE = {"name": "n", "uid": "u"}
HTML = claims(aud=["https://a.example?b&c"])

ACCEPTED: dict[str, str] = {
    "of a Pod": segment(claims()),
    "of no object": segment(
        claims(**{"kubernetes.io": without(without(private(), "pod"), "node")})
    ),
    "of a Node": segment(claims(**{"kubernetes.io": without(private(), "pod")})),
    "of a Secret": segment(
        claims(**{"kubernetes.io": private(secret=NODE) | {"pod": None, "node": None}})
    ),
    "without warnafter": segment(claims(**{"kubernetes.io": without(private(), "warnafter")})),
    "one audience as text": segment(claims(aud="vault")),
    "Go's escapes": segment(text(HTML).replace("&", "\\u0026")),
    "other spacing and order": segment(json.dumps(claims(), indent=1)),
    "nbf before iat": segment(claims(nbf=NOW - 5)),
    "the longest lifetime": segment(claims(exp=NOW + 86400)),
    "the shortest lifetime": segment(claims(exp=NOW + 1)),
    "ahead by the leeway": segment(claims(iat=NOW + 60, nbf=NOW)),
    "behind by the leeway": segment(claims(iat=NOW - 60, nbf=NOW - 60)),
}


@pytest.mark.parametrize("sent", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(sent: str) -> None:
    found = check_claims(sent, float(NOW), POLICY)
    assert (found.issuer, found.namespace) == (ISSUER, "team-a")


def of(**changed: Any) -> str:
    return segment(claims(**changed))


def of_private(**changed: Any) -> str:
    return of(**{"kubernetes.io": private(**changed)})


def put(found: str, replaced: str) -> str:
    """Replace part of the JSON text."""
    before = text(claims())
    assert found in before
    return segment(before.replace(found, replaced, 1))


M, S = Refusal.MALFORMED, Refusal.SUBJECT_MISMATCH
REFUSED: dict[str, tuple[str, Refusal, str]] = {
    # 1.
    "1 MB": ("a" * 1_000_000, Refusal.TOO_LARGE, "1000000 characters, 28672"),
    "a byte too long": ("a" * (MAX_CLAIMS_LENGTH + 1), Refusal.TOO_LARGE, "28673"),
    # 2.
    "empty": ("", M, "not JSON"),
    "padded": (segment(claims()) + "=", M, "base64url"),
    "of base64": (segment(claims()).replace("_", "/") + "+", M, "base64url"),
    "not ASCII": ("\u017f", M, "not ASCII"),
    "a line feed": (segment(claims()) + "\n", M, "base64url"),
    "unused bits": ("eyJ", M, "base64url"),
    # 3.
    "not JSON": (segment("{"), M, "not JSON"),
    "deep": (segment("[" * 10_000), M, ""),
    "a list": (segment("[]"), M, "must be an object"),
    "null": (segment("null"), M, "must be an object"),
    "more after it": (segment(text(claims()) + "{}"), M, "not JSON"),
    "a byte order mark": (segment("\ufeff" + text(claims())), M, "not JSON"),
    "a lone surrogate": (put('"aud":["', '"aud":["\\ud800'), M, ""),
    "twice": (put('"iss":', '"iss":"x","iss":'), M, "appears twice"),
    "twice in kubernetes.io": (put('"pod":', '"pod":null,"pod":'), M, "appears twice"),
    "twice in a reference": (put('"uid":"p-1"', '"uid":"x","uid":"p-1"'), M, "appears twice"),
    # 4.
    "another case": (of(ISS="x"), M, "ISS is not a known"),
    "another case alone": (put('"iss":', '"Iss":'), M, "iss is missing"),
    "a long s": (of(**{"\u017fub": "x"}), M, "\\u017fub is not a known"),
    "a Kelvin sign": (of(**{"\u212aubernetes.io": {}}), M, "is not a known"),
    "another case in kubernetes.io": (of_private(Pod=NODE), M, "kubernetes.io.Pod is not"),
    "another case in a reference": (of_private(pod=NODE | {"Name": "x"}), M, "pod.Name is not"),
    "an unknown member": (of(groups=["system:masters"]), M, "groups is not a known"),
    "an unknown binding": (of_private(lease=NODE), M, "kubernetes.io.lease is not"),
    "no kubernetes.io": (segment(without(claims(), "kubernetes.io")), M, "kubernetes.io"),
    "no namespace": (of(**{"kubernetes.io": without(private(), "namespace")}), M, "namespace"),
    "no account": (
        of(**{"kubernetes.io": without(private(), "serviceaccount")}),
        M,
        "serviceaccount is missing",
    ),
    "no uid": (of_private(serviceaccount={"name": "build.bot"}), M, "uid"),
    "a Pod without uid": (of_private(pod={"name": "p"}), M, "uid"),
    "an empty Pod": (of_private(pod={}), M, "name is missing"),
    "two objects": (of_private(secret=NODE), M, "two objects"),
    "a namespace with a dot": (
        of(
            sub="system:serviceaccount:a.b:build.bot", **{"kubernetes.io": private(namespace="a.b")}
        ),
        M,
        "name that Kubernetes does not allow",
    ),
    "a Pod with a slash": (of_private(pod={"name": "a/b", "uid": "u"}), M, "pod has a name"),
    "another account": (of(sub="system:serviceaccount:team-a:root"), S, "sub claim"),
    "another namespace": (of(sub="system:serviceaccount:kube-system:build.bot"), S, "sub claim"),
    "a user": (of(sub="kubernetes-admin"), S, "sub claim"),
    "no audience": (segment(without(claims(), "aud")), M, "aud is missing"),
    "an empty list of audiences": (of(aud=[]), M, "aud is empty"),
    "an empty audience": (of(aud=["a", ""]), M, "empty entry"),
    "an empty audience as text": (of(aud=""), M, "empty entry"),
    "an audience that is a number": (of(aud=[1]), M, "aud"),
    "no jti": (segment(without(claims(), "jti")), M, "jti is missing"),
    "an empty jti": (of(jti=""), M, "jti is missing"),
    "a jti with a line feed": (of(jti="a\nb"), M, "jti"),
    "no exp": (segment(without(claims(), "exp")), M, "exp is missing"),
    "no iat": (segment(without(claims(), "iat")), M, "iat is missing"),
    "no nbf": (segment(without(claims(), "nbf")), M, "nbf is missing"),
    "a time as text": (of(exp=str(NOW)), M, "exp must be"),
    "a fraction": (put(f'"exp":{NOW + 3600}', f'"exp":{NOW + 3600}.5'), M, "integers"),
    "an exponent": (put(f'"iat":{NOW}', '"iat":1796e6'), M, "integers"),
    "a time that is true": (of(nbf=True), M, "nbf must be"),
    "a time before 1970": (of(nbf=-1), M, "nbf"),
    "a time beyond 9999": (of(exp=253402300800), M, "exp"),
    "a number of 400 digits": (put(f'"exp":{NOW + 3600}', '"exp":' + "9" * 400), M, "exp"),
    "warnafter as text": (of_private(warnafter="1"), M, "warnafter"),
    "warnafter with a fraction": (of_private(warnafter=1.5), M, "integers"),
    # 5.
    "another issuer": (of(iss="https://other.example"), Refusal.OTHER_ISSUER, "other.example"),
    "the issuer with a slash": (of(iss=ISSUER + "/"), Refusal.OTHER_ISSUER, "must be the same"),
    "no issuer": (of(iss=""), Refusal.OTHER_ISSUER, 'issuer ""'),
    # 6.
    "nbf after iat": (of(nbf=NOW + 1), M, "nbf after their iat"),
    "exp at iat": (of(exp=NOW), Refusal.LIFETIME, "live 0s"),
    "exp before iat": (of(exp=NOW - 1), Refusal.LIFETIME, "live -1s"),
    "too long": (of(exp=NOW + 86401), Refusal.LIFETIME, "86401s; 1s to 86400s"),
    # 7 and 8.
    "ahead": (of(iat=NOW + 61), Refusal.IN_FUTURE, "61s ahead of this signer's"),
    "behind": (of(iat=NOW - 61, nbf=NOW - 61), Refusal.IN_PAST, "61s behind this signer's"),
}


@pytest.mark.bad_input(71)
@pytest.mark.parametrize(("sent", "reason", "part"), REFUSED.values(), ids=REFUSED)
def test_refused(sent: str, reason: Refusal, part: str) -> None:
    with pytest.raises(ClaimsRefusedError) as caught:
        check_claims(sent, float(NOW), POLICY)
    assert caught.value.reason is reason
    assert part in str(caught.value)
    assert len(str(caught.value)) < 1500
    assert (caught.value.skew is not None) == (reason in (Refusal.IN_FUTURE, Refusal.IN_PAST))


@pytest.mark.parametrize(
    ("leeway", "ahead", "accepted"),
    [
        pytest.param(ClockLeeway(0, 0, 0), 0, True, id="no leeway, in step"),
        pytest.param(ClockLeeway(0, 0, 0), 1, False, id="no leeway, ahead"),
        pytest.param(ClockLeeway(0, 0, 0), -5, True, id="no leeway, a call that took 5 s"),
        pytest.param(ClockLeeway(0, 0, 0), -6, False, id="no leeway, behind"),
        pytest.param(ClockLeeway(300, 10, 0), 10, True, id="issuedAt, ahead"),
        pytest.param(ClockLeeway(300, 10, 0), 11, False, id="issuedAt, too far ahead"),
        pytest.param(ClockLeeway(0, 0, 300), -300, True, id="expiry, behind"),
        pytest.param(ClockLeeway(0, 0, 300), -301, False, id="expiry, too far behind"),
    ],
)
def test_which_leeway_is_for_which_direction(
    leeway: ClockLeeway, ahead: int, accepted: bool
) -> None:
    sent = of(iat=NOW + ahead, nbf=NOW + ahead)
    policy = SigningPolicy(ISSUER, 86400, leeway)
    if accepted:
        check_claims(sent, float(NOW), policy)
        return
    with pytest.raises(ClaimsRefusedError) as caught:
        check_claims(sent, float(NOW), policy)
    assert caught.value.skew == ahead
    assert caught.value.claims is not None
