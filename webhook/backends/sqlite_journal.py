"""Reads the rollback journal beside a SQLite file, without SQLite.

Source: https://www.sqlite.org/fileformat2.html, sections 1.3.7 and 3.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

COUNTER_AT: Final = 24
"""The offset in a database of its change counter, to which each commit adds 1."""
COUNTER_SIZE: Final = 4
COUNTER_MODULUS: Final = 1 << 32
_MAGIC: Final = bytes.fromhex("d9d505f920a163d7")
_HEADER_SIZE: Final = 28
_MAX_READ: Final = 1 << 20


class Journal(NamedTuple):
    """The journal of a transaction that is being written, or whose process has died.

    ``nonce`` differs between transactions; ``counter`` is the change counter before the
    transaction, None if the journal does not contain it.
    """

    nonce: bytes
    counter: int | None


def read_journal(database: Path) -> Journal | None:
    """Return the journal of a database, None if no transaction is being written."""
    # SQLite creates it beside the target of a symbolic link.
    path = f"{os.path.realpath(database)}-journal"
    with suppress(OSError), open(path, "rb") as file:  # noqa: PTH123 - requests may come here
        header = file.read(_HEADER_SIZE)
        if len(header) < _HEADER_SIZE or not header.startswith(_MAGIC):
            return None
        records, sector, page = (int.from_bytes(header[at : at + 4]) for at in (8, 20, 24))
        file.seek(sector)
        data = file.read(min(_MAX_READ, records * (page + 8)))
        return Journal(header[12:16], _counter_in(data, page + 8))
    return None


def _counter_in(data: bytes, step: int) -> int | None:
    # Each record is the number of a page, its old content, and a checksum.
    for at in range(0, len(data), step):
        if int.from_bytes(data[at : at + 4]) == 1:
            start = at + 4 + COUNTER_AT
            return int.from_bytes(data[start : start + COUNTER_SIZE])
    return None


def is_foreign(database: Path, read_counter: Callable[[], bytes]) -> bool:
    """Return whether the journal beside a database belongs to another file.

    SQLite would write the pages of that other file into this one. The counter of the journal's own
    file is that in the journal, or 1 more.
    """
    journal = read_journal(database)
    if journal is None or journal.counter is None:
        return False
    ahead = (int.from_bytes(read_counter()) - journal.counter) % COUNTER_MODULUS
    # Between the two reads another process may have ended that transaction and begun one.
    return ahead not in (0, 1) and read_journal(database) == journal
