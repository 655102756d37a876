"""Bad input 17 to 24 and 26: claims. Every token here is signed by our key."""

import json

import pytest

from tests.support import (
    ACCOUNT,
    ACCOUNT_UID,
    AUDIENCE,
    ISSUER,
    LEEWAY,
    NAMESPACE,
    NOW,
    JSONObject,
    as_json,
    assert_accepted,
    assert_refused,
    authenticator_with,
    good_claims,
    read_object,
    review,
    token_of,
)
from webhook.errors import ClockError, Reason
from webhook.kube.token_review import identity_of
from webhook.token.claims import ClockLeeway
from webhook.token.explain import explain
from webhook.token.outcome import Refused

SUBJECT = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
POD = {"name": "p1", "uid": "8ec93c07-642d-4b4b-93f7-1c038328613d"}
SECRET = {"name": "s1", "uid": "0c1e"}
NODE = {"name": "n1", "uid": "77aa"}


def refuse(
    payload: bytes | JSONObject,
    reason: Reason,
    *,
    ours: bool = True,
    audiences: tuple[str, ...] = (),
) -> str:
    token = token_of(payload)
    outcome = authenticator_with().authenticate(token, audiences, NOW)
    return assert_refused(outcome, token, reason, ours=ours)


def accept(payload: bytes | JSONObject) -> None:
    assert_accepted(authenticator_with().authenticate(token_of(payload), [], NOW))


def raw(name: str, text: str) -> bytes:
    """Return good claims as JSON in which a member's value is any text."""
    marked = as_json(good_claims(**{name: "@@"}))
    assert marked.count(b'"@@"') == 1
    return marked.replace(b'"@@"', text.encode("utf-8"))


def private(**changes: object) -> JSONObject:
    """Return good claims with members of ``kubernetes.io`` replaced, added, or (None) removed."""
    members = {
        "namespace": NAMESPACE,
        "serviceaccount": {"name": ACCOUNT, "uid": ACCOUNT_UID},
    } | changes
    return good_claims(**{"kubernetes.io": members})


def test_control_good_claims_are_accepted() -> None:
    accept(good_claims())
    accept(json.dumps(good_claims(), indent=2).encode())


@pytest.mark.bad_input(17)
@pytest.mark.parametrize(
    "issuer",
    [
        pytest.param(f"{ISSUER}/", id="slash-more"),
        pytest.param(ISSUER.removesuffix("c"), id="cut"),
        pytest.param(f"{ISSUER}.evil.example", id="ours-then-a-domain"),
        pytest.param(f"https://evil.example/{ISSUER}", id="ours-as-path"),
        pytest.param(f"https://evil.example/?iss={ISSUER}", id="ours-as-query"),
        pytest.param(f"https://evil.example#{ISSUER}", id="ours-as-fragment"),
        pytest.param("https://leeway.default.svc@evil.example", id="ours-as-user"),
        pytest.param(ISSUER.upper(), id="upper-case"),
        pytest.param("https://Leeway.default.svc", id="one-letter-of-other-case"),
        pytest.param("HTTPS://leeway.default.svc", id="scheme-of-other-case"),
        pytest.param("http://leeway.default.svc", id="http"),
        pytest.param("https://leeway.default.svc:443", id="port"),
        pytest.param("https:/leeway.default.svc", id="slash-less"),
        pytest.param("https://leeway.default.svc.", id="dot-after"),
        pytest.param(f" {ISSUER}", id="space-before"),
        pytest.param(f"{ISSUER}\n", id="newline-after"),
        pytest.param(f"{ISSUER}\0", id="NUL-after"),
        pytest.param("https://leeway.default.\u0455vc", id="cyrillic-letter"),
        pytest.param("", id="empty"),
        pytest.param("kubernetes/serviceaccount", id="legacy"),
        pytest.param("x" * 10_000, id="long"),
    ],
)
def test_issuer_like_ours(issuer: str) -> None:
    refuse(good_claims(iss=issuer), Reason.NOT_RECOGNISED, ours=False)


@pytest.mark.bad_input(17)
@pytest.mark.parametrize("value", [None, 1, True, [ISSUER], {"iss": ISSUER}], ids=str)
def test_issuer_of_another_type(value: object) -> None:
    refuse(good_claims(iss=value), Reason.MALFORMED, ours=False)


# A payload that is not JSON names no issuer.
TIMES = [
    pytest.param(f'"{int(NOW)}"', True, id="string"),
    pytest.param('""', True, id="empty-string"),
    pytest.param("true", True, id="true"),
    pytest.param("false", True, id="false"),
    pytest.param("null", True, id="null"),
    pytest.param("[1800000000]", True, id="list"),
    pytest.param("{}", True, id="object"),
    pytest.param("1e30", True, id="1e30"),
    pytest.param("1" + "0" * 30, True, id="10-to-the-30"),
    pytest.param("-1" + "0" * 30, True, id="minus-10-to-the-30"),
    pytest.param("9223372036854775808", True, id="2-to-the-63"),
    pytest.param("18446744073709551616", True, id="2-to-the-64"),
    pytest.param("253402300800", True, id="the-year-10000"),
    pytest.param("1e308", True, id="1e308"),
    pytest.param("1e309", None, id="1e309"),
    pytest.param("-1", True, id="minus-1"),
    pytest.param("-0.5", True, id="minus-a-half"),
    pytest.param("-1e9", True, id="minus-1e9"),
    pytest.param("9" * 5000, None, id="5000-digits"),
    pytest.param("-" + "9" * 5000, None, id="minus-5000-digits"),
    pytest.param("NaN", False, id="NaN"),
    pytest.param("Infinity", False, id="Infinity"),
    pytest.param("-Infinity", False, id="minus-Infinity"),
    pytest.param("0x6b49d200", False, id="hexadecimal"),
    pytest.param("01800000000", False, id="leading-zero"),
    pytest.param("+1800000000", False, id="plus-sign"),
    pytest.param("1_800_000_000", False, id="underscores"),
]


@pytest.mark.bad_input(18)
@pytest.mark.parametrize(("text", "ours"), TIMES)
@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
def test_time_of_another_form(claim: str, text: str, ours: bool | None) -> None:
    payload = raw(claim, text)
    token = token_of(payload)
    outcome = authenticator_with().authenticate(token, [], NOW)
    assert isinstance(outcome, Refused)
    ours = outcome.error.is_ours if ours is None else ours
    assert_refused(outcome, token, Reason.MALFORMED, ours=ours)


@pytest.mark.bad_input(18)
@pytest.mark.parametrize(("text", "ours"), [case for case in TIMES if case.id != "null"])
def test_warnafter_of_another_form(text: str, ours: bool | None) -> None:
    payload = as_json(private(warnafter="@@")).replace(b'"@@"', text.encode())
    token = token_of(payload)
    outcome = authenticator_with().authenticate(token, [], NOW)
    assert isinstance(outcome, Refused)
    ours = outcome.error.is_ours if ours is None else ours
    assert_refused(outcome, token, Reason.MALFORMED, ours=ours)


PRIVATE = (
    as_json(good_claims())[1:-1].decode().partition('"kubernetes.io":')[2].partition(',"nbf"')[0]
)


@pytest.mark.bad_input(19)
@pytest.mark.parametrize(
    ("first", "last"),
    [
        pytest.param('"sub":"system:serviceaccount:kube-system:admin"', "", id="sub-other-first"),
        pytest.param("", '"sub":"system:serviceaccount:kube-system:admin"', id="sub-other-last"),
        pytest.param("", f'"sub":"{SUBJECT}"', id="sub-the-same"),
        pytest.param("", f'"\\u0073ub":"{SUBJECT}"', id="sub-escaped"),
        pytest.param('"exp":4102444800', "", id="exp-later-first"),
        pytest.param("", '"exp":4102444800', id="exp-later-last"),
        pytest.param('"exp":1', "", id="exp-earlier-first"),
        pytest.param("", '"nbf":0', id="nbf"),
        pytest.param("", '"iat":0', id="iat"),
        pytest.param("", f'"aud":["{AUDIENCE}"]', id="aud"),
        pytest.param("", '"jti":"other"', id="jti"),
        pytest.param('"kubernetes.io":{}', "", id="kubernetes.io-empty-first"),
        pytest.param("", '"kubernetes.io":{}', id="kubernetes.io-empty-last"),
        pytest.param("", f'"kubernetes.io":{PRIVATE}', id="kubernetes.io-the-same"),
        pytest.param("", f'"iss":"{ISSUER}"', id="iss-the-same"),
        pytest.param('"iss":"https://other.example"', "", id="iss-other-first"),
        pytest.param("", '"unknown":{"a":1,"a":1}', id="inside-an-unknown-member"),
        pytest.param("", '"unknown":[[{"a":1,"b":2,"a":1}]]', id="deep-inside"),
    ],
)
def test_member_twice(first: str, last: str) -> None:
    good = as_json(good_claims()).decode()[1:-1]
    payload = "{" + ",".join(part for part in (first, good, last) if part) + "}"
    text = refuse(payload.encode(), Reason.MALFORMED)
    # An empty kubernetes.io is wrong in two ways; either may be reported.
    assert "appears twice" in text or "{}" in first + last


@pytest.mark.bad_input(19)
def test_issuer_twice_and_ours_first() -> None:
    payload = as_json(good_claims())[:-1] + b',"iss":"https://other.example"}'
    refuse(payload, Reason.NOT_RECOGNISED, ours=False)


@pytest.mark.bad_input(19)
@pytest.mark.parametrize(
    "member",
    [
        f'"namespace":"{NAMESPACE}"',
        '"serviceaccount":{"name":"admin","uid":"1"}',
        '"pod":{"name":"p","uid":"1","uid":"2"}',
    ],
    ids=["namespace", "serviceaccount", "pod-uid"],
)
def test_member_twice_inside_kubernetes_io(member: str) -> None:
    payload = as_json(good_claims()).decode().replace(PRIVATE, PRIVATE[:-1] + f",{member}}}")
    assert "appears twice" in refuse(payload.encode(), Reason.MALFORMED)


TEXT = as_json(good_claims()).decode()


@pytest.mark.bad_input(20)
@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(TEXT.encode("utf-16"), id="utf-16-with-BOM"),
        pytest.param(TEXT.encode("utf-16-le"), id="utf-16-le"),
        pytest.param(TEXT.encode("utf-16-be"), id="utf-16-be"),
        pytest.param(TEXT.encode("utf-32"), id="utf-32"),
        pytest.param(b"\xef\xbb\xbf" + TEXT.encode(), id="utf-8-BOM"),
        pytest.param("\ufeff".encode("utf-16-be") + TEXT.encode(), id="utf-16-BOM-before-utf-8"),
        pytest.param(TEXT.encode() + b"\0", id="NUL-after"),
        pytest.param(TEXT.encode() + b"{}", id="two-objects"),
        pytest.param(b"\0" + TEXT.encode(), id="NUL-before"),
        pytest.param(TEXT.encode()[:-1], id="cut"),
        pytest.param(f"[{TEXT}]".encode(), id="in-a-list"),
        pytest.param(json.dumps(TEXT).encode(), id="as-a-string"),
        pytest.param(TEXT.replace('"', "'").encode(), id="single-quotes"),
        pytest.param((TEXT[:-1] + ",}").encode(), id="trailing-comma"),
        pytest.param((TEXT[:-1] + "/**/}").encode(), id="comment"),
        pytest.param(b"", id="empty"),
        pytest.param(b"{}", id="empty-object"),
        pytest.param(b"null", id="null"),
    ],
)
def test_payload_in_another_encoding(payload: bytes) -> None:
    refuse(payload, Reason.MALFORMED, ours=False)


@pytest.mark.bad_input(20)
@pytest.mark.parametrize(
    "subject",
    [
        pytest.param(rb"system:serviceaccount:argo-run:loofah\ud800", id="lone-high-surrogate"),
        pytest.param(rb"system:serviceaccount:argo-run:loofah\udc00", id="lone-low-surrogate"),
        pytest.param(rb"\udc00\ud800", id="surrogates-in-the-wrong-order"),
        pytest.param(b"system:serviceaccount:argo-run:loofah\xed\xa0\x80", id="surrogate-in-utf-8"),
        pytest.param(b"system:serviceaccount:argo-run:loofah\xff", id="not-utf-8"),
        pytest.param(b"system:serviceaccount:argo-run\xc0\xba" + b"loofah", id="overlong-colon"),
        pytest.param(b"system:serviceaccount:argo-run:loofah\xf4\x90\x80\x80", id="beyond-unicode"),
        pytest.param(b"system:serviceaccount:argo-run:loofah\0", id="NUL-as-it-is"),
        pytest.param(b"system:serviceaccount:argo-run:\nloofah", id="newline-as-it-is"),
    ],
)
def test_subject_that_is_not_json_text(subject: bytes) -> None:
    payload = TEXT.encode().replace(SUBJECT.encode(), subject)
    assert payload != TEXT.encode()
    token = token_of(payload)
    outcome = authenticator_with().authenticate(token, [], NOW)
    assert isinstance(outcome, Refused)
    # Whether such a payload names an issuer is open; if it does, the error is there.
    assert_refused(outcome, token, Reason.MALFORMED, ours=outcome.error.is_ours)


@pytest.mark.bad_input(20)
@pytest.mark.parametrize(
    "subject",
    [
        pytest.param(rf"{SUBJECT}\u0000", id="NUL"),
        pytest.param(rf"\u0000{SUBJECT}", id="NUL-before"),
        pytest.param(rf"{SUBJECT}\n", id="newline"),
        pytest.param(rf"{SUBJECT}\u200b", id="zero-width-space"),
        pytest.param(rf"\ufeff{SUBJECT}", id="BOM"),
        pytest.param(rf"{SUBJECT}\u001b[31m", id="escape-sequence"),
    ],
)
def test_character_in_subject(subject: str) -> None:
    payload = TEXT.replace(SUBJECT, subject).encode()
    text = refuse(payload, Reason.SUBJECT_MISMATCH)
    assert text.isprintable()


@pytest.mark.bad_input(20)
@pytest.mark.parametrize("place", ["namespace", "name", "uid", "jti", "aud", "pod"])
@pytest.mark.parametrize("character", ["\0", "\n", "\u200b", "é", "\x7f", "\U0001f600"], ids=ascii)
def test_character_in_another_claim(place: str, character: str) -> None:
    if place == "aud" and character.isprintable():
        # Kubernetes signs tokens for any text.
        accept(good_claims(aud=[AUDIENCE, f"a{character}"]))
        return
    account = {"name": ACCOUNT, "uid": ACCOUNT_UID}
    claims = {
        "namespace": private(namespace=NAMESPACE + character),
        "name": private(serviceaccount=account | {"name": ACCOUNT + character}),
        "uid": private(serviceaccount=account | {"uid": ACCOUNT_UID + character}),
        "pod": private(pod=POD | {"name": f"p{character}"}),
        "jti": good_claims(jti=f"a{character}"),
        "aud": good_claims(aud=[AUDIENCE, f"a{character}"]),
    }[place]
    if place == "namespace":
        claims["sub"] = f"system:serviceaccount:{NAMESPACE}{character}:{ACCOUNT}"
    if place == "name":
        claims["sub"] = SUBJECT + character
    text = refuse(claims, Reason.MALFORMED)
    assert text.isprintable()


@pytest.mark.bad_input(21)
@pytest.mark.parametrize(
    "value",
    [
        pytest.param([], id="empty-list"),
        pytest.param("", id="empty-string"),
        pytest.param([""], id="list-of-empty-string"),
        pytest.param([AUDIENCE, ""], id="empty-string-beside-ours"),
        pytest.param(5, id="number"),
        pytest.param(True, id="true"),
        pytest.param(None, id="null"),
        pytest.param({}, id="object"),
        pytest.param({AUDIENCE: True}, id="object-of-ours"),
        pytest.param([[AUDIENCE]], id="nested"),
        pytest.param([AUDIENCE, ["x"]], id="nested-beside-ours"),
        pytest.param([AUDIENCE, None], id="null-beside-ours"),
        pytest.param([AUDIENCE, 5], id="number-beside-ours"),
        pytest.param([5], id="list-of-number"),
        pytest.param([AUDIENCE] + ["a"] * 100, id="101-entries"),
        pytest.param([AUDIENCE] + ["a"] * 4_999, id="5000-entries"),
        pytest.param([AUDIENCE] * 101, id="ours-101-times"),
    ],
)
def test_audience(value: object) -> None:
    refuse(good_claims(aud=value), Reason.MALFORMED)


@pytest.mark.bad_input(21)
def test_audience_of_10000_entries() -> None:
    refuse(good_claims(aud=[AUDIENCE] + ["a"] * 9_999), Reason.MALFORMED, ours=False)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(AUDIENCE, id="string"),
        pytest.param([AUDIENCE], id="list"),
        pytest.param(["other", AUDIENCE], id="last"),
        pytest.param([AUDIENCE] + ["a"] * 99, id="100-entries"),
    ],
)
def test_control_audience(value: object) -> None:
    accept(good_claims(aud=value))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("https://kubernetes.default.svc/", id="slash-more"),
        pytest.param("https://kubernetes.default", id="cut"),
        pytest.param("HTTPS://KUBERNETES.DEFAULT.SVC", id="upper-case"),
        pytest.param(f"{AUDIENCE},other", id="comma"),
        pytest.param(f"{AUDIENCE} ", id="space"),
        pytest.param(ISSUER, id="our-issuer"),
        pytest.param("*", id="star"),
    ],
)
def test_other_audience_is_refused(value: str) -> None:
    text = refuse(good_claims(aud=[value]), Reason.AUDIENCE_MISMATCH)
    assert "is invalid for the target audiences" in text


REQUIRED = ["iss", "sub", "aud", "exp", "iat", "nbf", "kubernetes.io"]
REQUIRED_INSIDE = ["namespace", "serviceaccount", "serviceaccount.name", "serviceaccount.uid"]


def _without(path: str, value: object = ...) -> JSONObject:
    """Return good claims in which one member is removed, or has another value."""
    claims = read_object(as_json(good_claims()))
    *parents, last = [path] if path in REQUIRED else ["kubernetes.io", *path.split(".")]
    members = claims
    for parent in parents:
        members = members[parent]
    assert last in members
    members.pop(last)
    if value is not ...:
        members[last] = value
    return claims


@pytest.mark.bad_input(22)
@pytest.mark.parametrize("claim", [*REQUIRED, *REQUIRED_INSIDE])
def test_claim_missing(claim: str) -> None:
    text = refuse(_without(claim), Reason.MALFORMED, ours=claim != "iss")
    assert claim == "iss" or claim.rpartition(".")[2] in text


@pytest.mark.bad_input(22)
@pytest.mark.parametrize("value", [None, {}, []], ids=["null", "object", "list"])
@pytest.mark.parametrize("claim", [*REQUIRED, *REQUIRED_INSIDE])
def test_claim_of_another_type(claim: str, value: object) -> None:
    refuse(_without(claim, value), Reason.MALFORMED, ours=claim != "iss")


@pytest.mark.bad_input(22)
@pytest.mark.parametrize("claim", ["namespace", "serviceaccount.name", "serviceaccount.uid", "sub"])
def test_claim_empty(claim: str) -> None:
    reason = Reason.SUBJECT_MISMATCH if claim == "sub" else Reason.MALFORMED
    refuse(_without(claim, ""), reason)


def test_jti_may_be_missing() -> None:
    claims = good_claims()
    del claims["jti"]
    outcome = assert_accepted(authenticator_with().authenticate(token_of(claims), [], NOW))
    assert identity_of(outcome).extra == {}


CLOCK = {
    "nbf": (
        +1,
        Reason.NOT_YET_VALID,
        "service account token is not valid yet: nbf is {}s ahead of",
    ),
    "iat": (
        +1,
        Reason.ISSUED_IN_FUTURE,
        "service account token is issued in the future: iat is {}s",
    ),
    "exp": (-1, Reason.EXPIRED, "service account token has expired: exp was {}s ago by"),
}


def _leeway(claim: str, seconds: int) -> ClockLeeway:
    # The other claims get no leeway, so that only this one's is tested.
    values = {name: seconds if name == claim else 0 for name in CLOCK}
    return ClockLeeway(values["nbf"], values["iat"], values["exp"])


@pytest.mark.bad_input(23)
@pytest.mark.parametrize("seconds", [0, 1, 60, 120, 300])
@pytest.mark.parametrize("claim", CLOCK)
def test_leeway(claim: str, seconds: int) -> None:
    sign, reason, phrase = CLOCK[claim]
    authenticator = authenticator_with(leeway=_leeway(claim, seconds))
    for beyond in (-1, 0):
        skew = seconds + beyond
        claims = good_claims(**{claim: int(NOW) + sign * skew})
        accepted = assert_accepted(authenticator.authenticate(token_of(claims), [], NOW))
        assert accepted.leeway_claims == ((claim,) if skew > 0 else ())
    token = token_of(good_claims(**{claim: int(NOW) + sign * (seconds + 1)}))
    outcome = authenticator.authenticate(token, [], NOW)
    text = assert_refused(outcome, token, reason)
    assert phrase.format(seconds + 1) in text
    assert text.endswith(f"(leeway {seconds}s, 1s short)")
    assert review(outcome)["metadata"] == {
        "creationTimestamp": None,
        "annotations": {
            "leeway.dev/reason": reason,
            "leeway.dev/skew-seconds": str(seconds + 1),
        },
    }


@pytest.mark.bad_input(23)
@pytest.mark.parametrize("claim", CLOCK)
def test_no_leeway_is_needed_on_the_other_side(claim: str) -> None:
    sign, _, _ = CLOCK[claim]
    authenticator = authenticator_with(leeway=ClockLeeway(0, 0, 0))
    for skew in (0, 1, 59, 60, 61, 300, 10_000_000):
        claims = good_claims(**{claim: int(NOW) - sign * skew})
        outcome = assert_accepted(authenticator.authenticate(token_of(claims), [], NOW))
        assert outcome.leeway_claims == ()


@pytest.mark.bad_input(23)
@pytest.mark.parametrize(
    ("claim", "now", "accepted"),
    [
        # exp is NOW: the last moment is NOW + 60, to the last bit of the clock.
        ("exp", NOW + 60.0, True),
        ("exp", NOW + 60.001, False),
        ("nbf", NOW - 60.0, True),
        ("nbf", NOW - 60.001, False),
        ("iat", NOW - 60.0, True),
        ("iat", NOW - 60.001, False),
    ],
)
def test_fractions_of_a_second(claim: str, now: float, accepted: bool) -> None:
    times = {"nbf": int(NOW) - 1000, "iat": int(NOW) - 1000, "exp": int(NOW) + 1000}
    token = token_of(good_claims(**times | {claim: int(NOW)}))
    outcome = authenticator_with().authenticate(token, [], now)
    if accepted:
        assert_accepted(outcome)
        return
    text = assert_refused(outcome, token, CLOCK[claim][1])
    assert "61s" in text
    assert "1s short" in text


@pytest.mark.bad_input(23)
def test_clock_of_92_seconds() -> None:
    """The sentence that contract.md quotes."""
    token = token_of(good_claims(nbf=int(NOW) + 92, iat=int(NOW) + 92))
    text = assert_refused(
        authenticator_with().authenticate(token, [], NOW), token, Reason.NOT_YET_VALID
    )
    assert text == (
        "service account token is not valid yet: nbf is 92s ahead of this server's clock "
        "(leeway 60s, 32s short)"
    )


@pytest.mark.bad_input(23)
@pytest.mark.parametrize(
    ("now", "reason"),
    [
        # nbf, then exp, then iat, as go-jose has them.
        (NOW, Reason.NOT_YET_VALID),
        (NOW + 1000, Reason.EXPIRED),
    ],
)
def test_order_of_the_claims(now: float, reason: Reason) -> None:
    far = int(NOW) + 10_000
    claims = good_claims(nbf=int(NOW) + 500, exp=int(NOW) - 500, iat=far)
    token = token_of(claims)
    assert_refused(authenticator_with().authenticate(token, [], now), token, reason)


@pytest.mark.bad_input(23)
@pytest.mark.parametrize("text", ["1800000060.999", "1.80000006e9"])
def test_fraction_in_a_claim_is_truncated_as_in_go_jose(text: str) -> None:
    accept(raw("nbf", text))


OTHER_SUBJECTS = [
    pytest.param("system:serviceaccount:kube-system:loofah", id="other-namespace"),
    pytest.param("system:serviceaccount:argo-run:admin", id="other-name"),
    pytest.param("system:serviceaccount:loofah:argo-run", id="exchanged"),
    pytest.param("system:serviceaccount:argo-run:loofah:", id="colon-after"),
    pytest.param("system:serviceaccount:argo-run:loofah:x", id="colon-and-text-after"),
    pytest.param("system:serviceaccount::argo-run:loofah", id="colon-inside"),
    pytest.param("system:serviceaccount:argo-run::loofah", id="two-colons"),
    pytest.param(":system:serviceaccount:argo-run:loofah", id="colon-before"),
    pytest.param("system:serviceaccount:argo-run", id="namespace-only"),
    pytest.param("system:serviceaccounts:argo-run:loofah", id="prefix-of-the-group"),
    pytest.param("System:ServiceAccount:argo-run:loofah", id="other-case"),
    pytest.param("argo-run:loofah", id="no-prefix"),
    pytest.param("loofah", id="name-only"),
    pytest.param("system:admin", id="admin"),
    pytest.param("system:serviceaccount:argo-run:loofah ", id="space-after"),
    pytest.param("system:serviceaccount:" + "x" * 5000, id="long"),
]


@pytest.mark.bad_input(24)
@pytest.mark.parametrize("subject", OTHER_SUBJECTS)
def test_subject_contradicts(subject: str) -> None:
    text = refuse(good_claims(sub=subject), Reason.SUBJECT_MISMATCH)
    assert "sub claim is invalid" in text


NAMES = [
    pytest.param("Argo", id="upper-case"),
    pytest.param("a_b", id="underscore"),
    pytest.param("a/b", id="slash"),
    pytest.param("../x", id="path"),
    pytest.param("a:b", id="colon"),
    pytest.param("a b", id="space"),
    pytest.param("-a", id="dash-first"),
    pytest.param("a-", id="dash-last"),
    pytest.param(".a", id="dot-first"),
    pytest.param("a.", id="dot-last"),
    pytest.param("a..b", id="two-dots"),
    pytest.param("a-.b", id="dash-before-dot"),
    pytest.param("a\n", id="newline-last"),
    pytest.param("%61", id="percent"),
    pytest.param("\u212a", id="kelvin-sign"),
    pytest.param("\u0661", id="arabic-digit"),
    pytest.param("a" * 254, id="254-characters"),
    pytest.param("*", id="star"),
]


@pytest.mark.bad_input(24)
@pytest.mark.parametrize("namespace", [*NAMES, pytest.param("a.b", id="dot"), "a" * 64])
def test_namespace_that_is_not_allowed(namespace: str) -> None:
    claims = private(namespace=namespace)
    claims["sub"] = f"system:serviceaccount:{namespace}:{ACCOUNT}"
    refuse(claims, Reason.MALFORMED)


@pytest.mark.bad_input(24)
@pytest.mark.parametrize("name", NAMES)
def test_name_that_is_not_allowed(name: str) -> None:
    claims = private(serviceaccount={"name": name, "uid": ACCOUNT_UID})
    claims["sub"] = f"system:serviceaccount:{NAMESPACE}:{name}"
    refuse(claims, Reason.MALFORMED)


@pytest.mark.bad_input(24)
@pytest.mark.parametrize(
    ("namespace", "name"),
    [
        # Parsed from the left or from the right, these subjects name two accounts.
        ("a", "b:c"),
        ("a:b", "c"),
    ],
)
def test_colon_moves_the_boundary(namespace: str, name: str) -> None:
    claims = private(namespace=namespace, serviceaccount={"name": name, "uid": ACCOUNT_UID})
    claims["sub"] = f"system:serviceaccount:{namespace}:{name}"
    refuse(claims, Reason.MALFORMED)


@pytest.mark.parametrize(
    ("namespace", "name"),
    [("a", "b"), ("0", "9"), ("a" * 63, "a" * 253), ("a--b", "a.b-c.d"), ("kube-system", "x1")],
)
def test_control_names_that_are_allowed(namespace: str, name: str) -> None:
    claims = private(namespace=namespace, serviceaccount={"name": name, "uid": ACCOUNT_UID})
    claims["sub"] = f"system:serviceaccount:{namespace}:{name}"
    accept(claims)


@pytest.mark.bad_input(24)
@pytest.mark.parametrize("kind", ["pod", "secret", "node"])
@pytest.mark.parametrize(
    "reference",
    [
        pytest.param({"name": "A", "uid": "1"}, id="name"),
        pytest.param({"name": "", "uid": "1"}, id="name-empty"),
        pytest.param({"uid": "1"}, id="name-missing"),
        pytest.param({"name": "a"}, id="uid-missing"),
        pytest.param({"name": "a", "uid": ""}, id="uid-empty"),
        pytest.param({"name": "a", "uid": 1}, id="uid-number"),
        pytest.param("a", id="text"),
        pytest.param([], id="list"),
        pytest.param({}, id="empty"),
    ],
)
def test_bound_object_that_is_not_allowed(kind: str, reference: object) -> None:
    refuse(private(**{kind: reference}), Reason.MALFORMED)


@pytest.mark.bad_input(26)
@pytest.mark.parametrize(
    "bound",
    [
        pytest.param({"pod": POD, "secret": SECRET}, id="pod-and-secret"),
        pytest.param({"secret": SECRET, "node": NODE}, id="secret-and-node"),
        pytest.param({"pod": POD, "secret": SECRET, "node": NODE}, id="all-three"),
    ],
)
def test_bound_to_two_objects(bound: JSONObject) -> None:
    assert "bound to two objects" in refuse(private(**bound), Reason.MALFORMED)


UNKNOWN_REFERENCE = {"name": "splinter-validate", "uid": "77aa"}


@pytest.mark.bad_input(26)
@pytest.mark.fault(9)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("validatingWebhookConfiguration", UNKNOWN_REFERENCE),
        ("validatingwebhookconfiguration", UNKNOWN_REFERENCE),
        ("mutatingWebhookConfiguration", UNKNOWN_REFERENCE),
        ("apiService", UNKNOWN_REFERENCE),
        ("Pod", POD),
        ("lease", {"name": "x"}),
        ("lease", {"uid": "x"}),
        ("lease", {}),
        ("leases", [UNKNOWN_REFERENCE]),
        ("scopes", ["read"]),
        ("attestationClaims", {"example.com/group": ["a"]}),
        ("\x1b[31m", UNKNOWN_REFERENCE),
    ],
)
@pytest.mark.parametrize("bound", [{}, {"pod": POD}], ids=["alone", "and-to-a-pod"])
@pytest.mark.parametrize("legacy", [False, True])
def test_bound_to_an_unknown_kind(
    name: str, value: object, bound: JSONObject, legacy: bool
) -> None:
    token = token_of(private(**bound, **{name: value}))
    outcome = authenticator_with(legacy=legacy).authenticate(token, [], NOW)
    text = assert_refused(outcome, token, Reason.MALFORMED)
    assert f"bound by kubernetes.io.{ascii(name)[1:-1]}, which is not known here" in text
    told = explain(token, outcome, LEEWAY, NOW)
    assert "that this version of Leeway cannot check" in told.advice


@pytest.mark.parametrize("value", ["text", 1, 1.5, True, None], ids=repr)
def test_an_unknown_member_that_is_not_an_object_is_ignored(value: object) -> None:
    token = token_of(private(unknown=value))
    assert_accepted(authenticator_with().authenticate(token, [], NOW))


@pytest.mark.parametrize(
    ("bound", "extra"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param({"secret": SECRET}, {}, id="secret"),
        pytest.param({"node": NODE}, {"node-name": "n1", "node-uid": "77aa"}, id="node"),
        pytest.param({"pod": POD}, {"pod-name": "p1", "pod-uid": POD["uid"]}, id="pod"),
        pytest.param(
            {"pod": POD, "node": NODE},
            {"pod-name": "p1", "pod-uid": POD["uid"], "node-name": "n1", "node-uid": "77aa"},
            id="pod-and-its-node",
        ),
        pytest.param(
            {"pod": POD, "node": {"name": "n1"}},
            {"pod-name": "p1", "pod-uid": POD["uid"], "node-name": "n1"},
            id="pod-and-its-node-without-uid",
        ),
    ],
)
def test_bound_object_comes_back_as_extra(bound: JSONObject, extra: JSONObject) -> None:
    token = token_of(private(**bound))
    outcome = assert_accepted(authenticator_with().authenticate(token, [], NOW))
    prefix = "authentication.kubernetes.io/"
    shown = {name.removeprefix(prefix): value for name, value in identity_of(outcome).extra.items()}
    jti = good_claims()["jti"]
    assert shown == {name: (value,) for name, value in extra.items()} | {
        "credential-id": (f"JTI={jti}",)
    }


def test_payload_nested_too_deep_is_refused() -> None:
    payload = as_json(good_claims())[:-1] + b',"x":' + b"[" * 9_000 + b"]" * 9_000 + b"}"
    token = token_of(payload)
    outcome = authenticator_with().authenticate(token, [], NOW)
    assert isinstance(outcome, Refused)
    assert_refused(outcome, token, Reason.MALFORMED, ours=outcome.error.is_ours)


def test_every_clock_reason_is_a_clock_error() -> None:
    token = token_of(good_claims(nbf=int(NOW) + 61))
    outcome = authenticator_with().authenticate(token, [], NOW)
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, ClockError)
    assert outcome.error.leeway_seconds == LEEWAY.not_before
    assert outcome.error.short_seconds == 1
