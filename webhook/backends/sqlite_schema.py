"""The schema and the checksums of a SQLite file of Leeway, and the errors of a damaged one."""

import sqlite3
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from keys.messages import shown_path
from webhook.rbac.errors import StoreError, StoreLockedError, StoreUnavailableError

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x4C454557  # "LEEW": tells `file` and us what this database is

# Each entry brings the schema from the version of its index to the next one.
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
# The schema that they add up to.
_SCHEMA: Final = frozenset(statement for statement in _MIGRATIONS[0] if "CREATE" in statement)
# Errors that pass, or that an administrator can end without restoring a backup.
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


def prepare(
    connection: sqlite3.Connection, path: Path, *, read_only: bool, verify: bool = True
) -> None:
    """Set up a connection, bring the schema to SCHEMA_VERSION and, with ``verify``, check the file.

    With ``read_only`` the file is not changed. Raises StoreError if it is damaged, of a later
    version or not a database of Leeway.
    """
    execute = connection.execute
    execute("PRAGMA trusted_schema = OFF")
    with transaction(connection, "BEGIN"):
        version = _recognised_version(connection, path)
    if not read_only:
        # Only where necessary: it changes the ctime, by which other processes notice changes.
        if stat.S_IMODE(path.stat().st_mode) != 0o600:
            path.chmod(0o600)
        # Invariant 1 of `sqlite.py`. No write-ahead log: SQLite before 3.51.3 can corrupt a
        # database when it resets one.
        execute("PRAGMA journal_mode = PERSIST")
        # Invariant 1 of ``sqlite.py``.
        execute("PRAGMA synchronous = FULL")
    if version < SCHEMA_VERSION and not read_only:
        with transaction(connection, "BEGIN IMMEDIATE"):
            _migrate(connection, _recognised_version(connection, path))
    if not verify:
        return
    with transaction(connection, "BEGIN"):
        problem = execute("PRAGMA integrity_check(1)").fetchone()[0]
        if problem != "ok":
            raise damaged(path, problem)
        rows = execute("SELECT sql FROM sqlite_schema").fetchall()
        if {sql for (sql,) in rows} != _SCHEMA or len(rows) != len(_SCHEMA):
            raise damaged(path, "its schema is not that of this version")


def _recognised_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the schema version, 0 for a new database. Raises StoreError for a foreign one."""
    application, version, tables = (
        int(connection.execute(sql).fetchone()[0])
        for sql in (
            "PRAGMA application_id",
            "PRAGMA user_version",
            "SELECT count(*) FROM sqlite_schema",
        )
    )
    if (application, version, tables) == (0, 0, 0) and not path.stat().st_size:
        return 0
    if application != APPLICATION_ID:
        raise StoreError(
            f"{shown_path(path)} is not a database of Leeway, or it is damaged; move it away, "
            "or restore it from a backup"
        )
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{shown_path(path)} has schema version {version}, this version of Leeway knows "
            f"{SCHEMA_VERSION}; use the version that wrote it, or restore it from a backup"
        )
    if version < 1:
        raise damaged(path, f"its schema version is {version}")
    return version


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    execute = connection.execute
    for statements in _MIGRATIONS[version:]:
        for statement in statements:
            execute(statement)
    if version == 0:
        execute("UPDATE store SET checksum = ?", (store_checksum(0, 0),))
    execute(f"PRAGMA application_id = {APPLICATION_ID}")
    execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextmanager
def transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    """Run the body as one transaction, and roll it back on an exception."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite may have rolled it back itself.
            connection.execute("ROLLBACK")
        raise


@contextmanager
def translating(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into StoreUnavailableError, if they may pass, or StoreError."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None and not isinstance(error, sqlite3.OperationalError):
            raise  # A programming error, such as a query after `close`.
        if code is not None and code & 0xFF in _PASSING:
            message = f"{shown_path(path)} cannot be used now: {error}; try again"
            if code & 0xFF == sqlite3.SQLITE_BUSY:
                raise StoreLockedError(message) from error
            raise StoreUnavailableError(message) from error
        raise damaged(path, str(error)) from error
    except UnicodeDecodeError as error:
        raise damaged(path, "its schema is not UTF-8") from error


def damaged(path: Path, problem: str) -> StoreError:
    """Return the error for a damaged file."""
    return StoreError(f"{shown_path(path)} is damaged: {problem}; restore it from a backup")


def record_checksum(kind: str, record_id: bytes, value: bytes | None, revision: int) -> int:
    """Return the checksum over all columns of a row of records."""
    head = f"{kind}\0{revision}\0{len(record_id)}\0{'-' if value is None else len(value)}\0"
    return zlib.crc32(value or b"", zlib.crc32(record_id, zlib.crc32(head.encode("utf-8"))))


def store_checksum(revision: int, compacted: int) -> int:
    """Return the checksum over the row of revisions."""
    return zlib.crc32(f"{revision}\0{compacted}".encode())
