"""The steps of signing keys, and when each is safe; times are Unix seconds.

A key is pending (published, but not signing), then active, then verify-only, then retired.

Invariants:

1. A key signs only after it was published for as long as clients can use a JWKS without it, and
   the API servers that a signer signs for can go without fetching it. Only the first key signs
   immediately.
2. A key is retired only after the last token that it signed has expired, by the longest lifetime
   that was granted while it was active.
3. Recorded times never decrease, and safety is judged by the present clock: if it is set back, a
   wait becomes longer, never shorter. ``keys.folder_watch`` notices if it is set forward.
4. Only a forced step can break 1 and 2, and no step retires the active key.
5. No step makes or activates a key of an algorithm that is not allowed, or activates one that is
   refused.

>>> from keys.pem import generate_signing_key
>>> policy = RotationPolicy(jwks_max_age=3600, token_seconds=3600, rotate_every=86400)
>>> keyring = Keyring().with_new_key(generate_signing_key("ES256"), 0)
>>> due_step(keyring, policy, now=81000)
Step(kind=<StepKind.PUBLISH: 'publish'>, kid='')
>>> keyring = keyring.with_new_key(generate_signing_key("ES256"), 81000)
>>> [key.state.value for key in keyring.keys]
['active', 'pending']
>>> due_step(keyring, policy, now=86399), due_step(keyring, policy, now=86400).kind.value
(None, 'activate')
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from keys.errors import KeyScheduleError, UnsafeStepError
from keys.keyring import Keyring, KeyState, ScheduledKey
from keys.messages import utc
from keys.pem import ALGORITHMS

MARK_SECONDS: Final = 600
"""How far the recorded clock and the end of the last token can lag behind."""

PROPAGATION_SECONDS: Final = 1800
"""Added to the JWKS' max-age: for the lag above, for clocks of replicas that differ by 300 s, and
for servers that see a new key late, for example in a mounted Secret."""

MARGIN_SECONDS: Final = 3600
"""Added to a token's lifetime: for the lag above, for leeways of 300 s, and for servers that see
late that another key has become active, and continue to sign for a moment."""

FORGET_SECONDS: Final = 365 * 24 * 3600
"""How long a retired key stays on the list, so that a wrong step can be noticed and undone."""


@dataclass(frozen=True, slots=True)
class RotationPolicy:
    """How long a JWKS is cached, a token lives and a key signs at most; in seconds.

    With ``rotate_every`` 0 there is no automatic rotation. ``algorithm`` is that of new keys; empty
    means the active key's. Where a signer signs for API servers, ``refresh_hint`` is how often
    they fetch the keys, and ``algorithms`` are those of the keys that they accept. The keys with
    the kids ``refused`` neither sign nor verify.
    """

    jwks_max_age: int
    token_seconds: int
    rotate_every: int = 0
    algorithm: str = ""
    refresh_hint: int = 0
    algorithms: tuple[str, ...] = ALGORITHMS
    refused: frozenset[str] = frozenset()

    @property
    def publish_seconds(self) -> int:
        """How long a key is published before it signs.

        An API server's own JWKS lags behind by up to ``refresh_hint`` when a client fetches it.
        """
        return self.jwks_max_age + self.refresh_hint + PROPAGATION_SECONDS

    @property
    def keep_seconds(self) -> int:
        """How long a key verifies after it has signed its last token."""
        return self.token_seconds + MARGIN_SECONDS


class StepKind(StrEnum):
    """The kinds of steps."""

    PUBLISH = "publish"
    ACTIVATE = "activate"
    RETIRE = "retire"
    FORGET = "forget"


@dataclass(frozen=True, slots=True)
class Step:
    """A step and its key; the key of PUBLISH has yet to be made."""

    kind: StepKind
    kid: str = ""


@dataclass(frozen=True, slots=True)
class NextStep:
    """The next state of a key, since when it is safe, and why not earlier.

    ``state`` is None for no next state, ``safe_from`` if that does not depend on time alone.
    """

    state: KeyState | None
    safe_from: int | None
    why: str


def next_step(keyring: Keyring, key: ScheduledKey, policy: RotationPolicy) -> NextStep:
    """Return the next state of a key and when it is safe."""
    match key.state:
        case KeyState.PENDING if not _is_allowed(key, policy):
            return NextStep(KeyState.RETIRED, key.since, "it has signed nothing")
        case KeyState.PENDING:
            why = "clients that keep a JWKS from before it was published would refuse its tokens"
            return NextStep(KeyState.ACTIVE, key.since + policy.publish_seconds, why)
        case KeyState.ACTIVE:
            ready = [other.since + policy.publish_seconds for other in _pending(keyring, policy)]
            why = "another key must have been published long enough to take over"
            return NextStep(KeyState.VERIFY_ONLY, min(ready, default=None), why)
        case KeyState.VERIFY_ONLY if key.until is None:
            why = "nothing shows when the last token that it signed expires"
            return NextStep(KeyState.RETIRED, None, why)
        case KeyState.VERIFY_ONLY:
            why = "tokens that it signed may still be valid"
            return NextStep(KeyState.RETIRED, key.until, why)
        case KeyState.RETIRED:
            return NextStep(None, None, "")


def due_step(keyring: Keyring, policy: RotationPolicy, now: int) -> Step | None:
    """Return the next step of automatic rotation that is due, or None.

    Without an active key nothing is due, because a folder that is not mounted looks the same.
    """
    active = keyring.active
    if not policy.rotate_every or active is None:
        return None
    step = _run_out(keyring, now) or _forgettable(keyring, now)
    if step is not None:
        return step
    age, pending = now - active.since, _pending(keyring, policy)
    if pending and age >= policy.rotate_every and _is_ready(pending[0], policy, now):
        return Step(StepKind.ACTIVATE, pending[0].kid)
    if not pending and age >= policy.rotate_every - policy.publish_seconds:
        return Step(StepKind.PUBLISH)
    return None


def requested_step(
    keyring: Keyring, policy: RotationPolicy, now: int, *, force: bool = False
) -> Step:
    """Return the step that ``leeway keys rotate`` takes.

    Raises UnsafeStepError if the only step is to activate a key too early, without ``force``.
    """
    pending = _pending(keyring, policy)
    if pending and (force or _is_ready(pending[0], policy, now)):
        return Step(StepKind.ACTIVATE, pending[0].kid)
    step = _run_out(keyring, now)
    if step is not None:
        return step
    if pending:
        _require_safe(keyring, pending[0], policy, now)
    return Step(StepKind.PUBLISH)


@dataclass(frozen=True, slots=True)
class KeyChange:
    """The keys after a change, and the steps that were taken, each with its key.

    ``broken`` is what a forced step has broken, empty for nothing.
    """

    keyring: Keyring
    steps: tuple[Step, ...] = ()
    broken: str = ""


def activated(
    keyring: Keyring, kid: str, policy: RotationPolicy, now: int, *, force: bool = False
) -> Keyring:
    """Return a keyring in which a pending key is active, and the active one is verify-only.

    Raises UnsafeStepError if it is too early, KeyScheduleError for a key that is not pending.
    """
    key = keyring.key(kid)
    if key.state is not KeyState.PENDING:
        raise KeyScheduleError(f"key {kid} is {key.state}; only a pending key can become active")
    require_allowed(key.verification_key.algorithm, policy)  # Invariant 5.
    if kid in policy.refused:
        raise KeyScheduleError(
            f"key {kid} cannot become active, because keys.refused in leeway.yaml names it"
        )
    if not force:
        _require_safe(keyring, key, policy, now)  # Invariant 1.
    moment = max(now, keyring.clock)  # Invariant 3.
    until = moment + policy.keep_seconds
    keys = []
    for other in keyring.keys:
        if other.kid == kid:
            active = replace(other, state=KeyState.ACTIVE, since=moment, until=until)
            keys.append(replace(active, published=_published(other, policy)))
        elif other.state is KeyState.ACTIVE:
            last = max(other.until or 0, until)
            public, published = other.verification_key, _published(other, policy)
            keys.append(ScheduledKey(public, None, KeyState.VERIFY_ONLY, moment, last, published))
        else:
            keys.append(other)
    return Keyring(tuple(keys), moment)


def retired(
    keyring: Keyring, kid: str, policy: RotationPolicy, now: int, *, force: bool = False
) -> Keyring:
    """Return a keyring in which a key is retired.

    Raises UnsafeStepError while a token that the key signed can be valid, KeyScheduleError for the
    active key. A pending key has signed nothing, and can be retired at any time.
    """
    key = keyring.key(kid)
    if key.state is KeyState.ACTIVE:  # Invariant 4.
        raise KeyScheduleError(
            f"key {kid} is active, and the active key is never retired; let another take over "
            "with `leeway keys rotate`"
        )
    if key.state is KeyState.RETIRED:
        return keyring
    if key.state is KeyState.VERIFY_ONLY and not force:
        _require_safe(keyring, key, policy, now)  # Invariant 2.
    moment = max(now, keyring.clock)
    until = moment if key.state is KeyState.PENDING else key.until
    gone = ScheduledKey(key.verification_key, None, KeyState.RETIRED, moment, until)
    keys = tuple(gone if other.kid == kid else other for other in keyring.keys)
    return replace(keyring, keys=keys, clock=moment)


def forgotten(keyring: Keyring, kid: str) -> Keyring:
    """Return a keyring without a retired key. Raises KeyScheduleError for any other."""
    if keyring.key(kid).state is not KeyState.RETIRED:
        raise KeyScheduleError(f"key {kid} is in use; retire it first")
    return replace(keyring, keys=tuple(key for key in keyring.keys if key.kid != kid))


def with_times(
    keyring: Keyring,
    policy: RotationPolicy,
    now: int,
    *,
    held: bool = False,
    latest: int | None = None,
) -> Keyring:
    """Record the time, and when the last token that the active key can have signed expires.

    While steps are ``held`` because the clock may be wrong, the time is not recorded. It is not
    recorded as later than ``latest``, if that is given.
    """
    moment = max(now, keyring.clock)
    until = moment + policy.keep_seconds
    keys = tuple(
        replace(key, until=max(key.until or 0, until)) if key.state is KeyState.ACTIVE else key
        for key in keyring.keys
    )
    if latest is not None:
        moment = max(keyring.clock, min(moment, latest))
    return replace(keyring, keys=keys, clock=keyring.clock if held else moment)


def are_times_outdated(
    keyring: Keyring, policy: RotationPolicy, now: int, *, held: bool = False
) -> bool:
    """Return whether the times that ``with_times`` records lag too far behind.

    To be checked before the first token is signed under other settings.
    """
    active = keyring.active
    if active is None:
        return False
    until = max(now, keyring.clock) + policy.keep_seconds
    lags = active.until is None or until - active.until >= MARK_SECONDS
    return lags or (not held and now - keyring.clock >= MARK_SECONDS)


def what_breaks(key: ScheduledKey, policy: RotationPolicy, now: int) -> str:
    """Return a sentence on what the next step of a key breaks now, empty if it is safe."""
    # A key of an algorithm that is not allowed never signs.
    waits = key.state is KeyState.PENDING and _is_allowed(key, policy)
    if waits and not _is_ready(key, policy, now):
        safe = utc(key.since + policy.publish_seconds)
        # kubernetes ``pkg/serviceaccount/externaljwt/plugin/keycache.go``, GetPublicKeys
        fetches = "; kube-apiserver fetches the keys when it sees an unknown kid"
        return (
            f"until {safe} clients that keep an older JWKS may refuse the tokens of key {key.kid}"
            f"{fetches if policy.refresh_hint else ''}"
        )
    if key.state is KeyState.VERIFY_ONLY and key.until is None:
        return f"every token signed with key {key.kid} is refused from now on"
    if key.state is KeyState.VERIFY_ONLY and now < (key.until or 0):
        last = utc(key.until or 0)
        return (
            f"tokens signed with key {key.kid} are refused from now on, and some may have been "
            f"good until {last}"
        )
    return ""


def require_allowed(algorithm: str, policy: RotationPolicy) -> None:
    """Raise KeyScheduleError for the algorithm of a key that must not sign."""
    if algorithm not in policy.algorithms:
        raise KeyScheduleError(
            f"a key for {algorithm} cannot sign here, because kube-apiserver accepts none from "
            f"`leeway signer`; {', '.join(policy.algorithms)} are allowed, with `leeway keys "
            "generate --algorithm`, or any after the section signer is removed from leeway.yaml"
        )


def signing_key_age(keyring: Keyring, now: float) -> float:
    """Return for how many seconds the active key has been signing; 0 if none is active."""
    return max(0.0, now - keyring.active.since) if keyring.active else 0.0


def _pending(keyring: Keyring, policy: RotationPolicy) -> Sequence[ScheduledKey]:
    """Return the pending keys that can sign, the one published first at the front."""
    pending = [
        key
        for key in keyring.keys
        if key.state is KeyState.PENDING and key.signing_key and _is_allowed(key, policy)
    ]
    return sorted(pending, key=lambda key: key.since)


def _published(key: ScheduledKey, policy: RotationPolicy) -> int | None:
    """Return since when a key is published, if a signer needs to know.

    Leeway before there was a signer does not read a schedule that says so.
    """
    return key.published_since if policy.refresh_hint else key.published


def _is_allowed(key: ScheduledKey, policy: RotationPolicy) -> bool:
    return key.verification_key.algorithm in policy.algorithms and key.kid not in policy.refused


def _is_ready(key: ScheduledKey, policy: RotationPolicy, now: int) -> bool:
    return now - key.since >= policy.publish_seconds


def _run_out(keyring: Keyring, now: int) -> Step | None:
    for key in keyring.keys:
        if key.state is KeyState.VERIFY_ONLY and key.until is not None and now >= key.until:
            return Step(StepKind.RETIRE, key.kid)
    return None


def _forgettable(keyring: Keyring, now: int) -> Step | None:
    for key in keyring.keys:
        # A key without an end was copied here, and its file can still be wanted.
        old = key.until is not None and now - max(key.since, key.until) > FORGET_SECONDS
        if key.state is KeyState.RETIRED and old:
            return Step(StepKind.FORGET, key.kid)
    return None


def _require_safe(keyring: Keyring, key: ScheduledKey, policy: RotationPolicy, now: int) -> None:
    step = next_step(keyring, key, policy)
    if not what_breaks(key, policy, now):
        return
    doing = "sign" if step.state is KeyState.ACTIVE else "be retired"
    if step.safe_from is None:
        text = f"it is not known when key {key.kid} may {doing}: {step.why}"
    else:
        text = f"key {key.kid} may {doing} from {utc(step.safe_from)} on; before that {step.why}"
    raise UnsafeStepError(f"{text}; wait, or use --force", step.safe_from)
