"""Changes that can be too large for one transaction of the store.

Invariants:

1. A change is one transaction where it fits into one; a clean-up is always made in batches.
2. Otherwise each batch is a change that a caller could have made alone, and the rest is decided
   again after it: a process that dies between two batches leaves a valid state.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from webhook.rbac.records import Record

MAX_BATCH_RECORDS: Final = 1000
MAX_BATCH_BYTES: Final = 1 << 19
MAX_BYTES: Final = 1 << 20
"""Of one transaction. etcd accepts requests of 1.5 MiB, with what the store adds to each record."""
_RECORD_BYTES: Final = 64
"""For what a store adds to a record."""


class Batches(list[Record]):
    """The records of a change that can be written in several transactions.

    If they do not fit into one, ``first`` is written, and the rest is decided again; ``first`` is
    empty if nothing can be divided. A clean-up, whose records are None, has only ``first``, and is
    over when that is empty.
    """

    def __init__(self, records: Iterable[Record] | None, first: Iterable[Record]) -> None:
        super().__init__(records or ())
        self.first = list(first)
        self._is_clean_up = records is None

    def next(self, max_records: int | None) -> tuple[list[Record], bool]:
        """Return what to write now, and whether that is all of it."""
        # Invariant 1.
        if not self.first or (not self._is_clean_up and fits(self, max_records)):
            return list(self), True
        return self.first, False  # Invariant 2.


def batch(records: Iterable[Record]) -> list[Record]:
    """Return as many of the first records as make up one batch, at least one of them."""
    taken: list[Record] = []
    size = 0
    for record in records:
        size += _size(record)
        if taken and (len(taken) == MAX_BATCH_RECORDS or size > MAX_BATCH_BYTES):
            break
        taken.append(record)
    return taken


def fits(records: Sequence[Record], max_records: int | None) -> bool:
    """Return whether records fit into one transaction of at most ``max_records``; None: always."""
    if max_records is None:
        return True
    return len(records) <= max_records and size_of(records) <= MAX_BYTES


def size_of(records: Iterable[Record]) -> int:
    """Return the size of records in a transaction, in bytes."""
    return sum(map(_size, records))


def _size(record: Record) -> int:
    return _RECORD_BYTES + len(record.id) + len(record.value or b"")
