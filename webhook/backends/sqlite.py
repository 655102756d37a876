"""The embedded backend: one SQLite file that every worker and command opens.

Invariants:

1. A rollback journal and ``synchronous=FULL``: what ``commit`` has returned for survives a crash of
   the process and of the machine. No write-ahead log (SQLite before 3.51.3 can corrupt a database
   when it resets one).
2. Each record, and the row of revisions, carries a checksum over all of it, and the schema is
   that of `sqlite_schema.py`: a bit that flips is noticed when it is loaded and not believed.
3. Revisions of the store grow by one with each transaction. A record that is gone stays as a
   tombstone until ``_TOMBSTONES_KEPT`` later ones are there; who is further behind loads all.
4. Of one file a process has one backend: closing it would let go of the locks of another one.
5. A lock that is held for longer than BUSY_SECONDS is not waited for again until the database has
   been reached: however many callers queue up, each is refused within that time.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Final, TypeVar

from webhook.backends.sqlite_schema import (
    damaged,
    prepare,
    record_checksum,
    store_checksum,
    transaction,
    translating,
)
from webhook.rbac.errors import StoreUnavailableError
from webhook.rbac.records import ConflictError, Record

BUSY_SECONDS: Final = 1.5
_TOMBSTONES_KEPT: Final = 10_000
_T = TypeVar("_T")


class SQLiteBackend:
    """Records in a table of a SQLite database."""

    def __init__(self, path: Path, *, create: bool = True, read_only: bool = False) -> None:
        """Open the database; ``create`` tells whether one that is missing or empty is made anew.

        With ``read_only`` nothing of it is changed, its mode included, and none is made. Raises
        StoreError where it is damaged or of a later version, StoreUnavailableError where it cannot
        be opened.
        """
        self._path = path
        self._read_only = read_only
        self._lock = Lock()
        self._busy_seconds = BUSY_SECONDS
        self._waited_in_vain: set[str] = set()
        self._found_counter = self._applied_counter = b""
        self._is_writing = False
        try:
            if create and not read_only:
                # Before SQLite does it with the mode of the umask.
                with suppress(FileExistsError):
                    path.touch(0o600, exist_ok=False)
            elif not path.stat().st_size:
                raise damaged(self._path, "it is empty")
        except FileNotFoundError as error:
            raise StoreUnavailableError(
                f"{path} is missing; restore it from a backup, or make a new one with `leeway init`"
            ) from error
        except OSError as error:
            raise StoreUnavailableError(f"{path} cannot be opened: {error.strerror}") from error
        with translating(self._path):
            self._connection = self._connect()
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._connection.close()
            raise StoreUnavailableError(f"{path} cannot be opened: {error.strerror}") from error
        try:
            with translating(self._path):
                prepare(self._connection, path, read_only=read_only)
        except BaseException:
            self.close()
            raise

    def load(self, *, wait: bool = True) -> tuple[int, list[Record]]:
        """Return the revision and every record of it; a record that is damaged is a StoreError."""

        def read() -> tuple[int, list[Record]]:
            revision, _ = self._read_store()
            rows = self._connection.execute("SELECT * FROM records")
            found = [self._checked(row) for row in rows]
            return revision, [record for record in found if record.value is not None]

        return self._reading(read, wait=wait)

    def changes(self, after: int, *, wait: bool = True) -> tuple[int, list[Record]] | None:
        """Return the revision and the records changed after ``after``."""

        def read() -> tuple[int, list[Record]] | None:
            revision, compacted = self._read_store()
            if revision == after:
                return revision, []
            if after < compacted or after > revision:
                return None
            rows = self._connection.execute("SELECT * FROM records WHERE revision > ?", (after,))
            return revision, [self._checked(row) for row in rows]

        return self._reading(read, wait=wait)

    @property
    def is_writing(self) -> bool:
        """Whether a transaction of this process has begun to write."""
        return self._is_writing

    def applied(self) -> None:
        """Take note that what was read last is in use now."""
        self._applied_counter = self._found_counter

    def unread(self) -> int:
        """Say how many commits are not in use yet, one that is being made included.

        Each adds one to the counter, which it writes right after it has locked readers out.
        """
        counter = self._read_counter()
        if counter == self._applied_counter:
            return 0
        return (int.from_bytes(counter) - int.from_bytes(self._applied_counter)) % (1 << 32)

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        """Write all records in one transaction."""
        try:
            with (
                self._lock,
                translating(self._path),
                self._waiting_once("to write"),
                transaction(self._connection, "BEGIN IMMEDIATE"),
            ):
                return self._write(expected, records)
        finally:
            self._is_writing = False

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()
            # Not before: it lets go of every lock that this process has on the file.
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _write(self, expected: int, records: Sequence[Record]) -> int:
        execute = self._connection.execute
        current, compacted = self._read_store()
        if current != expected:
            raise ConflictError
        self._is_writing = True
        revision: int = current + 1
        rows = [
            (kind, record_id, value, revision, record_checksum(kind, record_id, value, revision))
            for kind, record_id, value in records
        ]
        self._connection.executemany("REPLACE INTO records VALUES (?, ?, ?, ?, ?)", rows)
        if any(value is None for _, _, value in records):
            compacted = max(compacted, self._compact())
        execute(
            "UPDATE store SET revision = ?, compacted = ?, checksum = ?",
            (revision, compacted, store_checksum(revision, compacted)),
        )
        return revision

    def _compact(self) -> int:
        execute = self._connection.execute
        row = execute(
            "SELECT revision FROM records WHERE value IS NULL ORDER BY revision DESC "
            "LIMIT 1 OFFSET ?",
            (2 * _TOMBSTONES_KEPT,),
        ).fetchone()
        if row is None:
            return 0
        until: int = execute(
            "SELECT revision FROM records WHERE value IS NULL ORDER BY revision DESC "
            "LIMIT 1 OFFSET ?",
            (_TOMBSTONES_KEPT,),
        ).fetchone()[0]
        execute("DELETE FROM records WHERE value IS NULL AND revision <= ?", (until,))
        return until

    def _reading(self, read: Callable[[], _T], *, wait: bool = True) -> _T:
        with (
            self._lock,
            translating(self._path),
            self._waiting_once("to read", wait=wait),
            transaction(self._connection, "BEGIN"),
        ):
            found = read()
            # Within the transaction, whose lock keeps it from changing: it is that of what was
            # found, and not that of a commit that comes to nothing.
            counter = self._read_counter()
        self._found_counter = counter
        return found

    def _read_counter(self) -> bytes:
        """Read the file change counter, which each commit changes, without a lock.

        Source: https://www.sqlite.org/fileformat2.html, section 1.3.7. ``PRAGMA data_version``
        says the same for ten times the time, and every request asks.
        """
        try:
            return os.pread(self._file, 4, 24)
        except OSError as error:
            message = f"{self._path} cannot be read now: {error.strerror}; try again"
            raise StoreUnavailableError(message) from error

    def _read_store(self) -> tuple[int, int]:
        rows = self._connection.execute("SELECT * FROM store").fetchall()
        if len(rows) != 1 or rows[0][2] != store_checksum(*rows[0][:2]):
            raise damaged(self._path, "the checksum of the revision is wrong")
        revision, compacted, _ = rows[0]
        return revision, compacted

    def _connect(self) -> sqlite3.Connection:
        mode = "ro" if self._read_only else "rwc"
        return sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )

    def _checked(self, row: tuple[str, bytes, bytes | None, int, int]) -> Record:
        kind, record_id, value, revision, checksum = row
        # SQLite holds no column to its type.
        is_typed = isinstance(kind, str) and isinstance(record_id, bytes)
        is_typed = is_typed and isinstance(value, bytes | None)
        if not is_typed or checksum != record_checksum(kind, record_id, value, revision):
            raise damaged(self._path, f"the checksum of a record of kind {kind!r} is wrong")
        return Record(kind, record_id, value)

    @contextmanager
    def _waiting_once(self, purpose: str, *, wait: bool = True) -> Iterator[None]:
        seconds = BUSY_SECONDS if wait and purpose not in self._waited_in_vain else 0.0
        if seconds != self._busy_seconds:
            self._connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
            self._busy_seconds = seconds
        if wait:
            self._waited_in_vain.discard(purpose)
        try:
            yield
        except sqlite3.OperationalError as error:
            if wait and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                self._waited_in_vain.add(purpose)
            raise
