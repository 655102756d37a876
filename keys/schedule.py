"""The text of ``schedule.json``: the state of each key, by name and file.

What a schedule of Leeway 0.1 does not have (``until``, ``clock``, ``making``) may be missing.
"""

from typing import Annotated

import msgspec

from keys.encoding import decode_json
from keys.errors import EncodingError, KeyScheduleError
from keys.keyring import KeyState
from keys.words import validation_in_words

# Up to the end of the year 9999.
UnixSeconds = Annotated[int, msgspec.Meta(ge=0, le=253402300799)]


class ScheduleEntry(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """One key; ``since`` and ``until`` in Unix seconds, as in ``ScheduledKey``."""

    kid: str
    file: str
    state: KeyState
    since: UnixSeconds
    until: UnixSeconds | None = None


class Schedule(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """The whole file.

    ``clock`` is that of ``Keyring``. ``making`` is the name of a key that is about to get its
    file; until the schedule names that file, the key is not in use.
    """

    keys: tuple[ScheduleEntry, ...]
    clock: UnixSeconds = 0
    making: str = ""


def parse_schedule(text: bytes, name: str) -> Schedule:
    """Parse a schedule; ``name`` is what errors call it. Raises KeyScheduleError."""
    try:
        schedule = msgspec.convert(decode_json(text), Schedule)
    except (EncodingError, msgspec.ValidationError) as error:
        why = validation_in_words(error)
        raise KeyScheduleError(f"{name} is not a key schedule: {why}; restore it") from error
    files = [entry.file for entry in schedule.keys]
    if len(set(files)) != len(files):
        raise KeyScheduleError(f"{name} names a file twice; restore it from a backup")
    return schedule


def render_schedule(schedule: Schedule) -> bytes:
    """Render a schedule as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(schedule), indent=2) + b"\n"
