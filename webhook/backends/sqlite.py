"""The embedded backend: one SQLite file that every worker and command opens.

Invariants:

1. When ``commit`` has returned, the commit survives a crash of the process and of the machine.
2. Each record, and the row of revisions, has a checksum over all of it, and the schema is that of
   ``sqlite_schema.py``: a flipped bit is an error when it is read.
3. The revision of the store grows by one with each transaction. A deleted record stays as a
   tombstone until there are 10,000 later ones; a reader that is further behind loads everything.
4. A process opens a file once: closing it a second time would drop the locks of the first.
5. The file at the path counts, at each call. Each commit writes a random record of kind ``head``,
   and the last 256 are kept: the head of a revision that was returned tells whether the data at the
   path is that data with more commits, or other data. A commit into a file that is no longer at the
   path is a conflict.
6. After a lock was held for longer than BUSY_SECONDS, no caller waits for it again until the
   database has been reached: however many callers queue up, each is refused within that time.
7. ``changes`` without ``wait`` takes a lock only if it is free: it waits for no other thread and no
   other process.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from sqlite3 import SQLITE_BUSY, Connection, OperationalError
from threading import Lock
from typing import Final, TypeVar

from keys.files import create_file
from keys.messages import shown_path
from webhook.backends.sqlite_file import BUSY_SECONDS, Mark, StoreFile
from webhook.backends.sqlite_journal import COUNTER_MODULUS, COUNTER_SIZE
from webhook.backends.sqlite_position import position_text, reaches, with_later
from webhook.backends.sqlite_records import (
    read_head,
    read_heads,
    read_records,
    read_store,
    write_records,
)
from webhook.backends.sqlite_schema import transaction, translating
from webhook.rbac.errors import StoreError, StoreLockedError, StoreUnavailableError
from webhook.rbac.records import ConflictError, Record, ReplacedError

_UNKNOWN: Final = COUNTER_MODULUS
_NO_MARK: Final = Mark(b"", 0, 0, 0)
_MARKS_KEPT: Final = 16
_Heads = Mapping[int, bytes]
_T = TypeVar("_T")


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

    store_id = "sqlite"
    max_records: int | None = None
    # A commit that has ended is always seen (``proven``).
    max_staleness = 0.0
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
        self._written_on: int | None = None
        may_create = create and not read_only
        if may_create:
            self._create()
        self._file = StoreFile(self._path, read_only=read_only, fill=may_create)  # Invariant 4.
        self._seen = self._file.check()
        # Whether to open the file again, and check all of it, before it is read again.
        self._must_reopen = False
        # Of the revisions returned last, and of what was read last.
        self._marks: dict[int, Mark] = {}
        self._heads: _Heads = {}
        # Of what is in use.
        self._applied = _NO_MARK
        self._position: tuple[int, bytes] = (0, b"")

    def _create(self) -> None:
        # SQLite would create it with the mode of the umask.
        try:
            create_file(self._path, b"")
        except OSError as error:
            raise StoreUnavailableError(
                f"{shown_path(self._path)} cannot be made: {error.strerror}; let the user that "
                "this runs as write there"
            ) from error

    @property
    def place(self) -> str:
        """The path of the database."""
        return shown_path(self._path)

    def load(self) -> tuple[int, list[Record]]:
        """Return the revision and every record of it."""

        def read(
            connection: Connection, revision: int, _compacted: int
        ) -> tuple[tuple[int, list[Record]], _Heads]:
            found, heads = read_records(connection, self._path)
            live = [record for record in found if record.value is not None]
            return (revision, live), with_later({}, heads)

        with self._lock:
            return self._reading(read, wait=True)

    def changes(self, after: int, *, wait: bool = True) -> tuple[int, list[Record]] | None:
        """Return the revision and the records changed after ``after``."""
        if wait:
            with self._lock:
                return self._changes(after, wait=True)
        # Invariant 7.
        if self._lock.acquire(blocking=False):
            try:
                return self._changes(after, wait=False)
            except StoreLockedError:
                pass
            finally:
                self._lock.release()
        elif after == self._written_on:
            return after, []  # A thread of this process writes the next revision.
        if after != self._position[0] or self._file.misses_commit(self._applied):
            raise StoreLockedError(
                "the store has changes that another process keeps locked; end what locks it"
            )
        return after, []

    def _changes(self, after: int, *, wait: bool) -> tuple[int, list[Record]] | None:
        known = self._head_of(after)

        def read(
            connection: Connection, revision: int, compacted: int
        ) -> tuple[tuple[int, list[Record]] | None, _Heads]:
            heads = self._heads
            if after:
                if not known:
                    return None, heads
                if read_head(connection, self._path, after) != known:
                    raise ReplacedError  # Invariant 5.
                if heads.get(after) != known:
                    # They are of another file, which was loaded and was not taken into use.
                    heads = read_heads(connection, self._path)
            if revision == after:
                return (revision, []), heads
            if after < compacted or after > revision:
                return None, heads  # Invariant 3.
            found, later = read_records(connection, self._path, after)
            return (revision, found), with_later(heads, later)

        return self._reading(read, wait=wait)

    def applied(self, revision: int) -> None:
        """Record which revision is in use."""
        self._applied = self._marks.get(revision, _NO_MARK)
        self._position = revision, self._heads.get(revision, b"")

    def problem(self) -> str:
        """Return nothing: what is wrong is raised where it is met."""
        return ""

    def proven(self, _revision: int) -> float:
        """Return infinity: ``unread`` finds every commit that has ended."""
        return inf

    def wanted(self) -> None:
        """Do nothing: ``proven`` is enough for every moment."""

    def position(self) -> str:
        """Return the revision in use and its head, as an opaque text."""
        return position_text(*self._position)

    def reaches(self, position: str) -> bool:
        """Return whether what is in use contains what had been written at a position."""
        return reaches(position, self._position[0], self._heads)

    def unread(self) -> int:
        """Return how many commits are not in use, one in progress included.

        A commit adds 1 to the counter, which it writes after it has locked out readers.
        """
        file, applied = self._file, self._applied
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
                self._heads = with_later(self._heads, {revision: head})
                self._note(revision, self._seen)
                return revision
        except StoreUnavailableError:
            # SQLite refuses to write a file that was moved: that is a conflict too.
            self._require_open_file()
            raise
        finally:
            self._written_on = None

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._file.close()

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
            if is_same_file and (is_continued or self._file.is_being_written(mark)):
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
        known = self._head_of(current)
        if known and read_head(connection, path, current) != known:
            raise ConflictError  # Invariant 5.
        self._written_on = current
        return current + 1, write_records(connection, current + 1, compacted, records)

    def _head_of(self, revision: int) -> bytes:
        """Return the head of a revision that was returned, empty if it is not known."""
        used, head = self._position
        return head if revision == used else self._heads.get(revision, b"")

    def _note(self, revision: int, mark: Mark) -> None:
        self._marks.pop(revision, None)
        self._marks[revision] = mark
        while len(self._marks) > _MARKS_KEPT:
            del self._marks[next(iter(self._marks))]

    def _reading(
        self, read: Callable[[Connection, int, int], tuple[_T, _Heads]], *, wait: bool
    ) -> _T:
        self._follow(wait=wait)
        connection = self._file.connection
        try:
            with (
                translating(self._path),
                self._waiting_at_most_once("to read", wait=wait),
                transaction(connection, "BEGIN"),
            ):
                revision, compacted = read_store(connection, self._path)
                result, heads = read(connection, revision, compacted)
                # Within the transaction, whose lock excludes writers: the mark is that of the data
                # just read, and not of a commit that is rolled back later.
                mark = self._file.read_mark()
        except (StoreError, ReplacedError):
            # The next read checks the file, and uses no page of SQLite's cache.
            self._must_reopen = True
            raise
        except OSError as error:
            message = f"{shown_path(self._path)} cannot be read now: {error.strerror}; try again"
            raise StoreUnavailableError(message) from error
        self._seen, self._heads = mark, heads
        self._note(revision, mark)
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
