"""When a key's next step is safe: pure, with the clock passed in."""

import contextlib
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from keys.errors import KeyScheduleError, UnsafeStepError
from keys.keyring import Keyring, KeyState, ScheduledKey
from keys.rotation import (
    FORGET_SECONDS,
    MARK_SECONDS,
    RotationPolicy,
    Step,
    StepKind,
    activated,
    are_times_outdated,
    due_step,
    forgotten,
    next_step,
    requested_step,
    retired,
    signing_key_age,
    what_breaks,
    with_times,
)
from tests.support import signing_key

DAY = 86400
MAX_AGE = 3600
# Seconds that the leeways of `iat` and `exp` can add to a token's life.
LEEWAY = 300
POLICY = RotationPolicy(jwks_max_age=MAX_AGE, token_seconds=DAY, rotate_every=30 * DAY)
T = 1_800_000_000
PUBLISH, KEEP = POLICY.publish_seconds, POLICY.keep_seconds


# What kube-apiserver accepts from a signer.
FOR_SIGNER = replace(POLICY, refresh_hint=60, algorithms=("RS256", "ES256", "ES384", "ES512"))


def scheduled(
    name: str,
    state: KeyState,
    since: int = T,
    until: int | None = None,
    *,
    private: bool = True,
    algorithm: str = "ES256",
) -> ScheduledKey:
    key = signing_key(algorithm, name)
    return ScheduledKey(key.verification_key, key if private else None, state, since, until)


def kid(name: str) -> str:
    return signing_key("ES256", name).verification_key.kid


def ring(*keys: ScheduledKey, clock: int = T) -> Keyring:
    return Keyring(keys, clock)


ACTIVE = scheduled("active", KeyState.ACTIVE, until=T + KEEP)
PENDING = scheduled("pending", KeyState.PENDING)
OLD = scheduled("old", KeyState.VERIFY_ONLY, until=T + KEEP, private=False)
COPIED = scheduled("copied", KeyState.VERIFY_ONLY)
RETIRED = scheduled("retired", KeyState.RETIRED, until=T, private=False)
BOTH = ring(ACTIVE, PENDING)


def test_a_key_is_published_for_longer_than_a_jwks_is_cached() -> None:
    assert PUBLISH > MAX_AGE + MARK_SECONDS
    assert KEEP > DAY + MARK_SECONDS + LEEWAY


@pytest.mark.parametrize("hint", [0, 1, 60, 3600])
def test_a_key_is_published_for_longer_than_an_api_server_goes_without_fetching(hint: int) -> None:
    policy = replace(POLICY, refresh_hint=hint)
    # A client of the API server's own JWKS sees what the API server fetched a hint ago, and can
    # keep that for as long as a JWKS.
    assert policy.publish_seconds > hint + MAX_AGE + MARK_SECONDS
    # An API server alone is safe even if the hint is not known here.
    assert hint + MARK_SECONDS < PUBLISH
    ready = T + policy.publish_seconds
    with pytest.raises(UnsafeStepError) as raised:
        activated(BOTH, kid("pending"), policy, ready - 1)
    assert raised.value.safe_from == ready
    assert activated(BOTH, kid("pending"), policy, ready).active
    assert ("kube-apiserver fetches" in what_breaks(PENDING, policy, T)) is bool(hint)


EDDSA = scheduled("eddsa", KeyState.PENDING, T - DAY, algorithm="EdDSA")


@pytest.mark.parametrize("force", [False, True])
def test_no_key_becomes_active_that_an_api_server_does_not_accept(force: bool) -> None:
    keyring, now = ring(ACTIVE, EDDSA), T + 30 * DAY
    with pytest.raises(KeyScheduleError, match=r"EdDSA cannot sign here.*RS256, ES256"):
        activated(keyring, EDDSA.kid, FOR_SIGNER, now, force=force)
    # Another key is made instead, by hand and automatically.
    assert requested_step(keyring, FOR_SIGNER, now, force=force) == Step(StepKind.PUBLISH)
    assert due_step(keyring, FOR_SIGNER, now) == Step(StepKind.PUBLISH)
    with_another = ring(ACTIVE, EDDSA, PENDING)
    activate = Step(StepKind.ACTIVATE, kid("pending"))
    assert due_step(with_another, FOR_SIGNER, now) == activate
    assert requested_step(with_another, FOR_SIGNER, now, force=force) == activate
    # Without a signer it becomes active.
    assert due_step(keyring, POLICY, now) == Step(StepKind.ACTIVATE, EDDSA.kid)


def test_a_key_that_an_api_server_does_not_accept_can_only_be_retired() -> None:
    step = next_step(ring(ACTIVE, EDDSA), EDDSA, FOR_SIGNER)
    assert (step.state, step.safe_from) == (KeyState.RETIRED, EDDSA.since)
    assert what_breaks(EDDSA, FOR_SIGNER, T - DAY) == ""
    assert next_step(ring(ACTIVE, EDDSA), ACTIVE, FOR_SIGNER).safe_from is None
    gone = retired(ring(ACTIVE, EDDSA), EDDSA.kid, FOR_SIGNER, T)
    assert gone.key(EDDSA.kid).state is KeyState.RETIRED


@pytest.mark.parametrize("seconds", [0, 1, MAX_AGE, PUBLISH - 1])
def test_a_key_published_too_short_does_not_sign(seconds: int) -> None:
    with pytest.raises(UnsafeStepError, match=kid("pending")) as raised:
        activated(BOTH, kid("pending"), POLICY, T + seconds)
    assert raised.value.safe_from == T + PUBLISH
    assert "--force" in str(raised.value)
    forced = activated(BOTH, kid("pending"), POLICY, T + seconds, force=True)
    assert forced.signing_key().verification_key.kid == kid("pending")
    assert "clients" in what_breaks(PENDING, POLICY, T + seconds)


def test_one_key_takes_over_from_another() -> None:
    now = T + PUBLISH
    after = activated(BOTH, kid("pending"), POLICY, now)
    new, old = after.key(kid("pending")), after.key(kid("active"))
    assert (new.state, new.since, new.until) == (KeyState.ACTIVE, now, now + KEEP)
    assert (old.state, old.since, old.until) == (KeyState.VERIFY_ONLY, now, now + KEEP)
    assert old.signing_key is None
    assert after.clock == now
    assert {key.kid for key in after.verification_keys()} == {kid("pending"), kid("active")}
    assert what_breaks(PENDING, POLICY, now) == ""


@pytest.mark.parametrize("state", [s for s in KeyState if s is not KeyState.PENDING])
def test_only_a_pending_key_becomes_active(state: KeyState) -> None:
    keyring = ring(scheduled("a", state, until=T))
    with pytest.raises(KeyScheduleError, match="only a pending key"):
        activated(keyring, kid("a"), POLICY, T + DAY, force=True)


def test_a_longer_lifetime_granted_earlier_counts() -> None:
    year = replace(POLICY, token_seconds=365 * DAY)
    keyring = with_times(BOTH, year, T)
    after = activated(keyring, kid("pending"), POLICY, T + PUBLISH)
    assert after.key(kid("active")).until == T + year.keep_seconds
    # And a shorter one is not mistaken for it.
    assert after.key(kid("pending")).until == T + PUBLISH + KEEP


@pytest.mark.parametrize(
    ("key", "after", "safe"),
    [
        pytest.param(OLD, KEEP, True, id="run-out"),
        pytest.param(OLD, KEEP - 1, False, id="a-token-may-live"),
        pytest.param(OLD, -DAY, False, id="clock-far-behind"),
        pytest.param(COPIED, 100 * 365 * DAY, False, id="no-end-known"),
        pytest.param(PENDING, 0, True, id="signed-nothing"),
        pytest.param(RETIRED, 0, True, id="retired-already"),
    ],
)
def test_retiring(key: ScheduledKey, after: int, safe: bool) -> None:
    keyring, now = ring(ACTIVE, key), T + after
    if not safe:
        with pytest.raises(UnsafeStepError, match="--force"):
            retired(keyring, key.kid, POLICY, now)
        assert what_breaks(key, POLICY, now)
    else:
        assert key.state is KeyState.PENDING or what_breaks(key, POLICY, now) == ""
    gone = retired(keyring, key.kid, POLICY, now, force=not safe).key(key.kid)
    assert (gone.state, gone.signing_key) == (KeyState.RETIRED, None)
    assert gone.since == max(now, T)


@pytest.mark.parametrize("force", [False, True])
def test_the_active_key_is_never_retired(force: bool) -> None:
    with pytest.raises(KeyScheduleError, match="leeway keys rotate"):
        retired(BOTH, kid("active"), POLICY, T + 1000 * DAY, force=force)


@pytest.mark.parametrize("step", [retired, activated], ids=lambda step: step.__name__)
def test_an_unknown_key(step: Callable[..., Keyring]) -> None:
    with pytest.raises(KeyScheduleError, match="leeway keys list"):
        step(BOTH, "nobody", POLICY, T)


def test_only_a_retired_key_is_forgotten() -> None:
    assert forgotten(ring(ACTIVE, RETIRED), RETIRED.kid).keys == (ACTIVE,)
    for key in (ACTIVE, PENDING, OLD):
        with pytest.raises(KeyScheduleError, match="retire it first"):
            forgotten(ring(ACTIVE, key) if key is not ACTIVE else ring(key), key.kid)


LATE = T + POLICY.rotate_every


@pytest.mark.parametrize(
    ("keyring", "now", "step"),
    [
        pytest.param(ring(ACTIVE), T, None, id="new"),
        pytest.param(ring(ACTIVE), LATE - PUBLISH - 1, None, id="not-time-to-publish"),
        pytest.param(ring(ACTIVE), LATE - PUBLISH, Step(StepKind.PUBLISH), id="publish"),
        pytest.param(BOTH, LATE - 1, None, id="waiting-though-published"),
        pytest.param(BOTH, LATE, Step(StepKind.ACTIVATE, kid("pending")), id="activate"),
        pytest.param(
            ring(ACTIVE, replace(PENDING, since=LATE - PUBLISH + 1)), LATE, None, id="too-young"
        ),
        pytest.param(ring(ACTIVE, OLD), T + KEEP, Step(StepKind.RETIRE, kid("old")), id="retire"),
        pytest.param(ring(ACTIVE, OLD), T + KEEP - 1, None, id="verifying"),
        pytest.param(ring(ACTIVE, COPIED), LATE - PUBLISH - 1, None, id="copied"),
        pytest.param(
            ring(ACTIVE, RETIRED),
            T + FORGET_SECONDS + 1,
            Step(StepKind.FORGET, kid("retired")),
            id="forget",
        ),
        pytest.param(ring(), LATE, None, id="empty"),
        pytest.param(ring(PENDING, OLD), LATE, None, id="none-active"),
        pytest.param(
            ring(ACTIVE, replace(PENDING, signing_key=None)),
            LATE,
            Step(StepKind.PUBLISH),
            id="public-half-alone",
        ),
    ],
)
def test_steps_that_are_due(keyring: Keyring, now: int, step: Step | None) -> None:
    assert due_step(keyring, POLICY, now) == step
    assert due_step(keyring, replace(POLICY, rotate_every=0), now) is None


@pytest.mark.parametrize(
    ("keyring", "now", "step"),
    [
        pytest.param(ring(ACTIVE), T, Step(StepKind.PUBLISH), id="publish"),
        pytest.param(BOTH, T + PUBLISH, Step(StepKind.ACTIVATE, kid("pending")), id="activate"),
        pytest.param(BOTH, T + PUBLISH - 1, None, id="too-early"),
        pytest.param(
            ring(ACTIVE, OLD, PENDING),
            T + KEEP,
            Step(StepKind.ACTIVATE, kid("pending")),
            id="first",
        ),
        pytest.param(
            ring(ACTIVE, OLD, replace(PENDING, since=T + KEEP)),
            T + KEEP,
            Step(StepKind.RETIRE, kid("old")),
            id="retire-meanwhile",
        ),
        pytest.param(ring(ACTIVE, COPIED), T, Step(StepKind.PUBLISH), id="copied"),
    ],
)
def test_steps_by_hand(keyring: Keyring, now: int, step: Step | None) -> None:
    if step is None:
        with pytest.raises(UnsafeStepError):
            requested_step(keyring, POLICY, now)
        forced = requested_step(keyring, POLICY, now, force=True)
        assert forced == Step(StepKind.ACTIVATE, kid("pending"))
    else:
        assert requested_step(keyring, POLICY, now) == step


@pytest.mark.parametrize(
    ("keyring", "key", "state", "safe_from"),
    [
        (BOTH, PENDING, KeyState.ACTIVE, T + PUBLISH),
        (BOTH, ACTIVE, KeyState.VERIFY_ONLY, T + PUBLISH),
        (ring(ACTIVE), ACTIVE, KeyState.VERIFY_ONLY, None),
        (ring(OLD), OLD, KeyState.RETIRED, T + KEEP),
        (ring(COPIED), COPIED, KeyState.RETIRED, None),
        (ring(RETIRED), RETIRED, None, None),
    ],
)
def test_next_steps(
    keyring: Keyring, key: ScheduledKey, state: KeyState | None, safe_from: int | None
) -> None:
    step = next_step(keyring, key, POLICY)
    assert (step.state, step.safe_from) == (state, safe_from)
    assert bool(step.why) is (state is not None)


@pytest.mark.parametrize(
    ("keyring", "policy", "now", "due"),
    [
        (BOTH, POLICY, T, False),
        (BOTH, POLICY, T + MARK_SECONDS - 1, False),
        (BOTH, POLICY, T + MARK_SECONDS, True),
        (BOTH, POLICY, T - DAY, False),
        (BOTH, replace(POLICY, token_seconds=DAY + MARK_SECONDS), T, True),
        (BOTH, replace(POLICY, token_seconds=600), T, False),
        (ring(replace(ACTIVE, until=None)), POLICY, T, True),
        (ring(PENDING), POLICY, T + DAY, False),
    ],
)
def test_when_a_note_is_due(keyring: Keyring, policy: RotationPolicy, now: int, due: bool) -> None:
    assert are_times_outdated(keyring, policy, now) is due
    assert not are_times_outdated(with_times(keyring, policy, now), policy, now)


def test_a_clock_that_steps_back_shortens_no_wait() -> None:
    keyring = with_times(ring(ACTIVE), POLICY, T + 10 * DAY)
    back = T
    published = keyring.with_new_key(signing_key("ES256", "pending"), back)
    # Otherwise the key would look ten days old an hour after the clock is corrected.
    assert published.key(kid("pending")).since == T + 10 * DAY
    with pytest.raises(UnsafeStepError):
        activated(published, kid("pending"), POLICY, T + 10 * DAY + PUBLISH - 1)
    taken = activated(published, kid("pending"), POLICY, back, force=True)
    assert taken.key(kid("active")).until == T + 10 * DAY + KEEP
    assert taken.clock == T + 10 * DAY


@pytest.mark.parametrize(
    ("keyring", "now", "age"),
    [(BOTH, T + 90.5, 90.5), (BOTH, T - 5.0, 0.0), (ring(PENDING), T + 5.0, 0.0)],
)
def test_the_age_of_the_signing_key(keyring: Keyring, now: float, age: float) -> None:
    assert signing_key_age(keyring, now) == age


class World:
    """One folder's keys, a true clock, the clock that Leeway sees, and when the last tokens die.

    No part of the code under test says when a token dies, or how long a key has been published.
    """

    def __init__(self) -> None:
        self.true = self.seen = T
        self.held_until = 0
        self.policy = POLICY
        self.keyring = Keyring().with_new_key(signing_key("ES256", "world0"), T)
        self.made = 1
        self.published = {kid("world0"): 0}
        self.dies: dict[str, int] = {}
        self.advance()

    def pass_time(self, seconds: int) -> None:
        self.true += seconds
        self.seen += seconds
        self.advance()

    def set_clock(self, seen: int) -> None:
        """Let the clock jump, as ``keys.folder_watch`` sees it."""
        self.seen = seen
        self.held_until = self.true + self.policy.publish_seconds

    def advance(self) -> None:
        """Do what ``keys.folder_watch`` and ``keys.folder_changes`` do, without a folder."""
        held = self.true < self.held_until
        self.note(self.policy, held=held)
        while not held and (step := due_step(self.keyring, self.policy, self.seen)) is not None:
            self.take(step)

    def note(self, policy: RotationPolicy, *, held: bool) -> None:
        if are_times_outdated(self.keyring, policy, self.seen, held=held):
            self.keyring = with_times(self.keyring, policy, self.seen, held=held)

    def use(self, policy: RotationPolicy) -> None:
        longest = max(policy.token_seconds, self.policy.token_seconds)
        self.policy = policy
        self.note(replace(policy, token_seconds=longest), held=True)
        self.advance()

    def restart(self, policy: RotationPolicy) -> None:
        """Stop after the last poll, and start with other settings; the jump is forgotten."""
        self.advance()
        self.policy, self.held_until = policy, self.true
        self.advance()

    def is_any_pending(self) -> bool:
        return any(key.state is KeyState.PENDING for key in self.keyring.keys)

    def take(self, step: Step) -> None:
        match step.kind:
            case StepKind.PUBLISH:
                key = signing_key("ES256", f"world{self.made}")
                self.made += 1
                self.published[key.verification_key.kid] = self.true
                self.keyring = self.keyring.with_new_key(key, self.seen)
            case StepKind.ACTIVATE:
                self.keyring = activated(self.keyring, step.kid, self.policy, self.seen)
            case StepKind.RETIRE:
                self.keyring = retired(self.keyring, step.kid, self.policy, self.seen)
            case StepKind.FORGET:
                self.keyring = forgotten(self.keyring, step.kid)

    def sign(self) -> None:
        name = self.keyring.signing_key().verification_key.kid
        assert self.true - self.published[name] >= MAX_AGE + self.policy.refresh_hint
        dies = self.seen + self.policy.token_seconds + LEEWAY
        self.dies[name] = max(self.dies.get(name, 0), dies)

    def check(self) -> None:
        active = [key for key in self.keyring.keys if key.state is KeyState.ACTIVE]
        assert len(active) == 1
        verifying = {key.kid for key in self.keyring.verification_keys()}
        now = max(self.seen, self.true)
        assert {name for name, dies in self.dies.items() if dies >= now} <= verifying
        assert verifying <= {key.kid for key in self.keyring.published_keys()}


@pytest.mark.parametrize("hint", [0, 60, 3600])
def test_three_years_of_automatic_rotation(hint: int) -> None:
    source, world, ends = random.Random(3), World(), T + 3 * 365 * DAY
    world.use(replace(POLICY, refresh_hint=hint))
    changes = 0
    while world.true < ends:
        world.pass_time(source.randrange(60, 3000))
        world.sign()
        if source.random() < 0.001:
            lifetime = source.choice([600, 3600, DAY, 365 * DAY])
            world.use(replace(world.policy, token_seconds=lifetime))
            changes += 1
        world.check()
    assert world.made in range(35, 38)
    assert changes > 10
    assert len(world.keyring.keys) < 30


class Rotation(RuleBasedStateMachine):
    """Random events: steps by hand, other settings, a clock that steps back."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.set_right = 0

    def is_clock_sound(self) -> bool:
        return self.world.true - self.set_right > PUBLISH

    @rule(seconds=st.one_of(st.integers(1, 7200), st.integers(1, 40 * DAY)))
    def time_passes(self, seconds: int) -> None:
        # A server polls each second; what matters is that it polls while a mark is fresh.
        while seconds > 0:
            step = min(seconds, MARK_SECONDS if seconds < DAY else DAY)
            self.world.pass_time(step)
            seconds -= step

    @rule(seconds=st.integers(1, 400 * DAY))
    def clock_steps_back(self, seconds: int) -> None:
        self.world.set_clock(self.world.seen - seconds)

    @precondition(lambda self: self.world.seen < self.world.true)
    @rule()
    def clock_is_set_right(self) -> None:
        self.world.set_clock(self.world.true)
        self.set_right = self.world.true

    @rule()
    def a_token_is_signed(self) -> None:
        self.world.sign()

    @rule(seconds=st.sampled_from([600, 3600, DAY, 365 * DAY]), every=st.sampled_from([0, 1, 30]))
    def settings_change(self, seconds: int, every: int) -> None:
        policy = self.world.policy
        self.world.use(replace(policy, token_seconds=seconds, rotate_every=every * DAY))

    # A start relies on the clock as soon as a key is pending, rotation by hand always does: it must
    # not have been wrong a moment ago.
    @precondition(lambda self: self.is_clock_sound() or not self.world.is_any_pending())
    @rule(seconds=st.sampled_from([600, 3600, DAY, 365 * DAY]), every=st.sampled_from([0, 1, 30]))
    def server_restarts(self, seconds: int, every: int) -> None:
        policy = self.world.policy
        self.world.restart(replace(policy, token_seconds=seconds, rotate_every=every * DAY))

    @precondition(lambda self: self.is_clock_sound())
    @rule()
    def somebody_rotates(self) -> None:
        with contextlib.suppress(UnsafeStepError):
            self.world.take(requested_step(self.world.keyring, self.world.policy, self.world.seen))

    @rule(place=st.integers(0, 50))
    def somebody_retires(self, place: int) -> None:
        key = self.world.keyring.keys[place % len(self.world.keyring.keys)]
        try:
            self.world.keyring = retired(
                self.world.keyring, key.kid, self.world.policy, self.world.seen
            )
        except KeyScheduleError:
            assert key.state in (KeyState.ACTIVE, KeyState.VERIFY_ONLY)

    @invariant()
    def nothing_is_broken(self) -> None:
        self.world.check()


SIGNED_AFTER_A_JUMP: list[tuple[str, dict[str, int]]] = [
    ("clock_steps_back", {"seconds": 75000}),
    ("time_passes", {"seconds": 75600}),
    ("clock_is_set_right", {}),
    ("a_token_is_signed", {}),
]


@pytest.mark.parametrize(
    "events",
    [
        pytest.param(
            [
                *SIGNED_AFTER_A_JUMP,
                ("settings_change", {"every": 1, "seconds": 600}),
                ("time_passes", {"seconds": 15000}),
            ],
            id="shorter-lifetimes",
        ),
        pytest.param(
            [
                *SIGNED_AFTER_A_JUMP,
                ("server_restarts", {"every": 1, "seconds": 600}),
                ("time_passes", {"seconds": 15000}),
            ],
            id="shorter-lifetimes-after-a-restart",
        ),
    ],
)
def test_no_valid_token_loses_its_key(events: list[tuple[str, dict[str, int]]]) -> None:
    machine = Rotation()
    for event, arguments in events:
        getattr(machine, event)(**arguments)
        machine.nothing_is_broken()


TestRotation = Rotation.TestCase
TestRotation.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
