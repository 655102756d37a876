"""A backend of the range engine in memory. It passes the contract suite of every backend."""

from collections.abc import Sequence
from threading import Lock

from webhook.rbac.errors import TooLargeError
from webhook.rbac.records import ConflictError, Record


class MemoryBackend:
    """Records in a dictionary. Several stores may share one, as workers share a database."""

    def __init__(self, max_records: int | None = None) -> None:
        self.max_records = max_records
        self.clock_difference = 0.0
        self._lock = Lock()
        self._revision = 0
        self._records: dict[tuple[str, bytes], tuple[int, bytes | None]] = {}

    def load(self, *, wait: bool = True) -> tuple[int, list[Record]]:
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

    @property
    def is_writing(self) -> bool:
        """Whether a commit is under way: not for long enough to be seen."""
        return False

    def applied(self) -> None:
        """Do nothing."""

    def unread(self) -> int:
        """Return 1 always: looking is as cheap as knowing."""
        return 1

    def misses_commit(self) -> bool:
        """Return False always: nothing is ever locked."""
        return False

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

    def close(self) -> None:
        """Do nothing."""
