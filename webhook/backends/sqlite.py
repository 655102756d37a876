"""The embedded backend: one SQLite file that every worker and command opens.

Invariants:

1. A rollback journal and ``synchronous=FULL``: what ``commit`` has returned for survives a crash of
   the process and of the machine. No write-ahead log (SQLite before 3.51.3 can corrupt a database
   when it resets one).
2. Each record carries a checksum over all of it, so that a bit that flips is noticed when it is
   loaded and not believed.
3. Revisions of the store grow by one with each transaction. A record that is gone stays as a
   tombstone until ``_TOMBSTONES_KEPT`` later ones are there; who is further behind loads all.
"""

import sqlite3
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
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
        "CREATE TABLE store (revision INTEGER NOT NULL, compacted INTEGER NOT NULL)",
        "INSERT INTO store VALUES (0, 0)",
    ),
)


class SQLiteBackend:
    """Records in a table of a SQLite database."""

    def __init__(self, path: Path) -> None:
        """Open or create the database.

        Raises StoreError where it is damaged or of a later version, StoreUnavailableError where
        it cannot be opened.
        """
        self._path = path
        self._lock = Lock()
        try:
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            path.chmod(0o600)
            # Looks without waiting, on the event loop, while the other one may be writing.
            self._watch = sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False
            )
            self._prepare()
            self._data_version = self._read_data_version()
        except sqlite3.DatabaseError as error:
            raise self._translated(error) from error

    def load(self) -> tuple[int, list[Record]]:
        """Return the revision and every record of it; a record that is damaged is a StoreError."""

        def read() -> tuple[int, list[Record]]:
            revision, _ = self._connection.execute("SELECT * FROM store").fetchone()
            rows = self._connection.execute("SELECT * FROM records")
            found = [self._checked(row) for row in rows]
            return revision, [record for record in found if record.value is not None]

        return self._reading(read)

    def changes(self, after: int) -> tuple[int, list[Record]] | None:
        """Return the revision and the records changed after ``after``."""

        def read() -> tuple[int, list[Record]] | None:
            revision, compacted = self._connection.execute("SELECT * FROM store").fetchone()
            if revision == after:
                return revision, []
            if after < compacted or after > revision:
                return None
            rows = self._connection.execute("SELECT * FROM records WHERE revision > ?", (after,))
            return revision, [self._checked(row) for row in rows]

        return self._reading(read)

    def has_changed(self) -> bool:
        """Tell whether another connection has committed since the last call."""
        try:
            version = self._read_data_version()
        except sqlite3.OperationalError:
            return False  # somebody is committing right now; the next call sees it
        if version == self._data_version:
            return False
        self._data_version = version
        return True

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        """Write all records in one transaction."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    revision = self._write(expected, records)
                    self._connection.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.DatabaseError as error:
                raise self._translated(error) from error
        return revision

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._watch.close()
            self._connection.close()

    def _write(self, expected: int, records: Sequence[Record]) -> int:
        execute = self._connection.execute
        current, compacted = execute("SELECT * FROM store").fetchone()
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
        execute("UPDATE store SET revision = ?, compacted = ?", (revision, compacted))
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

    def _reading(self, read: Callable[[], _T]) -> _T:
        with self._lock:
            try:
                self._connection.execute("BEGIN")
                try:
                    return read()
                finally:
                    self._connection.execute("ROLLBACK")
            except sqlite3.DatabaseError as error:
                raise self._translated(error) from error

    def _read_data_version(self) -> int:
        version: int = self._watch.execute("PRAGMA data_version").fetchone()[0]
        return version

    def _prepare(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA journal_mode = PERSIST")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA trusted_schema = OFF")
        application, version = (
            execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        is_new = not execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if not is_new and application != APPLICATION_ID:
            raise StoreError(f"{self._path} is not a database of Leeway; move it away")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self._path} has schema version {version}, this version of Leeway knows "
                f"{SCHEMA_VERSION}; use the version that wrote it"
            )
        self._migrate()
        problem = execute("PRAGMA integrity_check(1)").fetchone()[0]
        if problem != "ok":
            raise StoreError(self._damaged(problem))

    def _migrate(self) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            version: int = execute("PRAGMA user_version").fetchone()[0]
            for statements in _MIGRATIONS[version:]:
                for statement in statements:
                    execute(statement)
            if version < SCHEMA_VERSION:
                execute(f"PRAGMA application_id = {APPLICATION_ID}")
                execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            execute("COMMIT")
        except BaseException:
            execute("ROLLBACK")
            raise

    def _checked(self, row: tuple[str, bytes, bytes | None, int, int]) -> Record:
        kind, record_id, value, revision, checksum = row
        if checksum != _checksum(kind, record_id, value, revision):
            raise StoreError(self._damaged(f"the checksum of a record of kind {kind!r} is wrong"))
        return Record(kind, record_id, value)

    def _damaged(self, problem: str) -> str:
        return f"{self._path} is damaged: {problem}; restore it from a backup"

    def _translated(self, error: sqlite3.DatabaseError) -> StoreError | StoreUnavailableError:
        if isinstance(error, sqlite3.OperationalError):
            return StoreUnavailableError(f"{self._path} cannot be used now: {error}; try again")
        return StoreError(self._damaged(str(error)))


def _checksum(kind: str, record_id: bytes, value: bytes | None, revision: int) -> int:
    head = f"{kind}\0{revision}\0{len(record_id)}\0{'-' if value is None else len(value)}\0"
    return zlib.crc32(value or b"", zlib.crc32(record_id, zlib.crc32(head.encode("utf-8"))))
