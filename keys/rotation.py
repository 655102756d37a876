"""When a key may take its next step, and the steps themselves; times are Unix seconds.

A key is pending (published, but not signing), then active, then verify-only, then retired.

Invariants:

1. A key signs only after it has been published for as long as anybody may go on with a JWKS
   without it; only the very first key signs at once.
2. A key is retired only after the last token that it signed has expired, by the longest lifetime
   that was granted while it was active.
3. No moment that is written down is before one that was written down earlier, and what is safe is
   judged by the clock as it is: one that steps back makes a wait longer, never shorter. That it has
   stepped forward nobody can tell from one look: ``keys.folder_watch`` can.
4. Only what is forced breaks 1 and 2, and nothing retires the active key.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from keys.errors import KeyScheduleError, UnsafeStepError
from keys.keyring import Keyring, KeyState, ScheduledKey
from keys.messages import utc

MARK_SECONDS: Final = 600
"""How far what is written down of the clock and of the last token's end may lag behind."""

PROPAGATION_SECONDS: Final = 1800
"""On top of the JWKS' max-age: for the lag above, for clocks of replicas that differ by 300 s, and
for servers that see a new key late, in a mounted Secret for example."""

MARGIN_SECONDS: Final = 3600
"""On top of a token's lifetime: for the lag above, for leeways of 300 s, and for servers that go on
signing for a moment because they see late that another key has taken over."""

FORGET_SECONDS: Final = 365 * 24 * 3600
"""How long a retired key stays on the list, so that a wrong step can be seen and taken back."""


@dataclass(frozen=True, slots=True)
class RotationPolicy:
    """How long a JWKS is cached, a token lives and a key signs at most; in seconds.

    ``token_seconds`` is of the settings in force. ``rotate_every`` 0 means that nothing happens by
    itself. ``algorithm`` is that of new keys; empty means the active key's.
    """

    jwks_max_age: int
    token_seconds: int
    rotate_every: int = 0
    algorithm: str = ""

    @property
    def publish_seconds(self) -> int:
        """How long a key is published before it signs."""
        return self.jwks_max_age + PROPAGATION_SECONDS

    @property
    def keep_seconds(self) -> int:
        """How long a key verifies after it has signed its last token."""
        return self.token_seconds + MARGIN_SECONDS


class StepKind(StrEnum):
    """What can be done to a keyring."""

    PUBLISH = "publish"
    ACTIVATE = "activate"
    RETIRE = "retire"
    FORGET = "forget"


@dataclass(frozen=True, slots=True)
class Step:
    """What to do, and to which key; for PUBLISH it has yet to be made."""

    kind: StepKind
    kid: str = ""


@dataclass(frozen=True, slots=True)
class NextStep:
    """The state that comes next for a key, from when on that is safe, and why not before.

    ``state`` is None where nothing comes, ``safe_from`` (Unix seconds) where time alone does not
    make it safe.
    """

    state: KeyState | None
    safe_from: int | None
    why: str


def next_step(keyring: Keyring, key: ScheduledKey, policy: RotationPolicy) -> NextStep:
    """Return what comes next for a key and when that is safe."""
    match key.state:
        case KeyState.PENDING:
            why = "clients that keep a JWKS from before it was published would refuse its tokens"
            return NextStep(KeyState.ACTIVE, key.since + policy.publish_seconds, why)
        case KeyState.ACTIVE:
            ready = [other.since + policy.publish_seconds for other in _pending(keyring)]
            why = "another key must have been published long enough to take over"
            return NextStep(KeyState.VERIFY_ONLY, min(ready, default=None), why)
        case KeyState.VERIFY_ONLY if key.until is None:
            why = "nothing tells when the last token that it signed expires"
            return NextStep(KeyState.RETIRED, None, why)
        case KeyState.VERIFY_ONLY:
            why = "tokens that it signed may still be alive"
            return NextStep(KeyState.RETIRED, key.until, why)
        case KeyState.RETIRED:
            return NextStep(None, None, "")


def due_step(keyring: Keyring, policy: RotationPolicy, now: int) -> Step | None:
    """Return what rotation by itself has to do now, one step at a time.

    Without an active key it does nothing: a folder that is not mounted looks like that too.
    """
    active = keyring.active
    if not policy.rotate_every or active is None:
        return None
    step = _run_out(keyring, now) or _forgettable(keyring, now)
    if step is not None:
        return step
    age, pending = now - active.since, _pending(keyring)
    if pending and age >= policy.rotate_every and _is_ready(pending[0], policy, now):
        return Step(StepKind.ACTIVATE, pending[0].kid)
    if not pending and age >= policy.rotate_every - policy.publish_seconds:
        return Step(StepKind.PUBLISH)
    return None


def step_by_hand(
    keyring: Keyring, policy: RotationPolicy, now: int, *, force: bool = False
) -> Step:
    """Return the one step that ``leeway keys rotate`` takes.

    Raises UnsafeStepError where all that is left is to activate a key too early, and that is not
    forced.
    """
    pending = _pending(keyring)
    if pending and (force or _is_ready(pending[0], policy, now)):
        return Step(StepKind.ACTIVATE, pending[0].kid)
    step = _run_out(keyring, now)
    if step is not None:
        return step
    if pending:
        _require_safe(keyring, pending[0], policy, now)
    return Step(StepKind.PUBLISH)


def activated(
    keyring: Keyring, kid: str, policy: RotationPolicy, now: int, *, force: bool = False
) -> Keyring:
    """Let a pending key sign, and the one that signed until now only verify.

    Raises UnsafeStepError where it is too early, KeyScheduleError for a key that is not pending.
    """
    key = keyring.key(kid)
    if key.state is not KeyState.PENDING:
        raise KeyScheduleError(f"key {kid} is {key.state}; only a pending key can become active")
    if not force:
        _require_safe(keyring, key, policy, now)
    moment = max(now, keyring.clock)
    until = moment + policy.keep_seconds
    keys = []
    for other in keyring.keys:
        if other.kid == kid:
            keys.append(replace(other, state=KeyState.ACTIVE, since=moment, until=until))
        elif other.state is KeyState.ACTIVE:
            last = max(other.until or 0, until)
            keys.append(
                ScheduledKey(other.verification_key, None, KeyState.VERIFY_ONLY, moment, last)
            )
        else:
            keys.append(other)
    return Keyring(tuple(keys), moment)


def retired(
    keyring: Keyring, kid: str, policy: RotationPolicy, now: int, *, force: bool = False
) -> Keyring:
    """Take a key out of use. A pending one has signed nothing, and may go at any time.

    Raises UnsafeStepError while a token that it signed may be alive, KeyScheduleError for the
    active key.
    """
    key = keyring.key(kid)
    if key.state is KeyState.ACTIVE:
        raise KeyScheduleError(
            f"key {kid} is active, and the active key is never retired; let another take over "
            "with `leeway keys rotate`"
        )
    if key.state is KeyState.RETIRED:
        return keyring
    if key.state is KeyState.VERIFY_ONLY and not force:
        _require_safe(keyring, key, policy, now)
    moment = max(now, keyring.clock)
    until = moment if key.state is KeyState.PENDING else key.until
    gone = ScheduledKey(key.verification_key, None, KeyState.RETIRED, moment, until)
    keys = tuple(gone if other.kid == kid else other for other in keyring.keys)
    return Keyring(keys, moment)


def forgotten(keyring: Keyring, kid: str) -> Keyring:
    """Take a retired key off the list. Raises KeyScheduleError for any other."""
    if keyring.key(kid).state is not KeyState.RETIRED:
        raise KeyScheduleError(f"key {kid} is in use; retire it first")
    return replace(keyring, keys=tuple(key for key in keyring.keys if key.kid != kid))


def noted(keyring: Keyring, policy: RotationPolicy, now: int) -> Keyring:
    """Write the time down, and when the last token expires that the active key may have signed."""
    moment = max(now, keyring.clock)
    until = moment + policy.keep_seconds
    keys = tuple(
        replace(key, until=max(key.until or 0, until)) if key.state is KeyState.ACTIVE else key
        for key in keyring.keys
    )
    return Keyring(keys, moment)


def is_note_due(keyring: Keyring, policy: RotationPolicy, now: int) -> bool:
    """Return whether what is written down lags too far behind.

    To be asked, and acted on, before the first token is signed under other settings.
    """
    active = keyring.active
    if active is None:
        return False
    until = max(now, keyring.clock) + policy.keep_seconds
    lags = active.until is None or until - active.until >= MARK_SECONDS
    return lags or now - keyring.clock >= MARK_SECONDS


def what_breaks(key: ScheduledKey, policy: RotationPolicy, now: int) -> str:
    """Return in a sentence what the next step of a key breaks now, nothing where it is safe."""
    if key.state is KeyState.PENDING and not _is_ready(key, policy, now):
        safe = utc(key.since + policy.publish_seconds)
        return (
            f"until {safe} clients that keep an older JWKS may refuse the tokens of key {key.kid}"
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


def signing_key_age(keyring: Keyring, now: float) -> float:
    """Return for how many seconds the active key has been signing; 0 where none is active."""
    return max(0.0, now - keyring.active.since) if keyring.active else 0.0


def _pending(keyring: Keyring) -> Sequence[ScheduledKey]:
    """Return the keys that wait and could sign, the one published first at the front."""
    pending = [key for key in keyring.keys if key.state is KeyState.PENDING and key.signing_key]
    return sorted(pending, key=lambda key: key.since)


def _is_ready(key: ScheduledKey, policy: RotationPolicy, now: int) -> bool:
    return now - key.since >= policy.publish_seconds


def _run_out(keyring: Keyring, now: int) -> Step | None:
    for key in keyring.keys:
        if key.state is KeyState.VERIFY_ONLY and key.until is not None and now >= key.until:
            return Step(StepKind.RETIRE, key.kid)
    return None


def _forgettable(keyring: Keyring, now: int) -> Step | None:
    for key in keyring.keys:
        # One without an end was brought here by somebody, who may want the file back.
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
        text = f"it is not known from when key {key.kid} may {doing}: {step.why}"
    else:
        text = f"key {key.kid} may {doing} from {utc(step.safe_from)} on; before that {step.why}"
    raise UnsafeStepError(f"{text}; wait, or do it all the same with --force", step.safe_from)
