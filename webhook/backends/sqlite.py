"""The embedded backend: one SQLite file that every worker and command opens.

Invariants:

1. A rollback journal and ``synchronous=FULL``: what ``commit`` has returned for survives a crash of
   the process and of the machine. No write-ahead log (SQLite before 3.51.3 can corrupt a database
   when it resets one).
2. Each record, and the row of revisions, carries a checksum over all of it, and the schema is
   that of `sqlite_schema.py`: a bit that flips is noticed when it is loaded and not believed.
3. Revisions of the store grow by one with each transaction. A record that is gone stays as a
   tombstone until 10,000 later ones are there; who is further behind loads all.
4. Of one file a process has one backend: closing it would drop the locks of another one.
5. What is at the path counts, at each call. Each commit leaves a random record of kind ``head``,
   the last 256 are kept: by that of the revision in use it is told whether the data at the path is
   that data with commits added, or other data, in whichever way it got there. A commit that goes
   into a file which is not at the path any more is a conflict.
6. A lock that is held for longer than BUSY_SECONDS is not waited for again until the database has
   been reached: however many callers queue up, each is refused within that time.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import SQLITE_BUSY, Connection, OperationalError
from threading import Lock
from typing import Final, NamedTuple, TypeVar

from keys.files import create_file
from keys.messages import shown_path
from webhook.backends.sqlite_file import BUSY_SECONDS, Mark, StoreFile
from webhook.backends.sqlite_journal import COUNTER_MODULUS, COUNTER_SIZE, read_journal
from webhook.backends.sqlite_records import read_head, read_records, read_store, write_records
from webhook.backends.sqlite_schema import transaction, translating
from webhook.rbac.errors import StoreError, StoreUnavailableError
from webhook.rbac.records import ConflictError, Record, ReplacedError

_UNKNOWN: Final = COUNTER_MODULUS
_T = TypeVar("_T")


class _Found(NamedTuple):
    """What was read: where, and the revision with the record of its commit."""

    mark: Mark
    revision: int
    head: bytes | None


class SQLiteBackend:
    """Records in a table of a SQLite database."""

    def __init__(self, path: Path, *, create: bool = True, read_only: bool = False) -> None:
        """Open the database; with ``create`` one that is missing or empty is made.

        With ``read_only`` nothing of it is changed, its mode included, and none is made. Raises
        StoreError where it is damaged or of a later version, StoreUnavailableError where it cannot
        be opened.
        """
        self._path = path.absolute()
        self._read_only = read_only
        self._lock = Lock()
        self._busy_seconds = BUSY_SECONDS
        self._waited_in_vain: set[str] = set()
        self._is_writing = False
        may_create = create and not read_only
        if may_create:
            self._create()
        self._file = StoreFile(self._path, read_only=read_only, fill=may_create)
        self._seen = self._file.look_again()
        # Whether the file has to be opened, and all of it checked, before it is read again.
        self._is_doubtful = False
        self._found = self._applied = _Found(Mark(b"", 0, 0, 0), 0, None)

    def _create(self) -> None:
        # Before SQLite does it with the mode of the umask.
        try:
            create_file(self._path, b"")
        except OSError as error:
            raise StoreUnavailableError(
                f"{shown_path(self._path)} cannot be made: {error.strerror}; let the user that "
                "this runs as write there"
            ) from error

    def load(self, *, wait: bool = True) -> tuple[int, list[Record]]:
        """Return the revision and every record of it; a record that is damaged is a StoreError."""

        def read(
            connection: Connection, revision: int, _compacted: int
        ) -> tuple[int, list[Record]]:
            found = read_records(connection, self._path)
            return revision, [record for record in found if record.value is not None]

        return self._reading(read, wait=wait)

    def changes(self, after: int, *, wait: bool = True) -> tuple[int, list[Record]] | None:
        """Return the revision and the records changed after ``after``."""

        def read(
            connection: Connection, revision: int, compacted: int
        ) -> tuple[int, list[Record]] | None:
            applied = self._applied
            if after and after == applied.revision:
                if applied.head is None:
                    return None
                if read_head(connection, self._path, after) != applied.head:
                    raise ReplacedError
            if revision == after:
                return revision, []
            if after < compacted or after > revision:
                return None
            return revision, read_records(connection, self._path, after)

        return self._reading(read, wait=wait)

    @property
    def is_writing(self) -> bool:
        """Whether a transaction of this process has begun to write."""
        return self._is_writing

    def applied(self) -> None:
        """Take note that what was read or written last is in use now."""
        self._applied = self._found

    def unread(self) -> int:
        """Return how many commits are not in use yet, one that is being made included.

        Each adds one to the counter, which it writes right after it has locked readers out.
        """
        file, applied = self._file, self._applied.mark
        try:
            found = os.stat(file.name)  # noqa: PTH116 - for every request
            if (
                found.st_ctime_ns == applied.changed_ns
                and found.st_ino == applied.inode
                and found.st_dev == applied.device
                and (applied is file.settled or file.has_counter_of(applied))
            ):
                return 0
            mark = file.look()
        except OSError:
            return _UNKNOWN
        if not mark.is_same_file(applied):
            return _UNKNOWN
        ahead = int.from_bytes(mark.counter) - int.from_bytes(applied.counter)
        return ahead % COUNTER_MODULUS or _UNKNOWN

    def misses_commit(self) -> bool:
        """Return whether a commit that has ended may not be in use, where ``unread`` is not 0."""
        applied = self._applied.mark
        try:
            is_same_file = self._file.look().is_same_file(applied)
        except OSError:
            return True
        return not (is_same_file and self._is_being_written(applied))

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        """Write all records in one transaction.

        Raises ConflictError where the file was replaced too.
        """
        try:
            with self._lock:
                with (
                    translating(self._path),
                    self._waiting_once("to write"),
                    transaction(self._file.connection, "BEGIN IMMEDIATE"),
                ):
                    before = self._require_place().counter
                    revision, head = self._write(expected, records)
                # What went into a file that has just been replaced is not kept.
                mark = self._require_place()
                after = (int.from_bytes(before) + 1) % COUNTER_MODULUS
                # Another process may have committed since.
                self._seen = mark._replace(counter=after.to_bytes(COUNTER_SIZE))
                self._found = _Found(self._seen, revision, head)
                return revision
        except StoreUnavailableError:
            # SQLite refuses to write a file that was moved, with other words.
            self._require_place()
            raise
        finally:
            self._is_writing = False

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._file.close()

    def _is_being_written(self, mark: Mark) -> bool:
        """Return whether what is at the path is a commit to that content, and has not ended."""
        journal = read_journal(self._path)
        return journal is not None and journal.counter == int.from_bytes(mark.counter)

    def _require_place(self) -> Mark:
        """Return what is at the path. Raises ConflictError where that is not the open file."""
        try:
            mark = self._file.look()
        except OSError as error:
            raise ConflictError from error
        opened = os.fstat(self._file.descriptor)
        if (mark.inode, mark.device) != (opened.st_ino, opened.st_dev):
            raise ConflictError
        return mark

    def _follow(self, *, wait: bool) -> None:
        """Open the file at the path again where it is another one, or may have been overwritten.

        Raises StoreUnavailableError or StoreError where it cannot be used.
        """
        verify = True
        if not self._is_doubtful:
            mark = self._file.look_again()
            is_same_file = mark.is_same_file(self._seen)
            is_continued = mark.counter != self._seen.counter or mark == self._seen
            if is_same_file and (is_continued or self._is_being_written(mark)):
                self._file.require_own_journal()
                return
            # With the same counter SQLite would go by the pages that it has.
            verify = not is_same_file
        self._is_doubtful = True
        self._file.close()
        self._busy_seconds = BUSY_SECONDS if wait else 0.0
        self._file = StoreFile(
            self._path, read_only=self._read_only, verify=verify, busy_seconds=self._busy_seconds
        )
        self._seen = self._file.look_again()
        self._is_doubtful = False

    def _write(self, expected: int, records: Sequence[Record]) -> tuple[int, bytes]:
        connection, path = self._file.connection, self._path
        current, compacted = read_store(connection, path)
        if current != expected:
            raise ConflictError
        applied = self._applied
        if current == applied.revision and read_head(connection, path, current) != applied.head:
            raise ConflictError
        self._is_writing = True
        return current + 1, write_records(connection, current + 1, compacted, records)

    def _reading(self, read: Callable[[Connection, int, int], _T], *, wait: bool = True) -> _T:
        with self._lock:
            self._follow(wait=wait)
            connection = self._file.connection
            try:
                with (
                    translating(self._path),
                    self._waiting_once("to read", wait=wait),
                    transaction(connection, "BEGIN"),
                ):
                    revision, compacted = read_store(connection, self._path)
                    result = read(connection, revision, compacted)
                    head = read_head(connection, self._path, revision)
                    # Within the transaction, whose lock keeps it from changing: it is that of what
                    # was found, and not that of a commit that comes to nothing.
                    mark = self._file.look()
            except (StoreError, ReplacedError):
                # To be checked as one that is opened, and without the pages from before.
                self._is_doubtful = True
                raise
            except OSError as error:
                message = (
                    f"{shown_path(self._path)} cannot be read now: {error.strerror}; try again"
                )
                raise StoreUnavailableError(message) from error
            self._seen = mark
            self._found = _Found(mark, revision, head)
            return result

    @contextmanager
    def _waiting_once(self, purpose: str, *, wait: bool = True) -> Iterator[None]:
        seconds = BUSY_SECONDS if wait and purpose not in self._waited_in_vain else 0.0
        if seconds != self._busy_seconds:
            self._file.connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
            self._busy_seconds = seconds
        if wait:
            self._waited_in_vain.discard(purpose)
        try:
            yield
        except OperationalError as error:
            if wait and getattr(error, "sqlite_errorcode", 0) & 0xFF == SQLITE_BUSY:
                self._waited_in_vain.add(purpose)
            raise
