"""Follows the folder of signing keys in a thread, and rotates the keys when a step is due.

Invariants:

1. The keys in use are those of one folder that could be read completely: a broken one changes
   nothing. Keys that have moved to a store verify, and sign nothing.
2. A jump of the clock causes no step: after it, steps wait for as long as a new key does, by a
   clock that does not jump. Meanwhile keys sign, so the end of their tokens is still recorded.

Each worker of a server has a watcher. The first to poll takes a step, and the others see it with
their next poll.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from threading import Lock
from time import monotonic, time
from typing import Final

from keys.errors import KeysError
from keys.file_watch import POLL_SECONDS, ChangeDetector, PeriodicThread
from keys.folder import folder_stamp, load_keyring
from keys.folder_changes import advance
from keys.keyring import Keyring
from keys.rotation import RotationPolicy, StepKind, are_times_outdated, due_step

# Other processes can write to the folder between two polls, above all right after a step.
_CATCH_UP_POLLS: Final = 10
_JUMP_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = 60.0
_DONE: Final = {
    StepKind.PUBLISH: "was made and is published",
    StepKind.ACTIVATE: "signs from now on",
    StepKind.RETIRE: "is retired",
    StepKind.FORGET: "is forgotten",
}
_logger = logging.getLogger("leeway")
_audit_logger = logging.getLogger("leeway.audit")


class KeyFolderWatcher:
    """The present keys of a folder.

    ``keyring`` is read by the constructor, and nothing is written before ``start`` or ``poll``.
    ``on_change`` is called with every later keyring, in the thread that polls. ``clock`` returns
    Unix seconds, ``steady`` seconds that never jump. Raises the errors of ``load_keyring``.
    """

    def __init__(
        self,
        directory: Path,
        policy: RotationPolicy,
        on_change: Callable[[Keyring], None] = lambda _keyring: None,
        *,
        clock: Callable[[], float] = time,
        steady: Callable[[], float] = monotonic,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._directory = directory
        self._policy = policy
        self._on_change = on_change
        self._clock = clock
        self._steady = steady
        self._problem = ""
        self._step_problem = ""
        self._offset = clock() - steady()
        self._held_until = self._retry_at = steady()
        self._changes = ChangeDetector(lambda: folder_stamp(directory), self._reload, steady)
        self._stored = load_keyring(directory)
        self._keyring = self._stored.without(policy.refused)
        self._polling = Lock()
        self._thread = PeriodicThread(poll_seconds, self.poll, "leeway-keys")

    @property
    def keyring(self) -> Keyring:
        """The keys in use."""
        return self._keyring

    def proof(self) -> float:
        """Return infinity: the keys in use are those of the folder."""
        return inf

    def start(self) -> None:
        """Take the steps that are due, then follow the folder; in a server after the fork."""
        self.poll()
        self._thread.start()

    def close(self) -> None:
        """Stop following the folder."""
        self._thread.close()

    def problem(self) -> str:
        """Return why a new state of the folder is not in use, empty if it is."""
        return self._problem

    def step_problem(self) -> str:
        """Return why the last step that was due could not be taken, empty if it could."""
        return self._step_problem

    def use(self, policy: RotationPolicy) -> None:
        """Change the policy; to be called before the first token is signed under the new one."""
        with self._polling:
            # A token of the old lifetime can have been signed since the last poll.
            longest = max(policy.token_seconds, self._policy.token_seconds)
            self._policy = policy
            self._take_over(self._stored)
            self._retry_at = self._steady()
            self._advance(replace(policy, token_seconds=longest), held=True)

    def poll(self) -> None:
        """Load the keys again if the folder has changed, and take the steps that are due."""
        with self._polling:
            self._changes.poll()
            self._watch_clock()
            self._advance(self._policy, held=self._steady() < self._held_until)

    def catch_up(self) -> None:
        """Load what is in the folder now, because a token has a key that is not known here.

        The signer of the token has read the key from the folder, so it is complete there.
        """
        for _ in range(_CATCH_UP_POLLS):
            self.poll()
            if self._changes.is_settled:
                return

    def _reload(self) -> bool:
        try:
            keyring = load_keyring(self._directory)
            if self._stored.active is not None and not keyring.refusal:
                # Invariant 1. A folder whose mount is gone is empty.
                keyring.signing_key()
        except (KeysError, OSError) as error:
            problem = f"{error}; the keys from before stay in use"
            if problem != self._problem:
                _logger.error("the signing keys were not read again: %s", problem)
            self._problem = problem
            return False
        if self._problem:
            _logger.info("the signing keys in %s can be read again", self._directory)
        self._problem = ""
        self._take_over(keyring)
        return True

    def _take_over(self, stored: Keyring) -> None:
        keyring = stored.without(self._policy.refused)
        if keyring.content() != self._keyring.content():
            self._on_change(keyring)
        # At the end, so that a failure of ``on_change`` is tried again.
        self._stored, self._keyring = stored, keyring

    def _watch_clock(self) -> None:
        # Invariant 2.
        offset = self._clock() - self._steady()
        if abs(offset - self._offset) > _JUMP_SECONDS:
            hold = self._policy.publish_seconds
            self._held_until = self._steady() + hold
            _logger.warning(
                "the clock has jumped by %+.0fs; no signing key takes a step by itself for %ds",
                offset - self._offset,
                hold,
            )
        self._offset = offset

    def _advance(self, policy: RotationPolicy, *, held: bool) -> None:
        now, keyring = int(self._clock()), self._stored
        if keyring.refusal:
            # The keys have moved, which the keyring says.
            self._step_problem = ""
            return
        if self._problem or self._steady() < self._retry_at:
            return
        due = not held and due_step(keyring, policy, now) is not None
        if not due and not are_times_outdated(keyring, policy, now, held=held):
            return
        try:
            changed = advance(self._directory, policy, now, held=held)
        except (KeysError, OSError) as error:
            self._retry_at = self._steady() + _RETRY_SECONDS
            self._report(getattr(error, "strerror", None) or str(error))
            return
        self._step_problem = ""
        for step in changed.steps:
            fields = {
                "event": "audit",
                "action": "keys.rotate",
                "outcome": "done",
                "via": "server",
                "kid": step.kid,
                "step": step.kind.value,
            }
            extra = {"fields": fields}
            _audit_logger.info("signing key %s %s", step.kid, _DONE[step.kind], extra=extra)
        # The next poll reads the folder again: another process can have changed it since.
        self._take_over(changed.keyring)

    def _report(self, problem: str) -> None:
        if problem != self._step_problem:
            # Without rotation there is little to write, and a mounted Secret is read-only.
            level = logging.WARNING if self._policy.rotate_every else logging.INFO
            _logger.log(
                level,
                "the schedule of the signing keys in %s is not kept from here: %s",
                self._directory,
                problem,
            )
        self._step_problem = problem
