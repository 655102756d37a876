"""Reads and writes the rows of a SQLite file of Leeway, within a transaction of the caller."""

import os
from collections.abc import Sequence
from pathlib import Path
from sqlite3 import Connection
from typing import Final

from webhook.backends.sqlite_position import HEADS_KEPT
from webhook.backends.sqlite_schema import damaged, record_checksum, store_checksum
from webhook.rbac.records import Record

_TOMBSTONES_KEPT: Final = 10_000
_HEAD: Final = "head"
_HEAD_SIZE: Final = 8


def read_store(connection: Connection, path: Path) -> tuple[int, int]:
    """Return the revision, and that up to which tombstones are deleted. Raises StoreError."""
    rows = connection.execute("SELECT * FROM store").fetchall()
    if len(rows) != 1 or rows[0][2] != store_checksum(*rows[0][:2]):
        raise damaged(path, "the checksum of the revision is wrong")
    revision, compacted, _ = rows[0]
    return revision, compacted


def read_records(
    connection: Connection, path: Path, after: int = -1
) -> tuple[list[Record], dict[int, bytes]]:
    """Return the records written after a revision, tombstones included, and heads by revision.

    Raises StoreError.
    """
    rows = connection.execute("SELECT * FROM records WHERE revision > ?", (after,))
    found, heads = [], {}
    for row in rows:
        record = _checked(path, row)  # Invariant 2 of ``sqlite.py``.
        if record.kind != _HEAD:
            found.append(record)
        elif head := _head_in(record.value, row[3]):
            heads[row[3]] = head
    return found, heads


def read_head(connection: Connection, path: Path, revision: int) -> bytes | None:
    """Return the head that the commit of a revision wrote, None if it is no longer stored."""
    row = connection.execute(
        "SELECT * FROM records WHERE kind = ? AND id = ?", (_HEAD, _head_id(revision))
    ).fetchone()
    return None if row is None else _head_in(_checked(path, row).value, revision)


def read_heads(connection: Connection, path: Path) -> dict[int, bytes]:
    """Return every head that is stored, by revision in ascending order."""
    rows = connection.execute("SELECT * FROM records WHERE kind = ? ORDER BY revision", (_HEAD,))
    found = {row[3]: _head_in(_checked(path, row).value, row[3]) for row in rows}
    return {revision: head for revision, head in found.items() if head}


def write_records(
    connection: Connection, revision: int, compacted: int, records: Sequence[Record]
) -> bytes:
    """Write the records of a revision, and return its head."""
    head = os.urandom(_HEAD_SIZE)
    rows = [
        (kind, record_id, value, revision, record_checksum(kind, record_id, value, revision))
        for kind, record_id, value in (
            *records,
            Record(_HEAD, _head_id(revision), revision.to_bytes(8) + head),
        )
    ]
    connection.executemany("REPLACE INTO records VALUES (?, ?, ?, ?, ?)", rows)
    if any(value is None for _, _, value in records):
        compacted = max(compacted, _compact(connection))
    connection.execute(
        "UPDATE store SET revision = ?, compacted = ?, checksum = ?",
        (revision, compacted, store_checksum(revision, compacted)),
    )
    return head


def _compact(connection: Connection) -> int:
    row = connection.execute(
        "SELECT revision FROM records WHERE value IS NULL ORDER BY revision DESC LIMIT 1 OFFSET ?",
        (2 * _TOMBSTONES_KEPT,),
    ).fetchone()
    if row is None:
        return 0
    until: int = connection.execute(
        "SELECT revision FROM records WHERE value IS NULL ORDER BY revision DESC LIMIT 1 OFFSET ?",
        (_TOMBSTONES_KEPT,),
    ).fetchone()[0]
    connection.execute("DELETE FROM records WHERE value IS NULL AND revision <= ?", (until,))
    return until


def _head_id(revision: int) -> bytes:
    return (revision % HEADS_KEPT).to_bytes(2)


def _head_in(value: bytes | None, revision: int) -> bytes | None:
    marked = revision.to_bytes(8)
    return value[8:] if value and value.startswith(marked) else None


def _checked(path: Path, row: tuple[str, bytes, bytes | None, int, int]) -> Record:
    kind, record_id, value, revision, checksum = row
    # SQLite does not enforce the types of columns.
    is_typed = isinstance(kind, str) and isinstance(record_id, bytes)
    is_typed = is_typed and isinstance(value, bytes | None)
    if not is_typed or checksum != record_checksum(kind, record_id, value, revision):
        raise damaged(path, f"the checksum of a record of kind {kind!r} is wrong")
    return Record(kind, record_id, value)
