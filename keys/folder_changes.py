"""The folder of signing keys, changed: new keys, and the steps of ``keys.rotation``.

Invariants:

1. A key is in use only after its file is on disk whole.
2. The schedule is replaced as a whole, and that is the step: whoever is killed before or after it
   leaves a folder that can be used, and what is left to do is done by who comes next.
3. Who changes the folder holds its lock, and replaces only the schedule that it has read.
4. A key that has signed here and will not again loses its private half: to verify takes only the
   other, and who gets at the folder later cannot sign in its name.

The lock is ``flock``. Linux hands it on to the servers of NFS and of most other network file
systems. Where a mount keeps it local (``local_lock=flock``) the comparison of rule 3 remains: of
two hosts that take a step within the same milliseconds one wins whole, and of the other a key may
be left that verifies and never signs.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from keys.errors import KeyFileError, KeyScheduleError
from keys.files import create_file, replace_file
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
    RotationPolicy,
    Step,
    StepKind,
    activated,
    due_step,
    forgotten,
    is_note_due,
    noted,
    retired,
    step_by_hand,
    what_breaks,
)

_LOCK_SECONDS: Final = 10.0
_LOCK_POLL_SECONDS: Final = 0.01
# What ``keys.files`` writes before it gives a file its name. It may hold a private key.
_UNFINISHED: Final = re.compile(r"\..+\.\d+\.[0-9a-f]{8}")
_SIGNS_NO_MORE: Final = (KeyState.VERIFY_ONLY, KeyState.RETIRED)


@dataclass(frozen=True, slots=True)
class Changed:
    """The keys after a change, and the steps that made it, each with the key that took it.

    ``broken`` says what a forced step has broken.
    """

    keyring: Keyring
    steps: tuple[Step, ...]
    broken: str = ""


def generate_key(directory: Path, algorithm: str, now: int) -> ScheduledKey:
    """Make a key, write it and the schedule, and return it: active if it is the first one.

    Raises what ``load_keyring`` does, and KeyFileError where the folder stays locked.
    """
    key = generate_signing_key(algorithm)
    with _locked(directory, now) as folder:
        return folder.add(key, now)


def write_schedule(directory: Path, now: int) -> None:
    """Write the states of the keys down as ``load_keyring`` reads them.

    Raises what ``generate_key`` does, and OSError where the folder cannot be written.
    """
    with _locked(directory, now) as folder:
        folder.write(folder.keyring)


def advance(directory: Path, policy: RotationPolicy, now: int) -> Changed:
    """Write down what lags behind, and take the steps that are due by themselves.

    Any number of processes may call this at any time: a step is taken once. Raises what
    ``generate_key`` does, and OSError where the folder cannot be written.
    """
    with _locked(directory, now) as folder:
        if is_note_due(folder.keyring, policy, now):
            folder.write(noted(folder.keyring, policy, now))
        steps = []
        while (step := due_step(folder.keyring, policy, now)) is not None:
            steps.append(folder.take(step, policy, now))
        return Changed(folder.keyring, tuple(steps))


def rotate(directory: Path, policy: RotationPolicy, now: int, *, force: bool = False) -> Changed:
    """Take one step by hand. Raises UnsafeStepError, and what ``advance`` does."""
    with _locked(directory, now) as folder:
        step = step_by_hand(folder.keyring, policy, now, force=force)
        return _taken(folder, step, policy, now, force=force)


def retire(
    directory: Path, kid: str, policy: RotationPolicy, now: int, *, force: bool = False
) -> Changed:
    """Retire one key; one that is retired stays as it is.

    Raises UnsafeStepError, and what ``advance`` does.
    """
    with _locked(directory, now) as folder:
        if folder.keyring.key(kid).state is KeyState.RETIRED:
            return Changed(folder.keyring, ())
        return _taken(folder, Step(StepKind.RETIRE, kid), policy, now, force=force)


def _taken(
    folder: "_Folder", step: Step, policy: RotationPolicy, now: int, *, force: bool
) -> Changed:
    broken = ""
    key = folder.keyring.key(step.kid) if step.kid else None
    # Retired, a pending key breaks nothing.
    if key and (step.kind is StepKind.ACTIVATE or key.state is not KeyState.PENDING):
        broken = what_breaks(key, policy, now)
    taken = folder.take(step, policy, now, force=force)
    return Changed(folder.keyring, (taken,), broken)


class _Folder:
    """The folder in the hands of the process that holds its lock."""

    def __init__(self, directory: Path, now: int) -> None:
        self._directory = directory
        found = read_folder(directory)
        self.keyring = found.keyring
        self._files = found.files
        self._gone = found.gone
        self._text = found.text
        self._private = {key.kid for key in found.keyring.keys if key.signing_key}
        self._remove_unfinished()
        if found.making:
            self._finish(found.making, now)
        self._drop_private_halves()

    def add(self, key: SigningKey, now: int) -> ScheduledKey:
        """Put a new key on disk, and then on the schedule."""
        kid = key.verification_key.kid
        if self.keyring.keys:
            # So that a file without an entry is known for ours, and not for one brought here.
            self.write(self.keyring, making=kid)
        path = self._directory / f"{kid}.pem"
        create_file(path, private_key_pem(key.private_key))
        self._files[kid] = path.name
        self._private.add(kid)
        self.write(self.keyring.with_new_key(key, now))
        return self.keyring.key(kid)

    def take(self, step: Step, policy: RotationPolicy, now: int, *, force: bool = False) -> Step:
        """Take a step, and return it with the key that took it."""
        keyring = self.keyring
        match step.kind:
            case StepKind.PUBLISH:
                key = self.add(generate_signing_key(self._algorithm(policy)), now)
                return Step(step.kind, key.kid)
            case StepKind.ACTIVATE:
                self.write(activated(keyring, step.kid, policy, now, force=force))
            case StepKind.RETIRE:
                self.write(retired(keyring, step.kid, policy, now, force=force))
            case StepKind.FORGET:
                after = forgotten(keyring, step.kid)
                # Before its entry: without one the key would verify again.
                (self._directory / self._files[step.kid]).unlink(missing_ok=True)
                self.write(after)
        self._drop_private_halves()
        return step

    def write(self, keyring: Keyring, making: str = "") -> None:
        """Replace the schedule. Raises KeyScheduleError where it is not the one that was read."""
        entries = [
            ScheduleEntry(key.kid, self._files[key.kid], key.state, key.since, key.until)
            for key in keyring.keys
        ]
        # A copy of a retired key must do nothing, also when the file itself is gone.
        self._gone = tuple(e for e in self._gone if keyring.clock - e.since <= FORGET_SECONDS)
        text = render_schedule(Schedule((*entries, *self._gone), keyring.clock, making))
        path = self._directory / SCHEDULE_FILE
        if schedule_text(self._directory) != self._text:
            raise KeyScheduleError(f"somebody else has changed {path} meanwhile; try again")
        replace_file(path, text)
        self._text, self.keyring = text, keyring

    def _algorithm(self, policy: RotationPolicy) -> str:
        if policy.algorithm:
            return policy.algorithm
        return self.keyring.signing_key().verification_key.algorithm

    def _finish(self, kid: str, now: int) -> None:
        """Put the key on the schedule that somebody was making, if its file is there."""
        path = self._directory / f"{kid}.pem"
        if not path.is_file():
            self.write(self.keyring)
            return
        verification, signing = load_key(path)
        if verification.kid != kid or signing is None:
            raise KeyScheduleError(f"{path} does not hold the private key {kid}; remove the file")
        self._files[kid] = path.name
        # Whenever it was made: until now nobody has published it.
        self.write(self.keyring.with_new_key(signing, now))

    def _remove_unfinished(self) -> None:
        for path in self._directory.iterdir():
            if _UNFINISHED.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _drop_private_halves(self) -> None:
        for key in self.keyring.keys:
            # A key without an end was brought here by somebody, and may be the only copy.
            ours = key.until is not None
            if key.state in _SIGNS_NO_MORE and ours and key.kid in self._private:
                path = self._directory / self._files[key.kid]
                replace_file(path, public_key_pem(key.verification_key.public_key))
                self._private.discard(key.kid)


@contextmanager
def _locked(directory: Path, now: int) -> Iterator[_Folder]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if monotonic() > deadline:
                    raise KeyFileError(
                        f"{directory} is locked by another process for more than "
                        f"{_LOCK_SECONDS:g}s; see who holds it with `lslocks`, and try again"
                    ) from error
            sleep(_LOCK_POLL_SECONDS)
        yield _Folder(directory, now)
    finally:
        os.close(descriptor)
