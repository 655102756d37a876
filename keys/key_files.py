"""The folder of signing keys: one PEM file a key, and ``schedule.json`` with their states.

Invariants:

1. A key is in use only after its file is on disk whole.
2. The schedule is replaced as a whole; a key whose file it does not name yet signs nothing,
   unless it is the only one and there is no schedule.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from keys.encoding import decode_json
from keys.errors import EncodingError, KeyFileError, KeyScheduleError
from keys.files import create_file, read_private_file, replace_file
from keys.jwk import VerificationKey
from keys.jws import SigningKey
from keys.keyring import Keyring, KeyState, ScheduledKey
from keys.pem import generate_signing_key, parse_private_key, parse_public_keys, private_key_pem

SCHEDULE_FILE: Final = "schedule.json"


class _ScheduleEntry(msgspec.Struct, forbid_unknown_fields=True):
    kid: str
    file: str
    state: KeyState
    since: int


class _Schedule(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[_ScheduleEntry]


def load_keyring(directory: Path) -> Keyring:
    """Load every key of the folder.

    A PEM file that the schedule does not name is active where it is the only one and there is no
    schedule, and verifies only otherwise: a key copied here never starts to sign beside another.

    Raises KeyFileError for a file that cannot be used, UnusableKeyError for a key that is too
    weak, KeyScheduleError where the schedule contradicts the files.
    """
    schedule = _read_schedule(directory)
    files = sorted(path for path in directory.glob("*.pem") if path.is_file())
    named = {entry.file: entry for entry in schedule}
    if len(named) != len(schedule):
        raise KeyScheduleError(
            f"{directory / SCHEDULE_FILE} names a file twice; restore it from a backup"
        )
    keys = []
    paths: dict[str, Path] = {}
    for path in files:
        entry = named.pop(path.name, None)
        verification, signing = _load_key(path)
        first = paths.setdefault(verification.kid, path)
        if first != path:
            raise KeyScheduleError(f"{first} and {path} hold the same key; remove one of them")
        if entry is None:
            only = not schedule and signing is not None
            state = KeyState.ACTIVE if only else KeyState.VERIFY_ONLY
            since = int(path.stat().st_mtime)
        elif entry.kid != verification.kid:
            raise KeyScheduleError(
                f"{path} holds the key {verification.kid}, {SCHEDULE_FILE} expects {entry.kid}"
            )
        else:
            state, since = entry.state, entry.since
        keys.append(ScheduledKey(verification, signing, state, since))
    if not schedule and len(files) > 1:
        raise KeyScheduleError(
            f"{directory / SCHEDULE_FILE} is missing, so nothing tells which of {len(files)} keys "
            "is in use; restore it, or leave only the key to sign with"
        )
    missing = [name for name, entry in named.items() if entry.state is not KeyState.RETIRED]
    if missing:
        raise KeyScheduleError(
            f"{directory / missing[0]} is missing, {SCHEDULE_FILE} names it; restore the file"
        )
    keys.sort(key=lambda key: key.since)
    return Keyring(tuple(keys))


def generate_key(directory: Path, algorithm: str, now: int) -> ScheduledKey:
    """Make a key, write it and the schedule, and return it: active if it is the first one."""
    key = generate_signing_key(algorithm)
    kid = key.verification_key.kid
    with _locked(directory):
        keyring = load_keyring(directory).with_new_key(key, now)
        create_file(directory / f"{kid}.pem", private_key_pem(key.private_key))
        _write_schedule(directory, keyring)
    return keyring.keys[-1]


def _load_key(path: Path) -> tuple[VerificationKey, SigningKey | None]:
    data = read_private_file(path)
    if b"PRIVATE KEY-----" in data:
        signing = parse_private_key(data, str(path))
        return signing.verification_key, signing
    public = parse_public_keys(data, str(path))
    if len(public) != 1:
        raise KeyFileError(f"{path} holds {len(public)} public keys, one is allowed")
    return public[0], None


def _read_schedule(directory: Path) -> list[_ScheduleEntry]:
    path = directory / SCHEDULE_FILE
    if not path.exists():
        return []
    try:
        return msgspec.convert(decode_json(read_private_file(path)), _Schedule).keys
    except (EncodingError, msgspec.ValidationError) as error:
        raise KeyScheduleError(f"{path} is not a key schedule: {error}; restore it") from error


def _write_schedule(directory: Path, keyring: Keyring) -> None:
    files = {_load_key(path)[0].kid: path.name for path in directory.glob("*.pem")}
    entries = [
        _ScheduleEntry(key.kid, files[key.kid], key.state, key.since) for key in keyring.keys
    ]
    text = msgspec.json.format(msgspec.json.encode(_Schedule(entries)), indent=2)
    replace_file(directory / SCHEDULE_FILE, text + b"\n")


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
