"""A backend of the range engine in memory. It passes the contract suite of every backend."""

from collections.abc import Sequence
from math import inf
from threading import Lock

from webhook.rbac.errors import ForeignPositionError, TooLargeError
from webhook.rbac.records import ConflictError, Record


class MemoryBackend:
    """Records in a dictionary. Several stores may share one, as workers share a database."""

    place = "memory"
    max_staleness = 0.0

    def __init__(self, max_records: int | None = None, store_id: str = "memory") -> None:
        self.max_records = max_records
        self.store_id = store_id
        self.clock_difference = 0.0
        self._lock = Lock()
        self._revision = 0
        self._records: dict[tuple[str, bytes], tuple[int, bytes | None]] = {}

    def load(self) -> tuple[int, list[Record]]:
        """Return the revision and every record of it."""
        with self._lock:
            records = [
                Record(kind, record_id, value)
                for (kind, record_id), (_, value) in self._records.items()
                if value is not None
            ]
            return self._revision, records

    def changes(self, after: int, *, wait: bool = True) -> tuple[int, list[Record]] | None:
        """Return the revision and the records changed after ``after``."""
        with self._lock:
            if after == self._revision:
                return after, []
            records = [
                Record(kind, record_id, value)
                for (kind, record_id), (revision, value) in self._records.items()
                if revision > after
            ]
            return self._revision, records

    def applied(self, _revision: int) -> None:
        """Do nothing."""

    def unread(self) -> int:
        """Return 1 always: looking is as cheap as knowing."""
        return 1

    def problem(self) -> str:
        return ""

    def proven(self, _revision: int) -> float:
        """Return infinity: every commit is seen by the next look."""
        return inf

    def wanted(self) -> None:
        """Do nothing: ``proven`` is enough for every moment."""

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        """Write all records. Raises ConflictError where the revision is not ``expected``.

        With ``max_records`` it raises TooLargeError for more than those.
        """
        records = list({(record.kind, record.id): record for record in records}.values())
        if self.max_records is not None and len(records) > self.max_records:
            raise TooLargeError(f"{len(records)} records; {self.max_records} are allowed")
        with self._lock:
            if self._revision != expected:
                raise ConflictError
            self._revision += 1
            for kind, record_id, value in records:
                self._records[kind, record_id] = (self._revision, value)
            return self._revision

    def position(self) -> str:
        """Return the revision of the last commit: every look sees all of them."""
        return f"memory-{id(self)}-{self._revision}"

    def reaches(self, position: str) -> bool:
        """Return whether the last commit is at a position or after it."""
        text, _, revision = position.rpartition("-")
        if text != f"memory-{id(self)}":
            raise ForeignPositionError("the position is of another store; use one of this store")
        return int(revision) <= self._revision

    def close(self) -> None:
        """Do nothing."""
