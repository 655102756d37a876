"""Follows the signing keys of a store in a thread, and rotates them when a step is due.

Invariants:

1. The keys in use are those of a schedule that this process could check. One that it cannot check,
   or that may not be used, changes nothing but this: nothing is signed, and ``problem`` says why.
2. A schedule that nobody has kept is refused when it is first seen. One that was fresh then, and
   was followed since, was not restored: the versions after it are greater.
3. What depends on the clock waits for ``ClockGuard``. Meanwhile keys sign, so the end of their
   tokens is still recorded.

Each worker of every replica has a watcher. The first to commit takes a step; the others decide
again, and find nothing due.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from math import inf
from threading import Lock
from time import CLOCK_BOOTTIME, clock_gettime, monotonic, time
from typing import Final

from keys.errors import KeysError
from keys.file_watch import PeriodicThread
from keys.keyring import Keyring
from keys.rotation import RotationPolicy, Step, StepKind, due_step
from webhook.errors import LeewayError
from webhook.rbac.errors import StoreLockedError, StoreUnavailableError
from webhook.rbac.records import REPLICA, Record
from webhook.rbac.state import AuthState
from webhook.store_keys.changes import NO_KEYS, KeyStore, advance, require_kept, sealed_of
from webhook.store_keys.clock_guard import ClockGuard, Moment
from webhook.store_keys.contents import Sealed, StoredKeys
from webhook.store_keys.replicas import Replica, replica_record, replicas_of

# The state is in memory, so that a poll without news is cheap.
_POLL_SECONDS: Final = 0.25
_FIRST_LOAD_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 60.0
# How many records of replicas that are gone are removed at once.
_MOST_GONE: Final = 100
# The clocks of others are compared only on a state that is proven to be younger.
_FRESH_SECONDS: Final = 10.0
_DONE: Final = {
    StepKind.PUBLISH: "was made and is published",
    StepKind.ACTIVATE: "signs from now on",
    StepKind.RETIRE: "is retired",
    StepKind.FORGET: "is forgotten",
}
_logger = logging.getLogger("leeway")
_audit_logger = logging.getLogger("leeway.audit")


def boottime() -> float:
    """Return the seconds of CLOCK_BOOTTIME, in which the proofs of a store are."""
    return clock_gettime(CLOCK_BOOTTIME)


class StoreKeyWatcher:
    """The present signing keys of a store; see ``keys.watching.KeyWatcher``.

    Nothing is written to the store before ``start`` or ``poll``. ``refresh`` is called by each
    poll, for a process in which nothing else keeps the store fresh. ``clock`` returns Unix seconds,
    ``steady`` seconds that never jump, ``boot`` those of CLOCK_BOOTTIME.
    """

    def __init__(
        self,
        keys: KeyStore,
        policy: RotationPolicy,
        on_change: Callable[[Keyring], None] = lambda _keyring: None,
        *,
        refresh: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time,
        steady: Callable[[], float] = monotonic,
        boot: Callable[[], float] = boottime,
        poll_seconds: float = _POLL_SECONDS,
    ) -> None:
        self._keys = keys
        self._policy = policy
        self._on_change: Callable[[Keyring], None] = lambda _keyring: None
        self._refresh = refresh
        self._clock, self._steady, self._boot = clock, steady, boot
        self._guard = ClockGuard(keys.seen.replica, self._now())
        self._retry_at = self._record_retry_at = steady()
        self._stored: StoredKeys | None = None
        self._is_followed = False
        self._source: tuple[AuthState, int] | None = None
        self._proof = -inf
        self._quiet_until = steady() + _FIRST_LOAD_SECONDS
        self._problem = self._logged = self._damage = self._step_problem = ""
        self._keyring = Keyring(refusal="the signing keys of the store have not been read yet")
        self._polling = Lock()
        self._read()
        self._on_change = on_change
        self._thread = PeriodicThread(poll_seconds, self.poll, "leeway-keys")

    @property
    def keyring(self) -> Keyring:
        """The keys in use."""
        return self._keyring

    def start(self) -> None:
        """Take the steps that are due, then follow the store; in a server after the fork."""
        self.poll()
        self._thread.start()

    def close(self) -> None:
        """Stop following the store."""
        self._thread.close()

    def problem(self) -> str:
        """Return why the present keys of the store are not in use, empty if they are."""
        return self._problem

    def step_problem(self) -> str:
        """Return why the keys take no step, or the last one failed; empty if they do."""
        return self._guard.problem or self._damage or self._step_problem

    def proof(self) -> float:
        """Return the CLOCK_BOOTTIME at which the keyring was that of the store."""
        source = self._source
        if source is not None and not self._problem:
            state, revision = source
            # The proof first: a change after it belongs to a later one.
            proof = self._keys.proof()
            try:
                is_present = self._keys.store.state is state and state.sealed_revision == revision
            except StoreUnavailableError:
                is_present = False
            if is_present:
                self._proof = max(self._proof, proof)
        return self._proof

    def use(self, policy: RotationPolicy) -> None:
        """Change the policy; to be called before the first token is signed under the new one."""
        with self._polling:
            # A token of the old lifetime can have been signed since the last poll.
            longest = max(policy.token_seconds, self._policy.token_seconds)
            self._policy = policy
            self._take_over()
            self._retry_at = self._steady()
            self._advance(replace(policy, token_seconds=longest), held=True)

    def poll(self) -> None:
        """Read the keys again if they have changed, and take the steps that are due."""
        with self._polling:
            try:
                self._refresh()
            except LeewayError:
                # What is here stays in use, for as long as its proof allows.
                _logger.debug("the store is not fresh", exc_info=True)
            sealed = self._read()
            self._guard.poll(self._now(), self._policy.publish_seconds)
            if sealed is not None:
                is_fresh = self._boot() - self._keys.proof() <= _FRESH_SECONDS
                self._guard.see_replicas(
                    replicas_of(sealed),
                    self._now(),
                    is_fresh=is_fresh,
                    written=self._keys.store.clock_difference,
                )
                self._advance(self._policy, held=self._guard.holds(self._now()))
                self._write_own_record()

    def catch_up(self) -> None:
        """Read the keys of the state in use, because a token has a key that is not known here.

        Raises StoreUnavailableError if they cannot be used: the key may be one of them.
        """
        with self._polling:
            self._read()
        if self._problem:
            raise StoreUnavailableError(self._problem)

    def _now(self) -> Moment:
        return Moment(self._clock(), self._steady())

    def _read(self) -> Sealed | None:
        """Take over what is in the state in use; return its records, None if there is no state."""
        try:
            state = self._keys.store.state
        except StoreUnavailableError as error:
            if self._stored is None:
                # The first load of a server is under way.
                is_brief = (
                    isinstance(error, StoreLockedError) and self._steady() < self._quiet_until
                )
                self._refuse(f"the signing keys cannot be read: {error}", is_silent=is_brief)
            return None
        # The revision first: a change after it is read again.
        source = state, state.sealed_revision
        sealed = sealed_of(state)
        if self._source != source or self._problem:
            self._load(sealed)
            self._source = source
        # Also without news: whether a schedule is still kept depends on the time.
        self._take_over()
        return sealed

    def _load(self, sealed: Sealed) -> None:
        try:
            try:
                stored = self._keys.read(sealed)
            except KeysError:
                # Another process of this replica may have accepted it.
                self._keys.seen.catch_up()
                stored = self._keys.read(sealed)
        except KeysError as error:
            self._refuse(str(error))
            return
        if self._logged:
            _logger.info("the signing keys of the store can be used")
        self._problem = self._logged = ""
        self._stored = stored
        if stored is not None:
            self._guard.see_schedule(stored.version, stored.keyring.clock, self._now())
            self._keys.seen.record(self._keys.vault().store_id, stored)
            self._report_damage(_damage(stored))

    def _refuse(self, why: str, *, is_silent: bool = False) -> None:
        # Invariant 1.
        if why != self._logged and not is_silent:
            self._logged = why
            kept = "; the keys from before still verify" if self._stored else ""
            _logger.error("nothing is signed: %s%s", why, kept)
        self._problem = why
        self._use(self._keyring.refusing(why))

    def _take_over(self) -> None:
        if self._problem:
            return
        if self._stored is None:
            self._use(Keyring(refusal=NO_KEYS))
            return
        keyring = self._stored.keyring
        if not self._is_followed:
            try:
                require_kept(keyring, self._policy, int(self._clock()))
                self._is_followed = True  # Invariant 2.
            except KeysError as error:
                keyring = keyring.refusing(str(error))
        self._use(keyring.without(self._policy.refused))

    def _use(self, keyring: Keyring) -> None:
        if keyring.content() != self._keyring.content():
            self._on_change(keyring)
        # At the end, so that a failure of ``on_change`` is tried again.
        self._keyring = keyring

    def _advance(self, policy: RotationPolicy, *, held: bool) -> None:
        now, stored = self._now(), self._stored
        if stored is None or self._problem or stored.moved_to or not self._is_followed:
            return
        if now.steady < self._retry_at:
            return
        wall = int(now.wall)
        caution = self._guard.caution(now, is_followed=True)
        due = not held and due_step(stored.keyring, policy, wall) is not None
        if not due and not caution.is_late(stored.keyring, policy, wall):
            return
        try:
            taken = advance(self._keys, policy, lambda: int(self._clock()), caution, held=held)
        except (KeysError, LeewayError) as error:
            self._retry_at = now.steady + _RETRY_SECONDS
            self._report(str(error))
            return
        if taken.waiting:
            self._retry_at = now.steady + _RETRY_SECONDS
        self._report(taken.waiting)
        for step in taken.steps:
            _audit_step(step)
        self._read()

    def _write_own_record(self) -> None:
        now = self._now()
        version = self._keys.seen.seen.version
        replica = Replica(int(now.wall), self._keys.encryption.ids, version)
        if now.steady < self._record_retry_at or not self._guard.is_record_due(replica, now):
            return
        own = replica_record(self._keys.seen.replica, replica)
        gone = [Record(REPLICA, name.encode(), None) for name in self._guard.gone(now)[:_MOST_GONE]]
        try:
            self._keys.store.change(lambda _state: [own, *gone])
        except LeewayError as error:
            # A full etcd, for instance, refuses this until somebody makes room.
            self._record_retry_at = now.steady + _RETRY_SECONDS
            _logger.info("the record of this replica was not written: %s", error)
            return
        self._guard.wrote_record(now)
        self._read()

    def _report_damage(self, damage: str) -> None:
        if damage and damage != self._damage:
            _logger.error("the signing keys of the store are not all usable: %s", damage)
        self._damage = damage

    def _report(self, problem: str) -> None:
        if problem and problem != self._step_problem:
            level = logging.WARNING if self._policy.rotate_every else logging.INFO
            _logger.log(level, "the signing keys of the store are not kept from here: %s", problem)
        self._step_problem = problem


def _damage(stored: StoredKeys) -> str:
    """Return what is wrong with records of private halves, empty if nothing is."""
    problems = [str(error) for error in stored.unopened.values()]
    if stored.strangers:
        names = ", ".join(name[:64] for name in stored.strangers[:5])
        problems.append(
            f"the store has private keys that the schedule does not list ({names}), which are not "
            "used; find out who writes to the store"
        )
    return "; ".join(problems)


def _audit_step(step: Step) -> None:
    fields = {
        "event": "audit",
        "action": "keys.rotate",
        "outcome": "done",
        "via": "server",
        "kid": step.kid,
        "step": step.kind.value,
    }
    _audit_logger.info("signing key %s %s", step.kid, _DONE[step.kind], extra={"fields": fields})
