"""The embedded backend: one SQLite file that every worker and command opens.

Invariants:

1. When ``commit`` has returned, the commit survives a crash of the process and of the machine.
2. Each record, and the row of revisions, has a checksum over all of it, and the schema is that of
   ``sqlite_schema.py``: a flipped bit is an error when it is read.
3. The revision of the store grows by one with each transaction. A deleted record stays as a
   tombstone until there are 10,000 later ones; a reader that is further behind loads everything.
4. A process opens a file once: closing it a second time would drop the locks of the first.
5. The file at the path counts, at each call. Each commit writes a random record of kind ``head``,
   and the last 256 are kept: the head of the revision in use tells whether the data at the path is
   that data with more commits, or other data. A commit into a file that is no longer at the path
   is a conflict.
6. After a lock was held for longer than BUSY_SECONDS, no caller waits for it again until the
   database has been reached: however many callers queue up, each is refused within that time.
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
    """The file and the revision that were read, and the head of that revision (invariant 5)."""

    mark: Mark
    revision: int
    head: bytes | None


class SQLiteBackend:
    """Records in a table of a SQLite database.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     backend = SQLiteBackend(Path(folder, "auth.db"))
    ...     backend.commit(0, [Record("role", b"editor", b"")])
    ...     backend.load()
    ...     backend.close()
    1
    (1, [Record(kind='role', id=b'editor', value=b'')])
    """

    max_records: int | None = None
    clock_difference = 0.0

    def __init__(self, path: Path, *, create: bool = True, read_only: bool = False) -> None:
        """Open the database; with ``create`` it is created if it is missing or empty.

        With ``read_only`` nothing is created or changed, the file's mode included. Raises
        StoreError if the database is damaged or of a later version, StoreUnavailableError if it
        cannot be opened.
        """
        self._path = path.absolute()
        self._read_only = read_only
        self._lock = Lock()
        self._busy_seconds = BUSY_SECONDS
        self._timed_out: set[str] = set()
        self._is_writing = False
        may_create = create and not read_only
        if may_create:
            self._create()
        self._file = StoreFile(self._path, read_only=read_only, fill=may_create)  # Invariant 4.
        self._seen = self._file.check()
        # Whether to open the file again, and check all of it, before it is read again.
        self._must_reopen = False
        self._found = self._applied = _Found(Mark(b"", 0, 0, 0), 0, None)

    def _create(self) -> None:
        # SQLite would create it with the mode of the umask.
        try:
            create_file(self._path, b"")
        except OSError as error:
            raise StoreUnavailableError(
                f"{shown_path(self._path)} cannot be made: {error.strerror}; let the user that "
                "this runs as write there"
            ) from error

    def load(self, *, wait: bool = True) -> tuple[int, list[Record]]:
        """Return the revision and every record of it."""

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
                    raise ReplacedError  # Invariant 5.
            if revision == after:
                return revision, []
            if after < compacted or after > revision:
                return None  # Invariant 3.
            return revision, read_records(connection, self._path, after)

        return self._reading(read, wait=wait)

    @property
    def is_writing(self) -> bool:
        """Whether a transaction of this process is writing."""
        return self._is_writing

    def applied(self) -> None:
        """Record that what was read or written last is in use."""
        self._applied = self._found

    def unread(self) -> int:
        """Return how many commits are not in use, one in progress included.

        A commit adds 1 to the counter, which it writes after it has locked out readers.
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
            mark = file.read_mark()
        except OSError:
            return _UNKNOWN
        if not mark.is_same_file(applied):
            return _UNKNOWN
        ahead = int.from_bytes(mark.counter) - int.from_bytes(applied.counter)
        return ahead % COUNTER_MODULUS or _UNKNOWN

    def misses_commit(self) -> bool:
        """Return whether a commit that has ended may not be in use, if ``unread`` is not 0."""
        applied = self._applied.mark
        try:
            is_same_file = self._file.read_mark().is_same_file(applied)
        except OSError:
            return True
        return not (is_same_file and self._is_being_written(applied))

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        """Write all records in one transaction.

        Raises ConflictError also if the file was replaced.
        """
        try:
            with self._lock:
                with (
                    translating(self._path),
                    self._waiting_at_most_once("to write"),
                    transaction(self._file.connection, "BEGIN IMMEDIATE"),
                ):
                    before = self._require_open_file().counter
                    revision, head = self._write(expected, records)
                # Invariant 5: the file may have been replaced during the commit.
                mark = self._require_open_file()
                after = (int.from_bytes(before) + 1) % COUNTER_MODULUS
                # Not the counter in the mark: another process may have committed since.
                self._seen = mark._replace(counter=after.to_bytes(COUNTER_SIZE))
                self._found = _Found(self._seen, revision, head)
                return revision
        except StoreUnavailableError:
            # SQLite refuses to write a file that was moved: that is a conflict too.
            self._require_open_file()
            raise
        finally:
            self._is_writing = False

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._file.close()

    def _is_being_written(self, mark: Mark) -> bool:
        """Return whether a commit that follows ``mark`` is in progress."""
        journal = read_journal(self._path)
        return journal is not None and journal.counter == int.from_bytes(mark.counter)

    def _require_open_file(self) -> Mark:
        """Return the mark of the path. Raises ConflictError if the open file is no longer there."""
        try:
            mark = self._file.read_mark()
        except OSError as error:
            raise ConflictError from error
        opened = os.fstat(self._file.descriptor)
        if (mark.inode, mark.device) != (opened.st_ino, opened.st_dev):
            raise ConflictError
        return mark

    def _follow(self, *, wait: bool) -> None:
        """Open the file at the path again if it is another one or may have been overwritten.

        Raises StoreUnavailableError or StoreError if it cannot be used.
        """
        verify = True
        if not self._must_reopen:
            mark = self._file.check()
            is_same_file = mark.is_same_file(self._seen)
            is_continued = mark.counter != self._seen.counter or mark == self._seen
            if is_same_file and (is_continued or self._is_being_written(mark)):
                self._file.require_own_journal()
                return
            # If it has the same counter, SQLite would use the pages in its cache.
            verify = not is_same_file
        self._must_reopen = True
        self._file.close()
        self._busy_seconds = BUSY_SECONDS if wait else 0.0
        self._file = StoreFile(
            self._path, read_only=self._read_only, verify=verify, busy_seconds=self._busy_seconds
        )
        self._seen = self._file.check()
        self._must_reopen = False

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
                    self._waiting_at_most_once("to read", wait=wait),
                    transaction(connection, "BEGIN"),
                ):
                    revision, compacted = read_store(connection, self._path)
                    result = read(connection, revision, compacted)
                    head = read_head(connection, self._path, revision)
                    # Within the transaction, whose lock excludes writers: the mark is that of the
                    # data just read, and not of a commit that is rolled back later.
                    mark = self._file.read_mark()
            except (StoreError, ReplacedError):
                # The next read checks the file, and uses no page of SQLite's cache.
                self._must_reopen = True
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
    def _waiting_at_most_once(self, purpose: str, *, wait: bool = True) -> Iterator[None]:
        # Invariant 6.
        seconds = BUSY_SECONDS if wait and purpose not in self._timed_out else 0.0
        if seconds != self._busy_seconds:
            self._file.connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
            self._busy_seconds = seconds
        if wait:
            self._timed_out.discard(purpose)
        try:
            yield
        except OperationalError as error:
            if wait and getattr(error, "sqlite_errorcode", 0) & 0xFF == SQLITE_BUSY:
                self._timed_out.add(purpose)
            raise
