"""Opens the file of a SQLite database, and notices when it changes or is replaced."""

import os
import sqlite3
import stat
from pathlib import Path
from time import time_ns
from typing import Final, NamedTuple

from keys.messages import shown_path
from webhook.backends.sqlite_journal import COUNTER_AT, COUNTER_SIZE, is_foreign, read_journal
from webhook.backends.sqlite_schema import damaged, prepare, translating
from webhook.rbac.errors import StoreError, StoreUnavailableError

BUSY_SECONDS: Final = 1.5
_SECOND_NS: Final = 1_000_000_000
_STEP_NS: Final = 100_000_000
"""More than the step of the clock from which Linux takes the ctime: 10 ms or less."""


class Mark(NamedTuple):
    """Identifies the content of a file at a path.

    ``counter`` is SQLite's change counter, to which each commit adds 1. ``changed_ns`` is the
    file's ctime, which no program can set: ``cp -p`` sets only the modification time.
    """

    counter: bytes
    inode: int
    device: int
    changed_ns: int

    def is_same_file(self, other: "Mark") -> bool:
        """Return whether both are of the same file, whatever it contains."""
        return self.inode == other.inode and self.device == other.device


class StoreFile:
    """An open database. A process opens a file once: closing it drops all its locks on it."""

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool,
        verify: bool = True,
        fill: bool = False,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        """Open an existing file, bring its schema up to date and, with ``verify``, check all of it.

        An empty file becomes a database only with ``fill``. Raises StoreError if it is damaged or
        not a database of Leeway, StoreUnavailableError if it cannot be opened.
        """
        self._path = path
        self.name = os.fsencode(path)
        self._may_be_empty = fill
        self.settled: Mark | None = None
        before = self._status()
        with translating(path):
            self.connection = self._connect("ro" if read_only else "rw", busy_seconds)
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.connection.close()
            raise _cannot_be_opened(path, error) from error
        try:
            # Otherwise the connection and the descriptor may be of two files.
            opened = os.fstat(self.descriptor)
            if (before.st_ino, before.st_dev) != (opened.st_ino, opened.st_dev):
                raise StoreUnavailableError(f"{shown_path(path)} is being replaced; try again")
            self.require_own_journal()
            with translating(path):
                prepare(self.connection, path, read_only=read_only, verify=verify)
            self._may_be_empty = False
        except BaseException:
            self.close()
            raise

    def read_mark(self) -> Mark:
        """Return the counter of the open file and the identity of that at its path. Takes no lock.

        ``PRAGMA data_version`` also tells whether the counter changed, but takes ten times as long.
        Raises OSError. Source: https://www.sqlite.org/fileformat2.html, section 1.3.7.
        """
        found = os.stat(self.name)  # noqa: PTH116 - for every request
        counter = os.pread(self.descriptor, COUNTER_SIZE, COUNTER_AT)
        return Mark(counter, found.st_ino, found.st_dev, found.st_ctime_ns)

    def has_counter_of(self, mark: Mark) -> bool:
        """Return whether the counter is that of ``mark``, whose file and ctime are at the path.

        Two commits within one step of the kernel's clock have the same ctime, so that the counter
        has to be read as well. Once the ctime is longer ago than a step, any later commit has
        another one: then the mark is ``settled``, and its ctime is enough. On file systems that
        store only seconds no mark is ever settled.

        Raises OSError.
        """
        now_ns = time_ns()
        if os.pread(self.descriptor, COUNTER_SIZE, COUNTER_AT) != mark.counter:
            return False
        if mark.changed_ns % _SECOND_NS and now_ns - mark.changed_ns > _STEP_NS:
            self.settled = mark
        return True

    def is_being_written(self, mark: Mark) -> bool:
        """Return whether a commit that follows ``mark`` is in progress."""
        journal = read_journal(self._path)
        return journal is not None and journal.counter == int.from_bytes(mark.counter)

    def misses_commit(self, mark: Mark) -> bool:
        """Return whether a commit after ``mark`` may have ended, for a file that has changed."""
        try:
            is_same_file = self.read_mark().is_same_file(mark)
        except OSError:
            return True
        return not (is_same_file and self.is_being_written(mark))

    def check(self) -> Mark:
        """Return the mark of a file that can be used.

        Raises StoreUnavailableError if it is missing or cannot be read, StoreError if it is empty
        or not a plain file.
        """
        self._status()
        if not os.access(self._path, os.R_OK):
            raise StoreUnavailableError(
                f"{shown_path(self._path)} cannot be read: Permission denied; let the user that "
                "this runs as read it"
            )
        try:
            return self.read_mark()
        except OSError as error:
            raise _cannot_be_opened(self._path, error) from error

    def require_own_journal(self) -> None:
        """Raise StoreError if the journal beside the file belongs to another file."""
        if is_foreign(self._path, lambda: self.read_mark().counter):
            name = shown_path(self._path)
            raise StoreError(
                f"{name} was replaced, and {name}-journal is still that of the file "
                "before; remove the journal, or SQLite would mix the two"
            )

    def close(self) -> None:
        """Close the database."""
        self.connection.close()
        # Last: it drops every lock of this process on the file.
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _status(self) -> os.stat_result:
        try:
            status = self._path.stat()
        except FileNotFoundError as error:
            raise StoreUnavailableError(
                f"{shown_path(self._path)} is missing; restore it from a backup, or make a new one "
                "with `leeway init`"
            ) from error
        except OSError as error:
            raise _cannot_be_opened(self._path, error) from error
        if not stat.S_ISREG(status.st_mode):
            raise StoreError(
                f"{shown_path(self._path)} is not a plain file; restore it from a backup"
            )
        if not (status.st_size or self._may_be_empty):
            raise damaged(self._path, "it is empty")
        return status

    def _connect(self, mode: str, busy_seconds: float) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=busy_seconds,
            isolation_level=None,
            check_same_thread=False,
        )


def _cannot_be_opened(path: Path, error: OSError) -> StoreUnavailableError:
    return StoreUnavailableError(f"{shown_path(path)} cannot be opened: {error.strerror}")
