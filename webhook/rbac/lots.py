"""Changes that can be too large for one transaction of the store.

Invariants:

1. A change is one transaction where it fits into one; a clean-up is always made in lots.
2. Otherwise each lot is a change that a caller could have made alone, and the rest is decided again
   after it: a process that dies between two lots leaves a valid state.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from webhook.rbac.records import Record

MAX_LOT_RECORDS: Final = 1000
MAX_LOT_BYTES: Final = 1 << 19
MAX_BYTES: Final = 1 << 20
"""Of one transaction. etcd accepts requests of 1.5 MiB, with what the store adds to each record."""
_RECORD_BYTES: Final = 64
"""For what a store adds to a record."""


class Lots(list[Record]):
    """The records of a change, which may be written in several transactions.

    ``first`` is what is written first if not all of them fit into one; empty if that cannot be
    divided. Then the change is decided again. Of a clean-up there is only ``first``, until that is
    empty.
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
        return self.first, False


def lot(records: Iterable[Record]) -> list[Record]:
    """Return as many of the first records as make up one lot, at least one of them."""
    taken: list[Record] = []
    size = 0
    for record in records:
        size += _size(record)
        if taken and (len(taken) == MAX_LOT_RECORDS or size > MAX_LOT_BYTES):
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
