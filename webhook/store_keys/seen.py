"""The newest schedule that was seen: what a store that was set back is recognised by.

Each data directory has a file with it, ``keys-seen.json``, so that a restart forgets nothing. Where
the file cannot be written, as in a read-only volume, only the process remembers.

Invariants:

1. A schedule with a smaller version than one that was seen is refused, and so is another schedule
   with the same version: the store was set back, and keys that were retired may be back with it.
2. So are the keys of another store, and a schedule that is gone.
3. What was seen never becomes less, except by ``leeway keys accept --restored``.
"""

import logging
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from socket import gethostname
from threading import Lock
from typing import Final

import msgspec

from keys.encoding import decode_json
from keys.errors import EncodingError, KeyFileError, RestoredScheduleError
from keys.files import read_private_file, write_own_file
from keys.messages import describe_validation, os_error_with_advice
from webhook.store_keys.contents import StoredKeys

SEEN_FILE: Final = "keys-seen.json"
_ACCEPT: Final = (
    "look at its keys with `leeway keys list`, and if they may be used again, run `leeway keys "
    "accept --restored`"
)
_logger = logging.getLogger("leeway")


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The newest schedule of a store: its version and SHA-256.

    ``replica`` is random, and tells replicas apart whose machines look the same.
    """

    replica: str
    store: str = ""
    version: int = 0
    digest: str = ""

    def check(self, store: str, stored: StoredKeys | None) -> None:
        """Check what a store has. Raises RestoredScheduleError (invariants 1 and 2)."""
        if not self.version:
            return
        if self.store != store:
            raise RestoredScheduleError(
                f"this is store {store[:64]!r}, and the signing keys used here so far are those of "
                f"store {self.store[:64]!r}; {_ACCEPT}, on each machine that says so"
            )
        if stored is None:
            raise RestoredScheduleError(
                f"the schedule of the signing keys is gone from the store, which had version "
                f"{self.version}; restore the store from a backup"
            )
        if stored.version < self.version:
            raise RestoredScheduleError(
                f"the stored schedule of the signing keys has version {stored.version}, and "
                f"version {self.version} was in use here: the store was set back; {_ACCEPT}"
            )
        if stored.version == self.version and _digest(stored) != self.digest:
            raise RestoredScheduleError(
                f"the stored schedule of the signing keys has version {stored.version}, and is not "
                f"the one that was in use here: the store was set back; {_ACCEPT}"
            )

    def with_schedule(self, store: str, stored: StoredKeys) -> "Seen":
        """Return what was seen together with a schedule that was checked (invariant 3)."""
        if store == self.store and stored.version <= self.version:
            return self
        return Seen(self.replica, store, stored.version, _digest(stored))


class SeenFile:
    """What was seen, in memory and in a file. Safe for threads and processes."""

    def __init__(self, data_dir: Path) -> None:
        """Read the file, if there is one. Raises KeyFileError."""
        self._path = data_dir / SEEN_FILE
        self._lock = Lock()
        self._reported = False
        found = self._read()
        self.seen = found or Seen(token_hex(8))
        """The newest schedule that was seen."""
        if found is None:
            self._write(self.seen)
            # Another process of this replica can have been first.
            self.seen = self._read() or self.seen
        place = f"{gethostname()}\0{self._path.resolve()}\0{self.seen.replica}"
        self.replica = sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        """The id of this replica; a copy of its data directory elsewhere is another replica."""

    def check(self, store: str, stored: StoredKeys | None) -> None:
        """Do the same as ``Seen.check``."""
        self.seen.check(store, stored)

    def record(self, store: str, stored: StoredKeys) -> None:
        """Record a schedule that was checked and is in use."""
        with self._lock:
            after = self.seen.with_schedule(store, stored)
            if after is not self.seen:
                self.seen = after
                self._write(after)

    def accept(self, store: str, stored: StoredKeys) -> None:
        """Forget what was seen before this schedule."""
        with self._lock:
            self.seen = Seen(self.seen.replica, store, stored.version, _digest(stored))
            self._write(self.seen, replace=True)

    def catch_up(self) -> None:
        """Take over what another process of this replica has accepted or seen."""
        with self._lock:
            found = self._read()
            # A file that could not be written is older than what is known here (invariant 3).
            if found and (found.store != self.seen.store or found.version > self.seen.version):
                self.seen = found

    def _read(self) -> Seen | None:
        if not self._path.exists():
            return None
        try:
            return msgspec.convert(decode_json(read_private_file(self._path)), Seen)
        except (EncodingError, msgspec.ValidationError) as error:
            raise KeyFileError(
                f"{self._path} cannot be used: {describe_validation(error)}; restore it, or remove "
                "it if the store was not set back since"
            ) from error

    def _write(self, seen: Seen, *, replace: bool = False) -> None:
        try:
            there = None if replace else self._read()
            if there and (there.store == seen.store and there.version >= seen.version):
                return
            write_own_file(self._path, msgspec.json.encode(seen) + b"\n", replace=bool(seen.store))
        except OSError as error:
            if not self._reported:
                _logger.warning(
                    "the newest schedule of the signing keys is remembered in memory only: %s",
                    os_error_with_advice(error),
                )
            self._reported = True


def _digest(stored: StoredKeys) -> str:
    return sha256(stored.record).hexdigest()
