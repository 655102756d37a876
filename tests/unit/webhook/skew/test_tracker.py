"""How far clocks are ahead: bounds from tokens, over workers, over time, and within bounds."""

import tracemalloc
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import (
    AUDIENCE,
    ISSUER,
    LEEWAY,
    NOW,
    JSONObject,
    authenticator_with,
    good_claims,
    signing_key,
    token_of,
)
from webhook.skew.tracker import (
    BUCKET_SECONDS,
    IN_STEP_SECONDS,
    MAX_NODES,
    WINDOW_SECONDS,
    ClockState,
    Estimate,
    SkewTracker,
    SlowClockRule,
    estimate,
)
from webhook.telemetry.metrics import Metrics
from webhook.token.authenticator import Authenticator, TrustedIssuer
from webhook.token.claims import Claims, ObjectReference
from webhook.token.fact_cache import FactCache

# Not at the edge of a bucket.
SEEN = NOW + 60
OTHER = "https://other.example"
FAST, UNKNOWN, IN_STEP, BEHIND = (
    ClockState.AHEAD,
    ClockState.UNKNOWN,
    ClockState.IN_STEP,
    ClockState.BEHIND,
)


def claims_of(issued_at: int | None, node: str = "", issuer: str = ISSUER) -> Claims:
    return Claims(
        issuer,
        "system:serviceaccount:ns:sa",
        (AUDIENCE,),
        "ns",
        ObjectReference("sa"),
        issued_at=issued_at,
        not_before=issued_at,
        node=ObjectReference(node) if node else None,
    )


def show(tracker: SkewTracker, ages: Sequence[float], node: str = "n") -> None:
    """Show new tokens of these ages within the second before SEEN."""
    for number, age in enumerate(ages):
        issued_at = int(SEEN - age)
        tracker.see(claims_of(issued_at, node), issued_at + age, number)


def estimates(*trackers: SkewTracker, now: float = SEEN) -> dict[str, Estimate]:
    """Return the estimates of the claim iat by node, of the one issuer by the empty name."""
    found = estimate([tracker.snapshot(now) for tracker in trackers], now)
    return {entry.node: entry for entry in found if entry.claim == "iat"}


TABLE = [
    pytest.param([-90], 90, FAST, id="one-token-of-the-future"),
    pytest.param([3000, -90, 200], 90, FAST, id="the-largest-bound-counts"),
    pytest.param([-IN_STEP_SECONDS - 0.5], 5.5, FAST, id="just-ahead"),
    pytest.param([-IN_STEP_SECONDS], 5, IN_STEP, id="not-quite-ahead"),
    pytest.param([0.25], -0.25, IN_STEP, id="in-step"),
    pytest.param([IN_STEP_SECONDS], -5, IN_STEP, id="old-by-little"),
    pytest.param([90], -90, UNKNOWN, id="one-old-token"),
    pytest.param([90] * 9, -90, UNKNOWN, id="nine-equally-old-tokens"),
    pytest.param([90] * 10, -90, BEHIND, id="ten-equally-old-tokens"),
    pytest.param([90 + i / 2 for i in range(10)], -90, BEHIND, id="ten-nearly-equally-old"),
    pytest.param([90 + i for i in range(10)], -90, UNKNOWN, id="ages-that-scatter"),
    pytest.param([500 + 40 * i for i in range(60)], -500, UNKNOWN, id="a-node-of-old-tokens"),
    pytest.param([90] * 20 + [900, 3000], -90, BEHIND, id="older-ones-do-not-count"),
    pytest.param([90] * 20 + [1], -1, IN_STEP, id="one-new-token-proves-it-is-not-behind"),
    pytest.param([29] * 20, -29, UNKNOWN, id="a-slow-start-of-a-program"),
    pytest.param([30] * 20, -30, BEHIND, id="longer-than-a-slow-start"),
]


@pytest.mark.parametrize(("ages", "ahead", "state"), TABLE)
def test_estimate(ages: list[float], ahead: float, state: ClockState) -> None:
    tracker = SkewTracker()
    show(tracker, ages)
    found = estimates(tracker)
    assert found.keys() == {"", "n"}
    for entry in found.values():
        assert (entry.ahead, entry.state, entry.tokens) == (ahead, state, len(ages))
        assert entry.issuer == ISSUER


def test_the_rule_of_the_table_is_the_one_of_the_code() -> None:
    assert (SlowClockRule.TOKENS, SlowClockRule.SECONDS, IN_STEP_SECONDS) == (10, 30, 5)


def test_one_repeated_token_is_not_evidence() -> None:
    trackers = [SkewTracker() for _ in range(32)]
    for tracker in trackers:
        for now in (NOW, NOW + 1):
            tracker.see(claims_of(int(NOW) - 90, "n"), now, 7)
    assert estimates(*trackers)["n"].state is UNKNOWN


def test_tokens_without_a_node_count_for_their_issuer_only() -> None:
    tracker = SkewTracker()
    tracker.see(claims_of(int(NOW) + 70), NOW, 1)
    tracker.see(claims_of(int(NOW), "n"), NOW, 2)
    tracker.see(claims_of(int(NOW) - 3, "n", OTHER), NOW, 3)
    found = estimate([tracker.snapshot(NOW)], NOW)
    assert [(e.issuer, e.node, e.claim, e.ahead) for e in found] == [
        (ISSUER, "", "iat", 70),
        (ISSUER, "", "nbf", 70),
        (ISSUER, "n", "iat", 0),
        (OTHER, "", "iat", -3),
        (OTHER, "", "nbf", -3),
        (OTHER, "n", "iat", -3),
    ]


def test_legacy_tokens_have_no_times() -> None:
    tracker = SkewTracker()
    tracker.see(claims_of(None, "n"), NOW, 1)
    assert not tracker.changed
    assert estimates(tracker) == {}


# Over time ----------------------------------------------------------------------------------

START = float(int(NOW) // BUCKET_SECONDS * BUCKET_SECONDS)


@pytest.mark.parametrize(
    ("later", "known"),
    [
        (0, True),
        (WINDOW_SECONDS - BUCKET_SECONDS, True),
        (WINDOW_SECONDS - 1, True),
        (WINDOW_SECONDS, False),
        (10 * 365 * 86400, False),
        (-3600, False),
    ],
)
def test_old_estimates_are_forgotten(later: float, known: bool) -> None:
    tracker = SkewTracker()
    tracker.see(claims_of(int(START) + 90, "n"), START, 1)
    data = tracker.snapshot(START)
    assert bool(estimate([data], START + later)) is known


def test_a_corrected_clock_is_forgotten_while_it_signs() -> None:
    tracker = SkewTracker()
    now = START
    while now < START + 4 * WINDOW_SECONDS:
        skew = 90 if now < START + WINDOW_SECONDS else 0
        tracker.see(claims_of(int(now) + skew, "n"), now, int(now))
        expected = 90 if now < START + 2 * WINDOW_SECONDS - BUCKET_SECONDS else 0
        assert estimates(tracker, now=now)["n"].ahead == expected
        now += 60
    assert estimates(tracker, now=now)["n"].tokens <= WINDOW_SECONDS / 60


def test_a_token_in_use_counts_while_it_is_informative() -> None:
    # The clock is two hours ahead, and the one token of it was first seen long ago.
    tracker = SkewTracker()
    tracker.see(claims_of(int(START) + 7200, "n"), START, 1)
    later = START + 2 * WINDOW_SECONDS
    tracker.see(claims_of(int(START) + 7200, "n"), later)
    assert estimates(tracker, now=later)["n"].ahead == 7200 - 2 * WINDOW_SECONDS


def test_estimates_are_forgotten_once_this_clock_was_set() -> None:
    tracker = SkewTracker(2)
    show(tracker, [-90])
    tracker.snapshot(SEEN)
    tracker.forget()
    assert tracker.changed
    assert estimates(tracker) == {}
    for node in ("a", "b"):
        show(tracker, [-9], node=node)
    assert estimates(tracker).keys() == {"", "a", "b"}


def test_this_clock_set_back_by_an_hour() -> None:
    tracker = SkewTracker()
    tracker.see(claims_of(int(START) + 90, "n"), START, 1)
    tracker.see(claims_of(int(START) - 3600, "n"), START - 3600, 2)
    assert estimates(tracker, now=START - 3600)["n"].ahead == 0


def test_news() -> None:
    tracker = SkewTracker()
    assert not tracker.changed
    token = claims_of(int(START), "n")
    tracker.see(token, START + 1, 1)
    assert tracker.changed
    tracker.snapshot(START + 1)
    assert not tracker.changed
    tracker.see(token, START + 2)
    assert not tracker.changed, "an older look at the same token tells nothing new"
    tracker.see(token, START + 2, 2)
    assert tracker.changed, "another token does"


# Over workers -------------------------------------------------------------------------------

SIGHTS = st.lists(
    st.tuples(
        st.integers(-400, 400),
        st.sampled_from(["", "a", "b"]),
        st.integers(0, 2 * WINDOW_SECONDS),
        st.integers(0, 3),
    ),
    max_size=60,
)


@given(sights=SIGHTS)
def test_workers_together_know_what_one_worker_would(
    sights: list[tuple[int, str, int, int]],
) -> None:
    one, workers = SkewTracker(), [SkewTracker() for _ in range(4)]
    now = START
    for number, (ahead, node, later, worker) in enumerate(sorted(sights, key=lambda s: s[2])):
        now = START + later
        claims = claims_of(int(now) + ahead, node)
        one.see(claims, now, number)
        workers[worker].see(claims, now, number)
    alone = estimate([one.snapshot(now)], now)
    together = estimate([worker.snapshot(now) for worker in workers], now)
    # Any of equal bounds may be named.
    assert [msgspec.structs.replace(e, at=0) for e in together] == [
        msgspec.structs.replace(e, at=0) for e in alone
    ]


@given(
    skew=st.floats(-300, 300),
    tokens=st.lists(st.tuples(st.floats(0, 600), st.floats(0, 3600)), min_size=1, max_size=40),
)
def test_no_bound_is_above_the_truth(skew: float, tokens: list[tuple[float, float]]) -> None:
    tracker = SkewTracker()
    seen = sorted((START + issued + age, START + issued + skew) for issued, age in tokens)
    for number, (now, signer) in enumerate(seen):
        tracker.see(claims_of(int(signer), "n"), now, number)
    last = seen[-1][0]
    for entry in estimates(tracker, now=last).values():
        assert entry.ahead <= skew + 1e-3
        if entry.state is FAST:
            assert skew > IN_STEP_SECONDS - 1e-3


# Within bounds ------------------------------------------------------------------------------


def test_nodes_are_bounded_and_those_ahead_are_kept() -> None:
    tracker = SkewTracker(100)
    tracker.see(claims_of(int(START) + 90, "fast"), START, 0)
    for number in range(10_000):
        now = START + number / 50
        tracker.see(claims_of(int(now), f"node-{number}"), now, number)
        assert number % 997 or len(estimates(tracker, now=now)) <= 101
    found = estimates(tracker, now=START + 200)
    assert 90 <= len(found) <= 101
    assert found["fast"].ahead == 90
    assert "node-9999" in found
    assert "node-1" not in found


def test_nodes_that_are_all_ahead_are_bounded_too() -> None:
    tracker = SkewTracker(100)
    for number in range(1000):
        tracker.see(claims_of(int(START) + 90, f"node-{number}"), START, number)
    assert len(estimates(tracker, now=START)) <= 101


def test_expired_estimates_take_no_room() -> None:
    tracker = SkewTracker(2)
    show(tracker, [0], node="a")
    later = SEEN + 10 * WINDOW_SECONDS
    assert tracker.snapshot(later) == b"[]"
    for node in ("b", "c"):
        tracker.see(claims_of(int(later), node), later, 1)
    assert estimates(tracker, now=later).keys() == {"", "b", "c"}


def test_memory_is_bounded_with_many_nodes_and_tokens() -> None:
    def fill(first: int) -> None:
        for number in range(first, first + 30_000):
            now = START + number / 40
            tracker.see(claims_of(int(now), f"node-{number % 10_000}"), now, number)

    tracker = SkewTracker()
    fill(0)
    tracemalloc.start()
    try:
        fill(30_000)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # All 1,000 nodes are new by then, so this is all the memory they take.
    assert grown < MAX_NODES * 3000


# What counts as a token ---------------------------------------------------------------------


def fast_claims(ahead: int, **changes: object) -> JSONObject:
    private = {
        "namespace": "argo-run",
        "node": {"name": "node-3", "uid": "u"},
        "pod": {"name": "p", "uid": "u"},
        "serviceaccount": {"name": "loofah", "uid": "u"},
    }
    times = {"iat": int(NOW) + ahead, "nbf": int(NOW) + ahead, "kubernetes.io": private}
    return good_claims(**(times | changes))


def authenticate(tracker: SkewTracker, token: str, now: float = NOW) -> bool:
    issuer = TrustedIssuer(ISSUER, [AUDIENCE], [signing_key("RS256").verification_key])
    outcome = Authenticator([issuer], LEEWAY, skew=tracker).authenticate(token, [], now)
    return type(outcome).__name__ == "Authenticated"


COUNTED = [
    pytest.param(fast_claims(45), True, id="accepted-by-leeway"),
    pytest.param(fast_claims(90), False, id="not-yet-valid"),
    pytest.param(fast_claims(90, nbf=int(NOW)), False, id="issued-in-future"),
    pytest.param(fast_claims(90, aud=["vault"]), False, id="another-audience"),
    pytest.param(fast_claims(90, exp=int(NOW) - 1000), False, id="expired"),
]


@pytest.mark.parametrize(("claims", "accepted"), COUNTED)
def test_a_token_with_a_valid_signature_counts(claims: JSONObject, accepted: bool) -> None:
    tracker = SkewTracker()
    assert authenticate(tracker, token_of(claims)) is accepted
    found = estimates(tracker)
    assert found["node-3"].ahead == found[""].ahead == claims["iat"] - NOW


FOREIGN = signing_key("RS256", "foreign")
NEVER = [
    pytest.param(token_of(fast_claims(90), FOREIGN), id="foreign-key"),
    pytest.param(
        token_of(fast_claims(90), FOREIGN, {"alg": "RS256", "kid": "x"}), id="unknown-key"
    ),
    pytest.param(token_of(fast_claims(90))[:-8] + "AAAAAAAA", id="bad-signature"),
    pytest.param(token_of(fast_claims(90, iss=OTHER)), id="foreign-issuer"),
    pytest.param(token_of(fast_claims(90, sub="x")), id="contradicting-subject"),
    pytest.param("no token", id="no-token"),
]


@pytest.mark.parametrize("token", NEVER)
def test_no_other_token_counts(token: str) -> None:
    tracker = SkewTracker()
    assert not authenticate(tracker, token)
    assert estimates(tracker) == {}
    assert not tracker.changed


def test_a_token_is_new_once() -> None:
    tracker = SkewTracker()
    authenticator = authenticator_with()
    authenticator._skew = tracker
    for _ in range(3):
        authenticator.authenticate(token_of(fast_claims(0)), [], NOW)
    assert estimates(tracker)["node-3"].tokens == 1
    authenticator._facts = FactCache(0)
    authenticator.authenticate(token_of(fast_claims(0, jti="another")), [], NOW)
    assert estimates(tracker)["node-3"].tokens == 2


def test_the_metric_has_a_series_for_each_claim_of_an_issuer_and_none_for_nodes() -> None:
    tracker = SkewTracker()
    metrics = Metrics(lambda: estimate([tracker.snapshot(NOW)], NOW))

    def series() -> list[str]:
        lines = metrics.render().decode().splitlines()
        return [line for line in lines if line.startswith("leeway_token_skew_seconds")]

    assert series() == []
    for number in range(2000):
        tracker.see(claims_of(int(NOW) + 90, f"node-{number}"), NOW, number)
    assert series() == [
        f'leeway_token_skew_seconds{{claim="{claim}",issuer="{ISSUER}"}} 90.0'
        for claim in ("iat", "nbf")
    ]
