"""The cache of facts, several issuers, legacy tokens and stale tokens."""

import gc
import tracemalloc
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from keys.errors import UnusableKeyError
from tests.support import (
    ACCOUNT,
    ACCOUNT_UID,
    AUDIENCE,
    ISSUER,
    LEEWAY,
    NAMESPACE,
    NOW,
    JSONObject,
    assert_accepted,
    assert_refused,
    authenticator_with,
    good_claims,
    header_of,
    review,
    signing_key,
    token_of,
)
from webhook.errors import Reason
from webhook.kube.token_review import identity_of
from webhook.telemetry.metrics import Metrics
from webhook.token.authenticator import Authenticator, TrustedIssuer
from webhook.token.claims import LEGACY_ISSUER, ClockLeeway
from webhook.token.fact_cache import FactCache
from webhook.token.outcome import Authenticated, Refused

RSA = signing_key("RS256")
TOKEN = token_of(good_claims())
EXP = int(NOW) + 3600


@pytest.mark.parametrize(
    ("audiences", "now", "reason"),
    [
        pytest.param([], EXP + 61, Reason.EXPIRED, id="expired"),
        pytest.param([], EXP + 10 * 365 * 86400, Reason.EXPIRED, id="ten-years-later"),
        pytest.param([], NOW - 71, Reason.NOT_YET_VALID, id="clock-set-back"),
        pytest.param([], NOW - 365 * 86400, Reason.NOT_YET_VALID, id="clock-set-back-a-year"),
        pytest.param(["vault"], NOW, Reason.AUDIENCE_MISMATCH, id="other-audience"),
    ],
)
def test_only_facts_are_cached(audiences: list[str], now: float, reason: Reason) -> None:
    authenticator = authenticator_with()
    for _ in range(3):
        assert_accepted(authenticator.authenticate(TOKEN, [], NOW))
        assert_accepted(authenticator.authenticate(TOKEN, [], EXP + 60))
        assert_refused(authenticator.authenticate(TOKEN, audiences, now), TOKEN, reason)


def test_answer_from_the_cache_is_the_same() -> None:
    authenticator = authenticator_with()
    first, second = (review(authenticator.authenticate(TOKEN, [], NOW)) for _ in range(2))
    assert first == second


def test_refusal_is_repeated() -> None:
    authenticator = authenticator_with()
    token = TOKEN[:-8] + "AAAAAAAA"
    for _ in range(3):
        assert_refused(authenticator.authenticate(token, [], NOW), token, Reason.BAD_SIGNATURE)


def test_fact_is_dropped_with_its_key() -> None:
    other = signing_key("RS256", "foreign").verification_key
    issuer = TrustedIssuer(ISSUER, [AUDIENCE], [RSA.verification_key])
    authenticator = Authenticator([issuer], LEEWAY)
    assert_accepted(authenticator.authenticate(TOKEN, [], NOW))
    issuer.keys = {other.kid: other}
    assert_refused(authenticator.authenticate(TOKEN, [], NOW), TOKEN, Reason.UNKNOWN_KEY)
    # Another key with the same kid is not the key that verified the token.
    issuer.keys = {RSA.verification_key.kid: other}
    assert_refused(authenticator.authenticate(TOKEN, [], NOW), TOKEN, Reason.BAD_SIGNATURE)
    issuer.keys = {RSA.verification_key.kid: RSA.verification_key}
    assert_accepted(authenticator.authenticate(TOKEN, [], NOW))


def test_a_key_that_stays_keeps_its_facts() -> None:
    other = signing_key("RS256", "foreign").verification_key
    issuer = TrustedIssuer(ISSUER, [AUDIENCE], [RSA.verification_key])
    authenticator = Authenticator([issuer], LEEWAY)
    assert_accepted(authenticator.authenticate(TOKEN, [], NOW))
    again = replace(RSA.verification_key)
    issuer.replace_keys([other, again])
    assert issuer.keys == {again.kid: RSA.verification_key, other.kid: other}
    assert_accepted(authenticator.authenticate(TOKEN, [], NOW))
    for changed in (replace(other, kid=again.kid), replace(again, algorithm="PS256")):
        issuer.replace_keys([changed])
        assert issuer.keys == {again.kid: changed}
    issuer.replace_keys([])
    assert_refused(authenticator.authenticate(TOKEN, [], NOW), TOKEN, Reason.UNKNOWN_KEY)


def test_an_issuer_has_a_leeway_of_its_own() -> None:
    url = "https://other.example"
    other = TrustedIssuer(url, [AUDIENCE], [RSA.verification_key], leeway=ClockLeeway(120, 130, 0))
    own = TrustedIssuer(ISSUER, [AUDIENCE], [RSA.verification_key])
    authenticator = Authenticator([own, other], LEEWAY)
    times = int(NOW)
    cases = [
        ({"nbf": times + 60}, True, True),
        ({"nbf": times + 61}, False, True),
        ({"nbf": times + 121}, False, False),
        ({"iat": times + 61}, False, True),
        ({"iat": times + 131}, False, False),
        ({"exp": times}, True, True),
        ({"exp": times - 1}, True, False),
        ({"exp": times - 61}, False, False),
    ]
    for changes, *expected in cases:
        for issuer, accepted in zip((ISSUER, url), expected, strict=True):
            token = token_of(good_claims(iss=issuer, **changes))
            outcome = authenticator.authenticate(token, [], NOW)
            assert isinstance(outcome, Authenticated) is accepted, (issuer, changes)


def test_without_kid_every_key_of_the_issuer_is_tried() -> None:
    keys = [signing_key("RS256", name) for name in ("foreign", "own", "third")]
    authenticator = authenticator_with(*keys, signing_key("ES256"))
    for key in keys:
        token = token_of(good_claims(), key, header_of(key, kid=None))
        assert_accepted(authenticator.authenticate(token, [], NOW))


def test_issuers_do_not_share_keys_or_audiences() -> None:
    foreign = signing_key("RS256", "foreign")
    url = "https://other.example"
    authenticator = Authenticator(
        [
            TrustedIssuer(ISSUER, [AUDIENCE], [RSA.verification_key]),
            TrustedIssuer(url, ["vault"], [foreign.verification_key]),
        ],
        LEEWAY,
    )
    token = token_of(good_claims(iss=url, aud=["vault"]), foreign)
    assert assert_accepted(authenticator.authenticate(token, [], NOW)).audiences == ("vault",)
    for claims, key, reason in (
        (good_claims(iss=url, aud=["vault"]), RSA, Reason.UNKNOWN_KEY),
        (good_claims(), foreign, Reason.UNKNOWN_KEY),
        (good_claims(iss=url), foreign, Reason.AUDIENCE_MISMATCH),
        (good_claims(aud=["vault"]), RSA, Reason.AUDIENCE_MISMATCH),
    ):
        token = token_of(claims, key)
        assert_refused(authenticator.authenticate(token, [], NOW), token, reason)


@pytest.mark.fault(5)
def test_entries_of_one_issuer_each_have_their_rules() -> None:
    foreign = signing_key("RS256", "foreign")
    entries = [
        TrustedIssuer(ISSUER, [AUDIENCE], [RSA.verification_key]),
        TrustedIssuer(
            ISSUER,
            ["vault"],
            [foreign.verification_key, RSA.verification_key],
            leeway=ClockLeeway(0, 0, 0),
            is_foreign=True,
        ),
    ]
    authenticator = Authenticator(entries, LEEWAY)
    early = {"nbf": int(NOW) + 30, "iat": int(NOW) + 30}
    for kid in ("named", None):
        for key, audience, entry in ((RSA, AUDIENCE, 0), (foreign, "vault", 1)):
            header = header_of(key) if kid else header_of(key, kid=None)
            token = token_of(good_claims(aud=[AUDIENCE, "vault"]), key, header)
            outcome = assert_accepted(authenticator.authenticate(token, [], NOW))
            assert outcome.audiences == (audience,)
            assert authenticator.entry_of(token, NOW) is entries[entry]
            token = token_of(good_claims(aud=[AUDIENCE, "vault"], **early), key, header)
            accepted = isinstance(authenticator.authenticate(token, [], NOW), Authenticated)
            # Of a key in both, the first entry counts.
            assert accepted is (entry == 0)
    third = signing_key("RS256", "third")
    unknown = token_of(good_claims(), third)
    text = assert_refused(authenticator.authenticate(unknown, [], NOW), unknown, Reason.UNKNOWN_KEY)
    assert "not one of the 2 keys" in text
    forged = token_of(good_claims(), third, header_of(third, kid=None))
    text = assert_refused(authenticator.authenticate(forged, [], NOW), forged, Reason.BAD_SIGNATURE)
    assert "any of 3 keys" in text
    assert authenticator.entry_of(forged, NOW) is None


@pytest.mark.fault(5)
def test_one_name_for_two_keys_of_an_issuer() -> None:
    other = replace(signing_key("ES256").verification_key, kid=RSA.verification_key.kid)
    own = TrustedIssuer(ISSUER, [AUDIENCE], [RSA.verification_key])
    foreign = TrustedIssuer(ISSUER, [AUDIENCE], [other], is_foreign=True)
    with pytest.raises(UnusableKeyError, match=r"names a different key .* in keys/; remove"):
        Authenticator([own, foreign], LEEWAY)
    foreign.replace_keys([])
    authenticator = Authenticator([own, foreign], LEEWAY)
    with pytest.raises(UnusableKeyError, match="names a different key"):
        foreign.replace_keys([other])
    assert foreign.keys == {}
    # Names here are matched in any case.
    authenticator.replace_keys(ISSUER, [])
    foreign.replace_keys([other])
    authenticator.replace_keys(ISSUER, [RSA.verification_key])
    assert_accepted(authenticator.authenticate(TOKEN, [], NOW))


@pytest.mark.fault(5)
def test_keys_of_one_entry_that_are_not_there_yet() -> None:
    late = TrustedIssuer(ISSUER, [AUDIENCE], [], is_foreign=True)
    late.keys_problem = "the keys have not been fetched yet; try again"
    own = TrustedIssuer(ISSUER, [AUDIENCE], [RSA.verification_key])
    authenticator = Authenticator([own, late], LEEWAY)
    assert_accepted(authenticator.authenticate(TOKEN, [], NOW))
    foreign = signing_key("RS256", "foreign")
    for header in (header_of(foreign), header_of(foreign, kid=None)):
        token = token_of(good_claims(), foreign, header)
        text = assert_refused(authenticator.authenticate(token, [], NOW), token, Reason.UNKNOWN_KEY)
        assert "have not been fetched yet" in text
    # Only the key with that kid is tried.
    forged = token_of(good_claims(), foreign, header_of(RSA))
    assert_refused(authenticator.authenticate(forged, [], NOW), forged, Reason.BAD_SIGNATURE)


@pytest.mark.parametrize("name", ["good", "refused"])
@pytest.mark.parametrize(
    "token",
    ["\ud800", "é", "\0", "a" * 10, "." * 10, "\U0001f600.\U0001f600.\U0001f600"],
    ids=ascii,
)
def test_text_that_is_not_a_token(token: str, name: str) -> None:
    token = token if name == "good" else f"{TOKEN}{token}"
    assert (
        review(authenticator_with().authenticate(token, [], NOW))["status"]["authenticated"]
        is False
    )


REFUSALS = [
    pytest.param("a.b", id="no-jws"),
    pytest.param(token_of(good_claims(iss="https://other")), id="issuer"),
    pytest.param(token_of(good_claims(), signing_key("RS256", "foreign")), id="key"),
    pytest.param(token_of(good_claims(), header=header_of(RSA, alg="none")), id="algorithm"),
    pytest.param(token_of(good_claims(), header=header_of(RSA, crit=[])), id="header"),
    pytest.param(f"{TOKEN[:-8]}AAAAAAAA", id="signature"),
    pytest.param(token_of(good_claims(sub="x")), id="claims"),
    pytest.param(token_of(good_claims(aud=["x"])), id="audience"),
    pytest.param(token_of(good_claims(exp=1)), id="expired"),
]


@pytest.mark.parametrize("token", REFUSALS)
def test_a_refusal_leaves_nothing_in_memory(token: str) -> None:
    authenticator = authenticator_with()

    def refuse() -> weakref.ref[Exception]:
        # The outcome is a local of the frame that the error went through, as in a server.
        outcome = authenticator.authenticate(token, [], NOW)
        assert isinstance(outcome, Refused)
        return weakref.ref(outcome.error)

    gc.disable()
    try:
        assert refuse()() is None
    finally:
        gc.enable()


# Legacy tokens ------------------------------------------------------------------------------

PREFIX = "kubernetes.io/serviceaccount/"


def legacy_claims(**changes: object) -> JSONObject:
    return {
        "iss": LEGACY_ISSUER,
        f"{PREFIX}namespace": NAMESPACE,
        f"{PREFIX}secret.name": "loofah-token-x7x7x",
        f"{PREFIX}service-account.name": ACCOUNT,
        f"{PREFIX}service-account.uid": ACCOUNT_UID,
        "sub": f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}",
    } | changes


def legacy_authenticator(*, legacy: bool = True) -> Authenticator:
    issuer = TrustedIssuer(
        LEGACY_ISSUER, [AUDIENCE, "second"], [RSA.verification_key], legacy=legacy
    )
    return Authenticator([issuer], LEEWAY)


@pytest.mark.parametrize("now", [0.0, NOW, 4e9])
def test_legacy_token_has_no_times(now: float) -> None:
    token = token_of(legacy_claims())
    outcome = assert_accepted(legacy_authenticator().authenticate(token, [], now))
    assert identity_of(outcome).username == f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
    assert identity_of(outcome).uid == ACCOUNT_UID
    assert identity_of(outcome).extra == {}
    assert outcome.audiences == (AUDIENCE, "second")


def test_legacy_token_where_it_is_not_allowed() -> None:
    token = token_of(legacy_claims())
    outcome = legacy_authenticator(legacy=False).authenticate(token, [], NOW)
    assert_refused(outcome, token, Reason.MALFORMED)
    token = token_of(legacy_claims(iss=ISSUER))
    assert_refused(authenticator_with().authenticate(token, [], NOW), token, Reason.MALFORMED)


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ([AUDIENCE], (AUDIENCE,)),
        (["second", "vault"], ("second",)),
        (["vault"], None),
        ([LEGACY_ISSUER], None),
    ],
)
def test_legacy_token_is_for_the_configured_audiences(
    asked: list[str], answered: tuple[str, ...] | None
) -> None:
    token = token_of(legacy_claims())
    outcome = legacy_authenticator().authenticate(token, asked, NOW)
    if answered is None:
        text = assert_refused(outcome, token, Reason.AUDIENCE_MISMATCH)
        assert f'["{AUDIENCE}" "second"]' in text
        return
    assert assert_accepted(outcome).audiences == answered


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": int(NOW) - 61}, Reason.EXPIRED),
        ({"nbf": int(NOW) + 61}, Reason.NOT_YET_VALID),
        ({"iat": int(NOW) + 61}, Reason.ISSUED_IN_FUTURE),
        ({"aud": ["vault"]}, Reason.AUDIENCE_MISMATCH),
        ({"exp": "never"}, Reason.MALFORMED),
        ({"sub": "system:serviceaccount:argo-run:admin"}, Reason.SUBJECT_MISMATCH),
        ({f"{PREFIX}service-account.uid": ""}, Reason.MALFORMED),
        ({f"{PREFIX}secret.name": ""}, Reason.MALFORMED),
        ({f"{PREFIX}namespace": None}, Reason.MALFORMED),
        ({"kubernetes.io": {}}, Reason.MALFORMED),
    ],
    ids=str,
)
def test_claims_of_a_legacy_token_are_checked(changes: JSONObject, reason: Reason) -> None:
    token = token_of(legacy_claims(**changes))
    assert_refused(legacy_authenticator().authenticate(token, [], NOW), token, reason)


@pytest.mark.parametrize("claim", sorted(legacy_claims().keys() - {"iss"}))
def test_claim_of_a_legacy_token_missing(claim: str) -> None:
    claims = legacy_claims()
    del claims[claim]
    token = token_of(claims)
    outcome = legacy_authenticator().authenticate(token, [], NOW)
    assert_refused(outcome, token, Reason.MALFORMED)


def test_projected_token_of_a_legacy_issuer_needs_all_its_claims() -> None:
    claims = good_claims(iss=LEGACY_ISSUER)
    assert_accepted(legacy_authenticator().authenticate(token_of(claims), [], NOW))
    for name in ("exp", "aud", "nbf", "iat"):
        token = token_of({k: v for k, v in claims.items() if k != name})
        outcome = legacy_authenticator().authenticate(token, [], NOW)
        assert_refused(outcome, token, Reason.MALFORMED)


# Stale tokens and what is counted -----------------------------------------------------------


def stale_claims(warn_after: float) -> JSONObject:
    return good_claims(
        **{
            "kubernetes.io": good_claims()["kubernetes.io"]
            | {"pod": {"name": "p", "uid": "u"}, "warnafter": warn_after}
        }
    )


@pytest.mark.parametrize(
    ("after", "seconds"), [(-1, None), (0, None), (0.5, 0), (1, 1), (100.9, 100), (3000, 3000)]
)
def test_stale_note(after: float, seconds: int | None) -> None:
    token = token_of(stale_claims(int(NOW)))
    outcome = assert_accepted(authenticator_with().authenticate(token, [], NOW + after))
    assert outcome.stale_seconds == seconds
    note = identity_of(outcome).extra.get("leeway.dev/stale-token")
    subject = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
    text = f"subject: {subject}, seconds after warning threshold: {seconds}"
    assert note == (None if seconds is None else (text,))


def test_stale_note_does_not_stay_in_the_cache() -> None:
    authenticator = authenticator_with()
    token = token_of(stale_claims(int(NOW)))
    for now, stale in ((NOW, False), (NOW + 9, True), (NOW, False)):
        outcome = assert_accepted(authenticator.authenticate(token, [], now))
        assert ("leeway.dev/stale-token" in identity_of(outcome).extra) is stale


KINDS = [
    pytest.param(good_claims(), 0, "valid", id="valid"),
    pytest.param(stale_claims(int(NOW) + 5), 0, "valid", id="not-stale-yet"),
    pytest.param(stale_claims(int(NOW)), 5, "stale", id="stale"),
    pytest.param(legacy_claims(iss=ISSUER), 0, "legacy", id="legacy"),
    pytest.param(legacy_claims(iss=ISSUER, aud=[AUDIENCE]), 0, "valid", id="legacy-with-aud"),
]


@pytest.mark.parametrize(("claims", "after", "kind"), KINDS)
def test_kinds_of_tokens_are_counted(claims: JSONObject, after: int, kind: str) -> None:
    metrics = Metrics()
    authenticator = authenticator_with(legacy=True)
    outcome = assert_accepted(authenticator.authenticate(token_of(claims), [], NOW + after))
    metrics.count_review(outcome, 0.0)
    lines = metrics.render().decode().splitlines()
    for name in ("valid", "stale", "legacy"):
        assert f"serviceaccount_{name}_tokens_total {float(name == kind)}" in lines
    assert 'leeway_tokenreviews_total{reason="",result="accepted"} 1.0' in lines


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        (good_claims(exp=1), Reason.EXPIRED),
        (good_claims(aud=["x"]), Reason.AUDIENCE_MISMATCH),
        (good_claims(iss="x"), Reason.NOT_RECOGNISED),
    ],
)
def test_refusals_are_counted_by_reason(claims: JSONObject, reason: Reason) -> None:
    metrics = Metrics()
    metrics.count_review(authenticator_with().authenticate(token_of(claims), [], NOW), 0.0)
    lines = metrics.render().decode().splitlines()
    assert f'leeway_tokenreviews_total{{reason="{reason}",result="refused"}} 1.0' in lines
    assert "serviceaccount_valid_tokens_total 0.0" in lines


def test_claims_that_needed_the_leeway_are_counted() -> None:
    metrics = Metrics()
    claims = good_claims(nbf=int(NOW) + 5, iat=int(NOW) + 5, exp=int(NOW) - 5)
    metrics.count_review(authenticator_with().authenticate(token_of(claims), [], NOW), 0.0)
    lines = metrics.render().decode().splitlines()
    for claim in ("nbf", "iat", "exp"):
        assert f'leeway_accepted_by_leeway_total{{claim="{claim}"}} 1.0' in lines


# The bound of the cache ---------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[None]:
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


LARGE = {
    "pod": {"name": "p" * 200, "uid": "8ec93c07-642d-4b4b-93f7-1c038328613d"},
    "node": {"name": "n" * 200, "uid": "8ec93c07-642d-4b4b-93f7-1c038328613e"},
}
SHAPES: dict[str, dict[str, Any]] = {
    "small": {"jti": "", "claims": good_claims()},
    "usual": {
        "jti": "23c4d832-c540-422a-9e85-{:012d}",
        "claims": stale_claims(int(NOW) - 5),
    },
    "large": {
        "jti": "23c4d832-c540-422a-9e85-{:012d}",
        "claims": good_claims(**{"kubernetes.io": good_claims()["kubernetes.io"] | LARGE}),
    },
    "many-audiences": {
        "jti": "{}",
        "claims": good_claims(aud=[AUDIENCE, *(f"a{n}" for n in range(99))]),
    },
    "long-audiences": {
        "jti": "{}",
        "claims": good_claims(aud=[AUDIENCE, *("x" * 1000 + str(n) for n in range(15))]),
    },
}


def strange(claims: JSONObject, number: int) -> JSONObject:
    """Return claims that have no service account, audience or node in common with others."""
    private = claims["kubernetes.io"]
    name = f"{ACCOUNT}-{number}"
    account = {"name": name, "uid": f"66bff4eb-5231-4bfa-b116-{number:012}"}
    private = private | {"serviceaccount": account}
    if "node" in private:
        private |= {"node": private["node"] | {"uid": f"8ec93c07-642d-4b4b-93f7-{number:012}"}}
    return claims | {
        "aud": [AUDIENCE, *(f"{entry}-{number}" for entry in claims["aud"][1:])],
        "sub": f"system:serviceaccount:{NAMESPACE}:{name}",
        "kubernetes.io": private,
    }


@pytest.mark.parametrize("name", SHAPES)
def test_cache_takes_no_more_than_it_reports(name: str, memory: None) -> None:
    """``_FACT_OVERHEAD_BYTES`` is not below what an entry takes besides its payload."""
    shape, key = SHAPES[name], signing_key("EdDSA")
    claims = dict(shape["claims"])
    count = 1000
    limit = 1 << 40
    authenticator = Authenticator(
        [TrustedIssuer(ISSUER, [AUDIENCE], [key.verification_key])], LEEWAY, limit
    )
    for number in range(20):
        authenticator.authenticate(token_of(claims | {"x": number}, key), [], NOW)
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    booked = authenticator._facts._bytes
    for number in range(count):
        jti = {"jti": shape["jti"].format(number)} if shape["jti"] else {"x": number + 100}
        outcome = authenticator.authenticate(token_of(strange(claims, number) | jti, key), [], NOW)
        assert_accepted(outcome)
        del outcome
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    booked = authenticator._facts._bytes - booked
    assert len(authenticator._facts) == count + 20
    assert after - before <= booked, (
        f"{(after - before) / count:.0f} > {booked / count:.0f} a token"
    )
    # Nor is it counted as many times its size: the cache would be smaller than it says.
    assert booked < 8 * (after - before)


def test_cache_stays_within_its_bytes() -> None:
    key = signing_key("EdDSA")
    issuer = TrustedIssuer(ISSUER, [AUDIENCE], [key.verification_key])
    authenticator = Authenticator([issuer], LEEWAY, 100_000)
    for number in range(300):
        token = token_of(good_claims(jti=str(number)), key)
        for _ in range(2):
            assert_accepted(authenticator.authenticate(token, [], NOW))
        assert authenticator._facts._bytes <= 100_000
    assert 10 < len(authenticator._facts) < 100


def test_cache_without_room_still_answers() -> None:
    issuer = TrustedIssuer(ISSUER, [AUDIENCE], [RSA.verification_key])
    authenticator = Authenticator([issuer], LEEWAY, 0)
    for _ in range(2):
        assert_accepted(authenticator.authenticate(TOKEN, [], NOW))
    assert len(authenticator._facts) == 0


@dataclass(frozen=True)
class Fact:
    name: str
    size: int


def test_least_recently_used_fact_is_dropped_first() -> None:
    cache: FactCache[Fact] = FactCache(30)

    def kept() -> str:
        names = [name for name in "abcdefghi" if name.encode() in cache]
        return "".join(names)

    def put(name: str, size: int) -> None:
        cache.put(name.encode(), Fact(name, size))

    for name in "abc":
        put(name, 10)
    assert cache.get(b"a") == Fact("a", 10)
    cache.move_to_end(b"a")
    assert cache.get(b"x") is None
    put("d", 10)
    assert kept() == "acd"
    put("e", 25)
    assert kept() == "e"
    put("e", 5)
    put("f", 25)
    assert kept() == "ef"
    cache.move_to_end(b"e")
    assert cache.get(b"e") == Fact("e", 5)
    cache.discard(b"e")
    cache.discard(b"unknown")
    put("g", 5)
    assert kept() == "fg"
    put("h", 31)
    assert kept() == ""
    assert len(cache) == 0
    put("i", 30)
    assert kept() == "i"
