"""The embedded backend: one SQLite file that every worker and command opens.

Invariants:

1. A rollback journal and ``synchronous=FULL``: what ``commit`` has returned for survives a crash of
   the process and of the machine. No write-ahead log (SQLite before 3.51.3 can corrupt a database
   when it resets one).
2. Each record, and the row of revisions, carries a checksum over all of it, and the schema is the
   one written here: a bit that flips is noticed when it is loaded and not believed.
3. Revisions of the store grow by one with each transaction. A record that is gone stays as a
   tombstone until ``_TOMBSTONES_KEPT`` later ones are there; who is further behind loads all.
4. A lock that is held for longer than BUSY_SECONDS is not waited for again until the database has
   been reached: however many callers queue up, each is refused within that time.
"""

import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Final, TypeVar

from webhook.rbac.errors import StoreError, StoreUnavailableError
from webhook.rbac.records import ConflictError, Record

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x4C454557  # "LEEW": tells `file` and us what this database is
BUSY_SECONDS: Final = 1.5
_TOMBSTONES_KEPT: Final = 10_000
_T = TypeVar("_T")

# Each entry takes the schema from its index to the next version.
_MIGRATIONS: Final = (
    (
        """CREATE TABLE records (
            kind TEXT NOT NULL, id BLOB NOT NULL, value BLOB, revision INTEGER NOT NULL,
            checksum INTEGER NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID""",
        "CREATE INDEX records_by_revision ON records (revision)",
        "CREATE INDEX tombstones_by_revision ON records (revision) WHERE value IS NULL",
        """CREATE TABLE store (
            revision INTEGER NOT NULL, compacted INTEGER NOT NULL, checksum INTEGER NOT NULL)""",
        "INSERT INTO store VALUES (0, 0, 0)",
    ),
)
# What they add up to.
_SCHEMA: Final = frozenset(statement for statement in _MIGRATIONS[0] if "CREATE" in statement)
# What goes away by itself or by a hand on the machine, without a backup.
_PASSING: Final = frozenset(
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    )
)


class SQLiteBackend:
    """Records in a table of a SQLite database."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Open the database; ``create`` tells whether one that is missing or empty is made anew.

        Raises StoreError where it is damaged or of a later version, StoreUnavailableError where
        it cannot be opened.
        """
        self._path = path
        self._lock = Lock()
        self._busy_seconds = BUSY_SECONDS
        self._waited_in_vain: set[str] = set()
        self._data_version = -1  # as of the last reading; -1 is none that SQLite gives
        try:
            if create:
                # Before SQLite does it with the mode of the umask.
                with suppress(FileExistsError):
                    path.touch(0o600, exist_ok=False)
            elif not path.stat().st_size:
                raise StoreError(self._damaged("it is empty"))
        except FileNotFoundError as error:
            raise StoreUnavailableError(
                f"{path} is missing; restore it from a backup, or make a new one with `leeway init`"
            ) from error
        except OSError as error:
            raise StoreUnavailableError(f"{path} cannot be opened: {error.strerror}") from error
        with self._translating():
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            # Looks without waiting, on the event loop, while the other one may be writing.
            self._watch = sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False
            )
        try:
            with self._translating():
                self._prepare()
        except BaseException:
            self.close()
            raise

    def load(self) -> tuple[int, list[Record]]:
        """Return the revision and every record of it; a record that is damaged is a StoreError."""

        def read() -> tuple[int, list[Record]]:
            revision, _ = self._read_store()
            rows = self._connection.execute("SELECT * FROM records")
            found = [self._checked(row) for row in rows]
            return revision, [record for record in found if record.value is not None]

        return self._reading(read)

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

    def has_changed(self) -> bool:
        """Tell whether another connection has committed since the last reading."""
        version = self._read_data_version()
        return version is not None and version != self._data_version

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        """Write all records in one transaction."""
        with (
            self._lock,
            self._translating(),
            self._waiting_once("to write"),
            self._transaction("BEGIN IMMEDIATE"),
        ):
            return self._write(expected, records)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._watch.close()
            self._connection.close()

    def _write(self, expected: int, records: Sequence[Record]) -> int:
        execute = self._connection.execute
        current, compacted = self._read_store()
        if current != expected:
            raise ConflictError
        revision: int = current + 1
        rows = [
            (kind, record_id, value, revision, _checksum(kind, record_id, value, revision))
            for kind, record_id, value in records
        ]
        self._connection.executemany("REPLACE INTO records VALUES (?, ?, ?, ?, ?)", rows)
        if any(value is None for _, _, value in records):
            compacted = max(compacted, self._compact())
        execute(
            "UPDATE store SET revision = ?, compacted = ?, checksum = ?",
            (revision, compacted, _store_checksum(revision, compacted)),
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
        with self._lock, self._translating(), self._waiting_once("to read", wait=wait):
            # Taken before: what is committed meanwhile is news once more, not missed.
            version = self._read_data_version()
            with self._transaction("BEGIN"):
                found = read()
            if version is not None:
                self._data_version = version
        return found

    def _read_data_version(self) -> int | None:
        """Return a number that changes with each commit of another connection.

        None while somebody is committing.
        """
        try:
            version: int = self._watch.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.OperationalError:
            return None
        return version

    def _read_store(self) -> tuple[int, int]:
        rows = self._connection.execute("SELECT * FROM store").fetchall()
        if len(rows) != 1 or rows[0][2] != _store_checksum(*rows[0][:2]):
            raise StoreError(self._damaged("the checksum of the revision is wrong"))
        revision, compacted, _ = rows[0]
        return revision, compacted

    def _prepare(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA trusted_schema = OFF")
        with self._transaction("BEGIN"):
            version = self._recognised_version()
        self._path.chmod(0o600)
        execute("PRAGMA journal_mode = PERSIST")
        execute("PRAGMA synchronous = FULL")
        if version < SCHEMA_VERSION:
            with self._transaction("BEGIN IMMEDIATE"):
                self._migrate(self._recognised_version())
        with self._transaction("BEGIN"):
            problem = execute("PRAGMA integrity_check(1)").fetchone()[0]
            if problem != "ok":
                raise StoreError(self._damaged(problem))
            rows = execute("SELECT sql FROM sqlite_schema").fetchall()
            if {sql for (sql,) in rows} != _SCHEMA or len(rows) != len(_SCHEMA):
                raise StoreError(self._damaged("its schema is another"))

    def _recognised_version(self) -> int:
        """Return the schema version, 0 for a new database. Raises StoreError for a foreign one."""
        execute = self._connection.execute
        application, version, tables = (
            int(execute(sql).fetchone()[0])
            for sql in (
                "PRAGMA application_id",
                "PRAGMA user_version",
                "SELECT count(*) FROM sqlite_schema",
            )
        )
        if (application, version, tables) == (0, 0, 0) and not self._path.stat().st_size:
            return 0
        if application != APPLICATION_ID:
            raise StoreError(
                f"{self._path} is not a database of Leeway, or it is damaged; move it away, "
                "or restore it from a backup"
            )
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self._path} has schema version {version}, this version of Leeway knows "
                f"{SCHEMA_VERSION}; use the version that wrote it, or restore it from a backup"
            )
        if version < 1:
            raise StoreError(self._damaged(f"its schema version is {version}"))
        return version

    def _migrate(self, version: int) -> None:
        execute = self._connection.execute
        for statements in _MIGRATIONS[version:]:
            for statement in statements:
                execute(statement)
        if version == 0:
            self._connection.execute("UPDATE store SET checksum = ?", (_store_checksum(0, 0),))
        execute(f"PRAGMA application_id = {APPLICATION_ID}")
        execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        execute = self._connection.execute
        execute(begin)
        try:
            yield
            execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # SQLite may have done it itself
                execute("ROLLBACK")
            raise

    def _checked(self, row: tuple[str, bytes, bytes | None, int, int]) -> Record:
        kind, record_id, value, revision, checksum = row
        # SQLite holds no column to its type.
        is_typed = isinstance(kind, str) and isinstance(record_id, bytes)
        is_typed = is_typed and isinstance(value, bytes | None)
        if not is_typed or checksum != _checksum(kind, record_id, value, revision):
            raise StoreError(self._damaged(f"the checksum of a record of kind {kind!r} is wrong"))
        return Record(kind, record_id, value)

    def _damaged(self, problem: str) -> str:
        return f"{self._path} is damaged: {problem}; restore it from a backup"

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

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code is None and not isinstance(error, sqlite3.OperationalError):
                raise  # a mistake of ours, such as a question after `close`
            if code is not None and code & 0xFF in _PASSING:
                message = f"{self._path} cannot be used now: {error}; try again"
                raise StoreUnavailableError(message) from error
            raise StoreError(self._damaged(str(error))) from error
        except UnicodeDecodeError as error:
            raise StoreError(self._damaged("a text of its schema is none")) from error


def _checksum(kind: str, record_id: bytes, value: bytes | None, revision: int) -> int:
    head = f"{kind}\0{revision}\0{len(record_id)}\0{'-' if value is None else len(value)}\0"
    return zlib.crc32(value or b"", zlib.crc32(record_id, zlib.crc32(head.encode("utf-8"))))


def _store_checksum(revision: int, compacted: int) -> int:
    return zlib.crc32(f"{revision}\0{compacted}".encode())
