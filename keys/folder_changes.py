"""Changes the folder of signing keys: adds keys, and takes the steps of ``keys.rotation``.

Invariants:

1. A key is in use only after its file is completely on disk.
2. A step is one atomic replacement of the schedule. A process that is killed before or after it
   leaves a usable folder, and the next process that changes the folder completes the step.
3. A process changes the folder only while it holds the lock, and replaces only the schedule that it
   has read.
4. A key that has signed here and will never sign again loses its private half. Verification does
   not need it, and someone who gets access to the folder later cannot sign with the key.
5. Keys that have moved to a store are not changed here.

The lock is ``flock``. Linux passes it on to the servers of NFS and of most other network file
systems. If a mount keeps it local (``local_lock=flock``), the comparison of invariant 3 remains: of
two hosts that take a step within the same milliseconds one succeeds, and the other can leave behind
a key that verifies and never signs.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from keys.errors import KeyFileError, KeyScheduleError
from keys.files import create_file, lock_folder, replace_file
from keys.folder import (
    SCHEDULE_FILE,
    Schedule,
    ScheduleEntry,
    load_key,
    read_folder,
    render_schedule,
    schedule_text,
)
from keys.jws import SigningKey
from keys.keyring import Keyring, KeyState, ScheduledKey
from keys.pem import generate_signing_key, private_key_pem, public_key_pem
from keys.rotation import (
    FORGET_SECONDS,
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

_LOCK_SECONDS: Final = 10.0
# Temporary files of ``keys.files``. They can contain a private key.
_UNFINISHED: Final = re.compile(r"\..+\.\d+\.[0-9a-f]{8}")
_SIGNS: Final = (KeyState.PENDING, KeyState.ACTIVE)
_NEVER_SIGNS_AGAIN: Final = (KeyState.VERIFY_ONLY, KeyState.RETIRED)


def generate_key(directory: Path, algorithm: str, now: int) -> ScheduledKey:
    """Make a key, write it and the schedule, and return it; it is active if it is the first one.

    Raises the errors of ``load_keyring``, and KeyFileError if the folder stays locked.
    """
    key = generate_signing_key(algorithm)
    with _locked(directory, now) as folder:
        return folder.add(key, now)


def write_schedule(directory: Path, now: int) -> None:
    """Write the states of the keys as ``load_keyring`` reads them.

    Raises the errors of ``generate_key``, and OSError if the folder cannot be written.
    """
    with _locked(directory, now) as folder:
        folder.write(folder.keyring)


def advance(directory: Path, policy: RotationPolicy, now: int, *, held: bool = False) -> KeyChange:
    """Update the times in the schedule if they lag behind, and take the steps that are due.

    While steps are ``held``, only the end of the last token is updated. Any number of processes can
    call this at any time; a step is taken once. Raises the errors of ``write_schedule``.
    """
    with _locked(directory, now) as folder:
        if are_times_outdated(folder.keyring, policy, now, held=held):
            folder.write(with_times(folder.keyring, policy, now, held=held))
        steps = []
        while not held and (step := due_step(folder.keyring, policy, now)) is not None:
            steps.append(folder.take(step, policy, now))
        return KeyChange(folder.keyring, tuple(steps))


def rotate(directory: Path, policy: RotationPolicy, now: int, *, force: bool = False) -> KeyChange:
    """Take one step on request. Raises UnsafeStepError, and the errors of ``advance``."""
    with _locked(directory, now) as folder:
        step = requested_step(folder.keyring, policy, now, force=force)
        return _taken(folder, step, policy, now, force=force)


def retire(
    directory: Path, kid: str, policy: RotationPolicy, now: int, *, force: bool = False
) -> KeyChange:
    """Retire a key; nothing happens if it is retired.

    Raises UnsafeStepError, and the errors of ``advance``.
    """
    with _locked(directory, now) as folder:
        if folder.keyring.key(kid).state is KeyState.RETIRED:
            return KeyChange(folder.keyring)
        return _taken(folder, Step(StepKind.RETIRE, kid), policy, now, force=force)


def _taken(
    folder: "KeyFolder", step: Step, policy: RotationPolicy, now: int, *, force: bool
) -> KeyChange:
    broken = ""
    key = folder.keyring.key(step.kid) if step.kid else None
    # A pending key can be retired without breaking anything.
    if key and (step.kind is StepKind.ACTIVATE or key.state is not KeyState.PENDING):
        broken = what_breaks(key, policy, now)
    taken = folder.take(step, policy, now, force=force)
    return KeyChange(folder.keyring, (taken,), broken)


class KeyFolder:
    """The folder, in the process that holds its lock (invariant 3)."""

    def __init__(self, directory: Path, now: int) -> None:
        self._directory = directory
        found = read_folder(directory)
        self.keyring = found.keyring
        self._files = found.files
        self._gone = found.gone
        self._text = found.text
        self.moved_to = found.moved_to
        self._private = {key.kid for key in found.keyring.keys if key.signing_key}
        self._remove_unfinished()
        if found.making:
            self._finish(found.making, now)
        self._drop_private_halves()

    def require_here(self) -> None:
        """Raise KeyScheduleError if the keys have moved to a store (invariant 5)."""
        if self.moved_to:
            raise KeyScheduleError(self.keyring.refusal)

    def move_away(self, to: str) -> None:
        """Record that the keys are in a store, and then drop their private halves here."""
        self.moved_to = to
        self.write(self.keyring)
        for key in self.keyring.keys:
            if key.kid in self._private and key.state in _SIGNS:
                self._drop_private_half(key)

    def copy_back(self, keyring: Keyring) -> None:
        """Write the files of keys that come back from a store, where they are not in use yet.

        Raises KeyScheduleError if there are keys here that have not moved.
        """
        if not self.moved_to:
            if self.keyring.keys:
                names = ", ".join(key.kid for key in self.keyring.keys)
                raise KeyScheduleError(
                    f"{self._directory} has signing keys that have not moved ({names}); move its "
                    "files elsewhere first, or use another data directory"
                )
            self.moved_to = "etcd"
            self.write(self.keyring)
        for key in keyring.keys:
            path = self._directory / self._files.setdefault(key.kid, f"{key.kid}.pem")
            if key.signing_key is not None:
                replace_file(path, private_key_pem(key.signing_key.private_key), 0o600)
                self._private.add(key.kid)
            elif not path.exists():
                replace_file(path, public_key_pem(key.verification_key.public_key), 0o600)

    def move_back(self, keyring: Keyring) -> None:
        """Use the keys here, in their states in the store; ``copy_back`` has written them."""
        for kid in self._files.keys() - {key.kid for key in keyring.keys}:
            # It was forgotten in the store; a file without an entry would verify again.
            (self._directory / self._files.pop(kid)).unlink(missing_ok=True)
        self.moved_to = ""
        self.write(keyring)

    def add(self, key: SigningKey, now: int) -> ScheduledKey:
        """Write a new key to disk, and then to the schedule (invariant 1)."""
        kid = key.verification_key.kid
        if self.keyring.keys:
            # So that its file, while it has no entry, is not taken for one copied here.
            self.write(self.keyring, making=kid)
        path = self._directory / f"{kid}.pem"
        create_file(path, private_key_pem(key.private_key))
        self._files[kid] = path.name
        self._private.add(kid)
        self.write(self.keyring.with_new_key(key, now))
        return self.keyring.key(kid)

    def take(self, step: Step, policy: RotationPolicy, now: int, *, force: bool = False) -> Step:
        """Take a step, and return it with its key."""
        keyring = self.keyring
        match step.kind:
            case StepKind.PUBLISH:
                algorithm = self._algorithm(policy)
                require_allowed(algorithm, policy)
                key = self.add(generate_signing_key(algorithm), now)
                return Step(step.kind, key.kid)
            case StepKind.ACTIVATE:
                self.write(activated(keyring, step.kid, policy, now, force=force))
            case StepKind.RETIRE:
                self.write(retired(keyring, step.kid, policy, now, force=force))
            case StepKind.FORGET:
                after = forgotten(keyring, step.kid)
                # Before the entry, because a file without an entry would verify again.
                (self._directory / self._files[step.kid]).unlink(missing_ok=True)
                self.write(after)
        self._drop_private_halves()
        return step

    def write(self, keyring: Keyring, making: str = "") -> None:
        """Replace the schedule. Raises KeyScheduleError if it has changed since it was read."""
        entries = [
            ScheduleEntry(
                key.kid, self._files[key.kid], key.state, key.since, key.until, key.published
            )
            for key in keyring.keys
        ]
        # A copy of a retired key must have no effect, even after its file is gone.
        self._gone = tuple(e for e in self._gone if keyring.clock - e.since <= FORGET_SECONDS)
        schedule = Schedule((*entries, *self._gone), keyring.clock, making, self.moved_to)
        text = render_schedule(schedule)
        path = self._directory / SCHEDULE_FILE
        if schedule_text(self._directory) != self._text:  # Invariant 3.
            raise KeyScheduleError(f"another process has changed {path}; try again")
        replace_file(path, text)  # Invariant 2.
        self._text, self.keyring = text, keyring

    def _algorithm(self, policy: RotationPolicy) -> str:
        if policy.algorithm:
            return policy.algorithm
        return self.keyring.signing_key().verification_key.algorithm

    def _finish(self, kid: str, now: int) -> None:
        """Add the key to the schedule that a killed process was making, if its file exists."""
        path = self._directory / f"{kid}.pem"
        if not path.is_file():
            self.write(self.keyring)
            return
        verification, signing = load_key(path)
        if verification.kid != kid or signing is None:
            raise KeyScheduleError(f"{path} does not hold the private key {kid}; remove the file")
        self._files[kid] = path.name
        # Its time is now, because it was not published before.
        self.write(self.keyring.with_new_key(signing, now))

    def _remove_unfinished(self) -> None:
        for path in self._directory.iterdir():
            if _UNFINISHED.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _drop_private_halves(self) -> None:
        # Invariant 4.
        for key in self.keyring.keys:
            # A key without ``until`` was copied into the folder, and may be the only copy.
            ours = key.until is not None
            if key.state in _NEVER_SIGNS_AGAIN and ours and key.kid in self._private:
                self._drop_private_half(key)

    def _drop_private_half(self, key: ScheduledKey) -> None:
        path = self._directory / self._files[key.kid]
        replace_file(path, public_key_pem(key.verification_key.public_key))
        self._private.discard(key.kid)


@contextmanager
def _locked(directory: Path, now: int) -> Iterator[KeyFolder]:
    with locked_folder(directory, now) as folder:
        folder.require_here()
        yield folder


@contextmanager
def locked_folder(directory: Path, now: int) -> Iterator[KeyFolder]:
    """Open a folder for changes, even if its keys have moved.

    Raises the errors of ``load_keyring``, and KeyFileError if the folder stays locked.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            lock_folder(descriptor, directory, _LOCK_SECONDS)
        except TimeoutError as error:
            raise KeyFileError(str(error)) from error
        yield KeyFolder(directory, now)
    finally:
        os.close(descriptor)
