"""Changes the signing keys of a store: adds keys, and takes the steps of ``keys.rotation``.

Any number of processes of any replicas can call these functions at any time.

Invariants:

1. A change is one transaction, decided on the state that it is written on; a step is taken once. A
   key that lost to another process was never stored.
2. The first key is made in the same transaction in which there is no schedule.
3. Nothing is decided on a schedule that is not authentic, or is older than one that was seen.
4. The recorded clock moves by no more than ``Caution.ahead`` allows, and no step is taken beyond:
   a wrong clock neither retires keys nor pins every later moment to its own.
5. A schedule that nobody has kept for longer than any token lives was restored, or this clock is
   wrong: it is not changed before somebody accepts it, unless this process has followed it.
6. A step that makes or activates a key by itself waits until all live replicas can decrypt it.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final

from keys.encryption import EncryptionKeys
from keys.errors import KeyScheduleError, RestoredScheduleError, UnsafeStepError
from keys.jws import SigningKey
from keys.keyring import Keyring, KeyState, ScheduledKey
from keys.messages import counted, utc
from keys.pem import generate_signing_key
from keys.rotation import (
    MARK_SECONDS,
    KeyChange,
    RotationPolicy,
    Step,
    StepKind,
    activated,
    are_times_outdated,
    due_step,
    forgotten,
    requested_step,
    require_allowed,
    retired,
    what_breaks,
    with_times,
)
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreUnavailableError
from webhook.rbac.records import Record
from webhook.rbac.state import AuthState
from webhook.store_keys.contents import (
    Sealed,
    StoredKeys,
    Vault,
    changed_records,
    encryption_keys_in_use,
    read_keys,
)
from webhook.store_keys.replicas import live_by_wall, replicas_of, unable
from webhook.store_keys.seen import SeenFile

CLOCK_AHEAD_SECONDS: Final = 2 * MARK_SECONDS
"""How far a clock can be ahead of the recorded one where nothing else is known (invariant 4)."""
NO_KEYS: Final = (
    "the store has no signing keys; make one with `leeway keys generate`, or bring those of the "
    "folder with `leeway keys move --to etcd`"
)
RESTORED_VERSIONS: Final = 1 << 20
"""Added to the version of a schedule that is accepted, to pass every version that was seen."""


@dataclass(frozen=True, slots=True)
class KeyStore:
    """A store, the encryption keys for its signing keys, and what was seen of them."""

    store: AuthStore
    encryption: EncryptionKeys
    seen: SeenFile

    def vault(self) -> Vault:
        """Return the encryption keys, for the store that is open."""
        return Vault(self.store.backend.store_id, self.encryption)

    def proof(self) -> float:
        """Return the CLOCK_BOOTTIME as of which the state in use has everything acknowledged."""
        try:
            return self.store.backend.proven(self.store.state.revision)
        except StoreUnavailableError:
            return -inf

    def read(self, sealed: Sealed) -> StoredKeys | None:
        """Read and check the keys (invariant 3). Raises InvalidKeyError."""
        vault = self.vault()
        stored = read_keys(sealed, vault)
        self.seen.check(vault.store_id, stored)
        return stored

    def present(self) -> StoredKeys:
        """Return the keys of the state in use. Raises InvalidKeyError, also if there are none."""
        return _required(self.read(sealed_of(self.store.state)))


@dataclass(frozen=True, slots=True)
class Caution:
    """How far a process trusts its clock and its view of the store.

    ``ahead`` returns by how many seconds the clock can be ahead of the recorded one of a version.
    ``clock`` (Unix seconds) is recorded, if that is not None; it can differ from the clock that
    steps go by while those of replicas disagree. ``gone`` are the ids of replicas that are not
    live. ``is_followed`` is whether the process has followed the schedule since it was fresh.
    """

    ahead: Callable[[int], int]
    clock: int | None
    gone: Collection[str] = ()
    is_followed: bool = False

    def is_late(self, keyring: Keyring, policy: RotationPolicy, now: int) -> bool:
        """Return whether the recorded times lag too far behind."""
        lags = self.clock is not None and self.clock - keyring.clock >= MARK_SECONDS
        return lags or are_times_outdated(keyring, policy, now, held=True)


@dataclass(slots=True)
class Taken:
    """What ``advance`` has done. ``waiting`` is why a step that is due was not taken."""

    keyring: Keyring = field(default_factory=Keyring)
    steps: list[Step] = field(default_factory=list)
    waiting: str = ""


class _KeyNeededError(Exception):
    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm


def sealed_of(state: AuthState) -> Sealed:
    """Return the records about signing keys as of one moment."""
    with state.lock:
        return dict(state.sealed)


def first_key_records(sealed: Sealed, vault: Vault, key: SigningKey, now: int) -> list[Record]:
    """Return the records of the first key, which is active (invariant 2).

    Raises KeyScheduleError if there is a schedule.
    """
    if read_keys(sealed, vault) is not None:
        raise KeyScheduleError("the store has signing keys; `leeway keys list` shows them")
    return changed_records(Keyring().with_new_key(key, now), None, sealed, vault)


def generate_key(
    keys: KeyStore, algorithm: str, policy: RotationPolicy, now: int, *, force: bool = False
) -> ScheduledKey:
    """Make a key and return it; it is active if it is the first one, else pending.

    Raises UnsafeStepError for a clock that may be wrong, without ``force``, InvalidKeyError, and
    the errors of ``AuthStore.change``.
    """
    key = generate_signing_key(algorithm)
    made: list[ScheduledKey] = []

    def decide(state: AuthState) -> list[Record]:
        sealed, vault = sealed_of(state), keys.vault()
        stored = keys.read(sealed)
        if stored is not None:
            _require_usable(stored, policy, now, force=force)
        keyring = (stored.keyring if stored else Keyring()).with_new_key(key, now)
        made[:] = [keyring.key(key.verification_key.kid)]
        return changed_records(keyring, stored, sealed, vault)

    keys.store.change(decide)
    return made[0]


def advance(
    keys: KeyStore,
    policy: RotationPolicy,
    clock: Callable[[], int],
    caution: Caution,
    *,
    held: bool = False,
) -> Taken:
    """Update the recorded times if they lag behind, and take the steps that are due.

    ``clock`` is read for each decision: the one before may have waited for other processes. While
    steps are ``held``, only the times are updated. Raises InvalidKeyError, and the errors of
    ``AuthStore.change``.
    """
    taken = Taken()
    spare: list[SigningKey] = []

    def decide(state: AuthState) -> list[Record]:
        sealed = sealed_of(state)
        stored = _required(keys.read(sealed))
        now = clock()
        _require_here(stored)
        if not caution.is_followed:
            require_kept(stored.keyring, policy, now)
        draft = _Draft(stored.keyring, spare)
        taken.steps.clear()
        taken.waiting = ""
        latest = stored.keyring.clock + caution.ahead(stored.version)  # Invariant 4.
        if caution.is_late(draft.keyring, policy, now):
            moment = latest if caution.clock is None else min(latest, caution.clock)
            no_note = caution.clock is None
            draft.keyring = with_times(draft.keyring, policy, now, held=no_note, latest=moment)
        may_step = not held and now <= latest and not stored.unopened
        while may_step and (step := due_step(draft.keyring, policy, now)) is not None:
            taken.waiting = _waits_for(step, stored, sealed, keys, caution.gone)
            if taken.waiting:
                break
            taken.steps.append(draft.take(step, policy, now))
        taken.keyring = draft.keyring
        if draft.keyring == stored.keyring:
            return []
        return changed_records(draft.keyring, stored, sealed, keys.vault())

    _change(keys, decide, spare)
    return taken


def rotate(keys: KeyStore, policy: RotationPolicy, now: int, *, force: bool = False) -> KeyChange:
    """Take one step on request. Raises UnsafeStepError, and the errors of ``advance``."""
    changed = KeyChange(Keyring())
    spare: list[SigningKey] = []

    def decide(state: AuthState) -> list[Record]:
        nonlocal changed
        sealed = sealed_of(state)
        stored = _required(keys.read(sealed))
        is_ahead = _require_usable(stored, policy, now, force=force)
        # Where the clock alone needs force, a step that is not safe yet is still not taken.
        step = requested_step(stored.keyring, policy, now, force=force and not is_ahead)
        if not force:
            gone = replicas_of(sealed).keys() - live_by_wall(replicas_of(sealed), now)
            waits = _waits_for(step, stored, sealed, keys, gone)
            if waits:
                raise UnsafeStepError(f"{waits}; wait, or use --force", None)
        changed, records = _taken(keys, stored, sealed, step, policy, now, spare, force=force)
        return records

    _change(keys, decide, spare)
    return changed


def retire(
    keys: KeyStore, kid: str, policy: RotationPolicy, now: int, *, force: bool = False
) -> KeyChange:
    """Retire a key; nothing happens if it is retired.

    Raises UnsafeStepError, and the errors of ``advance``.
    """
    changed = KeyChange(Keyring())

    def decide(state: AuthState) -> list[Record]:
        nonlocal changed
        sealed = sealed_of(state)
        stored = _required(keys.read(sealed))
        _require_here(stored)
        if stored.keyring.key(kid).state is KeyState.RETIRED:
            changed = KeyChange(stored.keyring)
            return []
        _require_usable(stored, policy, now, force=force)
        step = Step(StepKind.RETIRE, kid)
        changed, records = _taken(keys, stored, sealed, step, policy, now, [], force=force)
        return records

    keys.store.change(decide)
    return changed


def reencrypt(keys: KeyStore, now: int, *, force: bool = False) -> StoredKeys:
    """Encrypt and authenticate everything with the first encryption key; return the keys before.

    Raises UnsafeStepError if a live replica lacks that key, without ``force``, InvalidKeyError, and
    the errors of ``AuthStore.change``.
    """
    found: list[StoredKeys] = []

    def decide(state: AuthState) -> list[Record]:
        sealed = sealed_of(state)
        stored = _required(keys.read(sealed))
        for error in stored.unopened.values():
            raise error
        first = keys.encryption.first.id
        replicas = replicas_of(sealed)
        lacking = _lacking(unable(replicas, live_by_wall(replicas, now), [first]))
        if lacking and not force:
            raise UnsafeStepError(
                f"{lacking}, and could not use the keys; wait, or use --force", None
            )
        found[:] = [stored]
        used = {stored.key_id, *encryption_keys_in_use(stored, sealed).values()}
        if used == {first}:
            return []
        return changed_records(
            stored.keyring,
            stored,
            sealed,
            keys.vault(),
            moved_to=stored.moved_to,
            reencrypt=True,
        )

    keys.store.change(decide)
    return found[0]


def accept(keys: KeyStore, now: int) -> StoredKeys:
    """Use a schedule that was restored, from now on; return the keys as they were.

    A pending key counts as published from now on. Raises InvalidKeyError for a schedule that is not
    authentic, and the errors of ``AuthStore.change``.
    """
    found: list[StoredKeys] = []

    def decide(state: AuthState) -> list[Record]:
        sealed, vault = sealed_of(state), keys.vault()
        stored = _required(read_keys(sealed, vault))
        seen = [replica.version for replica in replicas_of(sealed).values()]
        version = max(stored.version, keys.seen.seen.version, *seen) + RESTORED_VERSIONS
        clock = max(now, stored.keyring.clock)
        # Nothing shows that a pending key was listed since the backup: it waits again.
        waiting = tuple(
            replace(key, since=clock, published=None) if key.state is KeyState.PENDING else key
            for key in stored.keyring.keys
        )
        keyring = Keyring(waiting, clock, stored.keyring.refusal)
        found[:] = [stored]
        return changed_records(
            keyring, stored, sealed, vault, version=version, moved_to=stored.moved_to
        )

    keys.store.change(decide)
    stored = _required(read_keys(sealed_of(keys.store.state), keys.vault()))
    keys.seen.accept(keys.vault().store_id, stored)
    return found[0]


def require_kept(keyring: Keyring, policy: RotationPolicy, now: int) -> None:
    """Raise RestoredScheduleError for a schedule that nobody has kept (invariant 5)."""
    if now - keyring.clock > policy.keep_seconds:
        raise RestoredScheduleError(
            f"the schedule of the signing keys was kept until {utc(keyring.clock)}, longer ago "
            "than a token lives: the store was restored, no server has run, or this clock is "
            "wrong; look at the keys with `leeway keys list`, and if they may be used again, run "
            "`leeway keys accept --restored`"
        )


def _change(
    keys: KeyStore, decide: Callable[[AuthState], list[Record]], spare: list[SigningKey]
) -> None:
    """Change the store. A key is made beforehand: that takes long, and decisions hold a lock."""
    while True:
        try:
            keys.store.change(decide)
            return
        except _KeyNeededError as needed:
            spare[:] = [generate_signing_key(needed.algorithm)]


def _taken(
    keys: KeyStore,
    stored: StoredKeys,
    sealed: Sealed,
    step: Step,
    policy: RotationPolicy,
    now: int,
    spare: list[SigningKey],
    *,
    force: bool,
) -> tuple[KeyChange, list[Record]]:
    broken = ""
    key = stored.keyring.key(step.kid) if step.kid else None
    # A pending key can be retired without breaking anything.
    if key and (step.kind is StepKind.ACTIVATE or key.state is not KeyState.PENDING):
        broken = what_breaks(key, policy, now)
    draft = _Draft(stored.keyring, spare)
    step = draft.take(step, policy, now, force=force)
    records = changed_records(draft.keyring, stored, sealed, keys.vault())
    return KeyChange(draft.keyring, (step,), broken), records


class _Draft:
    """A keyring that changes step by step. ``spare`` is a key that was made in advance."""

    def __init__(self, keyring: Keyring, spare: list[SigningKey]) -> None:
        self.keyring = keyring
        self._spare = spare

    def take(self, step: Step, policy: RotationPolicy, now: int, *, force: bool = False) -> Step:
        """Take a step, and return it with its key."""
        match step.kind:
            case StepKind.PUBLISH:
                key = self._new_key(policy)
                self.keyring = self.keyring.with_new_key(key, now)
                return Step(step.kind, key.verification_key.kid)
            case StepKind.ACTIVATE:
                self.keyring = activated(self.keyring, step.kid, policy, now, force=force)
            case StepKind.RETIRE:
                self.keyring = retired(self.keyring, step.kid, policy, now, force=force)
            case StepKind.FORGET:
                self.keyring = forgotten(self.keyring, step.kid)
        return step

    def _new_key(self, policy: RotationPolicy) -> SigningKey:
        active = self.keyring.active
        algorithm = policy.algorithm or (active.verification_key.algorithm if active else "RS256")
        require_allowed(algorithm, policy)
        if not self._spare or self._spare[0].verification_key.algorithm != algorithm:
            raise _KeyNeededError(algorithm)
        return self._spare[0]


def _waits_for(
    step: Step, stored: StoredKeys, sealed: Sealed, keys: KeyStore, gone: Collection[str]
) -> str:
    """Return which replicas a step waits for, because they could not decrypt (invariant 6)."""
    if step.kind is StepKind.PUBLISH:
        needed = [keys.encryption.first.id]
    elif step.kind is StepKind.ACTIVATE:
        needed = [encryption_keys_in_use(stored, sealed)[step.kid]]
    else:
        return ""
    replicas = replicas_of(sealed)
    lacking = _lacking(unable(replicas, replicas.keys() - set(gone), needed))
    return lacking and f"the step {step.kind.value} waits: {lacking}"


def _lacking(found: dict[str, list[str]]) -> str:
    if not found:
        return ""
    name, missing = next(iter(found.items()))
    names = f"{name}, …" if len(found) > 1 else name
    return (
        f"{counted(len(found), 'replica')} ({names}) cannot decrypt with the encryption key "
        f"{', '.join(missing)}"
    )


def _required(stored: StoredKeys | None) -> StoredKeys:
    if stored is None:
        raise KeyScheduleError(NO_KEYS)
    return stored


def _require_here(stored: StoredKeys) -> None:
    if stored.moved_to:
        raise KeyScheduleError(stored.keyring.refusal)


def _require_usable(stored: StoredKeys, policy: RotationPolicy, now: int, *, force: bool) -> bool:
    """Check a request on the store's keys; return whether only force allows this clock."""
    _require_here(stored)
    require_kept(stored.keyring, policy, now)  # Invariant 5.
    clock = stored.keyring.clock
    if now <= clock + CLOCK_AHEAD_SECONDS:
        return False
    if not force:
        raise UnsafeStepError(
            f"this clock is at {utc(now)}, and the schedule was last kept at {utc(clock)}: either "
            "no server has run since, or this clock is wrong; if it is right, use --force",
            None,
        )
    return True
