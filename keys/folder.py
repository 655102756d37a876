"""Reads the folder of signing keys: a PEM file for each key, and ``schedule.json``.

The schedule has the state of each key. Its members ``until``, ``published``, ``clock`` and
``making`` can be missing, as in schedules of Leeway 0.1. With ``movedTo`` the keys have moved to a
store; an older Leeway does not read such a schedule.

Invariants:

1. The folder is read as it was at one moment, even if another process changes it meanwhile.
2. A key that the schedule does not name signs nothing, unless it is the only one and there is no
   schedule.
3. Keys that have moved sign nothing here. They still verify.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec

from keys.encoding import decode_json
from keys.errors import EncodingError, InvalidKeyError, KeyFileError, KeyScheduleError
from keys.files import read_private_file
from keys.jwk import VerificationKey
from keys.jws import SigningKey
from keys.keyring import Keyring, KeyState, ScheduledKey
from keys.messages import describe_validation
from keys.pem import parse_private_key, parse_public_keys

SCHEDULE_FILE: Final = "schedule.json"
_READ_TRIES: Final = 20
# Up to the end of the year 9999.
UnixSeconds = Annotated[int, msgspec.Meta(ge=0, le=253402300799)]
FolderStamp = tuple[tuple[str, int, int, int], ...]


class ScheduleEntry(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """One key; ``since``, ``until`` and ``published`` are those of ``ScheduledKey``."""

    kid: str
    file: str
    state: KeyState
    since: UnixSeconds
    until: UnixSeconds | None = None
    published: UnixSeconds | None = None


class Schedule(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """The content of ``schedule.json``.

    ``clock`` is that of ``Keyring``. ``making`` is the kid of a key whose file is being created; it
    is not in use before the schedule names the file. ``moved_to`` is the kind of store in which the
    keys are now, empty if they are here.
    """

    keys: tuple[ScheduleEntry, ...]
    clock: UnixSeconds = 0
    making: str = ""
    moved_to: str = msgspec.field(default="", name="movedTo")


@dataclass(frozen=True, slots=True)
class FolderContents:
    """The content of the folder.

    ``files`` has the names of the keys' files by kid, ``gone`` the entries of retired keys without
    a file. ``making`` and ``moved_to`` are those of ``Schedule``, and ``text`` is the schedule as
    it was read, empty if there is no file.
    """

    keyring: Keyring
    files: dict[str, str]
    gone: tuple[ScheduleEntry, ...]
    making: str
    moved_to: str
    text: bytes


def load_keyring(directory: Path) -> Keyring:
    """Load every key of the folder.

    Raises KeyFileError for a file that cannot be used, UnusableKeyError for a key that is too
    weak, KeyScheduleError if the schedule contradicts the files.
    """
    return read_folder(directory).keyring


def read_folder(directory: Path) -> FolderContents:
    """Read the folder. Raises the errors of ``load_keyring``."""
    if not directory.is_dir():
        raise KeyFileError(
            f"{directory}, the folder of signing keys, is missing; restore it, or make one with "
            "`leeway init`"
        )
    text = schedule_text(directory)
    for _ in range(_READ_TRIES):
        found: FolderContents | InvalidKeyError
        try:
            found = _read(directory, text)
        except InvalidKeyError as error:
            found = error
        # Invariant 1. Another process can take a step while the files are read.
        before, text = text, schedule_text(directory)
        if text == before:
            if isinstance(found, InvalidKeyError):
                raise found
            return found
    raise KeyScheduleError(f"{directory} changes faster than it can be read; try again")


def schedule_text(directory: Path) -> bytes:
    """Read the text of the schedule; empty if there is no schedule. Raises KeyFileError."""
    path = directory / SCHEDULE_FILE
    return read_private_file(path) if path.exists() else b""


def folder_stamp(directory: Path) -> FolderStamp | None:
    """Return a value that differs after each change of the folder; None if it is unreadable."""
    found = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name == SCHEDULE_FILE or entry.name.endswith(".pem"):
                    # Follows links, because the files of a mounted Secret are some.
                    status = Path(entry.path).stat()
                    found.append((entry.name, status.st_ino, status.st_ctime_ns, status.st_size))
    except OSError:
        return None
    return tuple(sorted(found))


def _read(directory: Path, text: bytes) -> FolderContents:
    path = directory / SCHEDULE_FILE
    schedule = parse_schedule(text, str(path)) if text else Schedule(())
    paths = sorted(path for path in directory.glob("*.pem") if path.is_file())
    if schedule.making:
        named = {entry.file for entry in schedule.keys}
        paths = [p for p in paths if p.stem != schedule.making or p.name in named]
    found = _read_keys(paths, schedule)
    if not schedule.keys and len(paths) > 1:
        raise KeyScheduleError(
            f"{path} is missing, so it is unknown which of {len(paths)} keys is in use "
            f"({', '.join(path.name for path in paths[:5])}{', …' if len(paths) > 5 else ''}); "
            "restore it, or leave only the key to sign with, run `leeway init`, and then put the "
            "others back"
        )
    gone = tuple(entry for entry in schedule.keys if entry.file not in found)
    for entry in gone:
        if entry.state is not KeyState.RETIRED:
            raise KeyFileError(
                f"{directory / entry.file} is missing, {SCHEDULE_FILE} names it; restore the file"
            )
    files = {key.kid: name for name, key in found.items()}
    places = {entry.kid: place for place, entry in enumerate(schedule.keys)}
    keys = sorted(found.values(), key=lambda key: (key.since, places.get(key.kid, len(places))))
    refusal = _moved(directory, schedule.moved_to) if schedule.moved_to else ""  # Invariant 3.
    keyring = Keyring(tuple(keys), schedule.clock, refusal)
    return FolderContents(keyring, files, gone, schedule.making, schedule.moved_to, text)


def _moved(directory: Path, to: str) -> str:
    return (
        f"the signing keys of {directory} have moved to the {to[:32]} store, so nothing is signed "
        f"with the copies here; set `keys.store: {to[:32]}` in leeway.yaml and restart, or bring "
        "the keys back with `leeway keys move --to folder`"
    )


def _read_keys(paths: list[Path], schedule: Schedule) -> dict[str, ScheduledKey]:
    """Return the keys by the names of their files."""
    entries = {entry.file: entry for entry in schedule.keys}
    keys = {}
    first: dict[str, Path] = {}
    for path in paths:
        entry = entries.get(path.name)
        try:
            verification, signing = load_key(path)
        except KeyFileError:
            if entry is not None and entry.state is KeyState.RETIRED and not path.exists():
                continue  # it was forgotten after the folder was listed
            raise
        other = first.setdefault(verification.kid, path)
        if other != path:
            raise KeyScheduleError(f"{other} and {path} hold the same key; remove one of them")
        if entry is None:
            # Invariant 2.
            only = not entries and signing is not None
            state = KeyState.ACTIVE if only else KeyState.VERIFY_ONLY
            since, until, published = int(path.stat().st_mtime), None, None
        elif entry.kid != verification.kid:
            raise KeyScheduleError(
                f"{path} holds the key {verification.kid}, {SCHEDULE_FILE} expects {entry.kid}"
            )
        else:
            state, since, until = entry.state, entry.since, entry.until
            published = entry.published
        keys[path.name] = ScheduledKey(verification, signing, state, since, until, published)
    return keys


def load_key(path: Path) -> tuple[VerificationKey, SigningKey | None]:
    """Load the key of one file, with its private half if the file has it.

    Raises KeyFileError or UnusableKeyError.
    """
    data = read_private_file(path)
    if b"PRIVATE KEY-----" in data:
        signing = parse_private_key(data, str(path))
        return signing.verification_key, signing
    public = parse_public_keys(data, str(path))
    if len(public) != 1:
        raise KeyFileError(f"{path} holds {len(public)} public keys, one is allowed")
    return public[0], None


def parse_schedule(text: bytes, name: str) -> Schedule:
    """Parse a schedule, which errors call ``name``. Raises KeyScheduleError."""
    try:
        schedule = msgspec.convert(decode_json(text), Schedule)
    except (EncodingError, msgspec.ValidationError) as error:
        why = describe_validation(error)
        raise KeyScheduleError(f"{name} is not a key schedule: {why}; restore it") from error
    files = [entry.file for entry in schedule.keys]
    if len(set(files)) != len(files):
        raise KeyScheduleError(f"{name} names a file twice; restore it from a backup")
    return schedule


def render_schedule(schedule: Schedule) -> bytes:
    """Render a schedule as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(schedule), indent=2) + b"\n"
