"""The last commits of a store and their records, as many as are kept. Pure."""

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from webhook.backends.etcd_head import CommitId
from webhook.rbac.records import Record

KEPT_COMMITS: Final = 1024
KEPT_BYTES: Final = 8 << 20
_RECORD_SIZE: Final = 200
"""Roughly what a record takes besides its bytes."""


class Group(NamedTuple):
    """A commit and the records that it wrote."""

    commit: CommitId
    records: Sequence[Record]


class History:
    """What was committed since a load; ``chain`` are the commits up to the loaded one."""

    def __init__(self, chain: Sequence[CommitId]) -> None:
        self._known = dict(chain)
        self._groups: deque[Group] = deque()
        self._bytes = 0
        self._base = chain[-1].revision

    def add(self, group: Group) -> None:
        """Take over the next commit; the oldest are forgotten, never the last."""
        self._known[group.commit.revision] = group.commit.id
        self._groups.append(group)
        self._bytes += _size_of(group)
        while len(self._groups) > 1 and (
            len(self._groups) > KEPT_COMMITS or self._bytes > KEPT_BYTES
        ):
            forgotten = self._groups.popleft()
            self._base = forgotten.commit.revision
            self._bytes -= _size_of(forgotten)
        while len(self._known) > KEPT_COMMITS:
            del self._known[self.oldest]

    @property
    def oldest(self) -> int:
        """The revision of the oldest commit whose id is known."""
        return next(iter(self._known))

    def id_of(self, revision: int) -> bytes | None:
        """Return the id of one of the last commits."""
        return self._known.get(revision)

    def successor(self, revision: int) -> CommitId | None:
        """Return the commit that followed one of the last commits, None for the last."""
        later = (found for found in self._known.items() if found[0] > revision)
        found = next(later, None)
        return CommitId(*found) if found else None

    def after(self, revision: int) -> list[Record] | None:
        """Return the records changed after a commit, the last of each id; None: it is too old."""
        later: list[Group] = []
        for group in reversed(self._groups):
            if group.commit.revision == revision:
                break
            later.append(group)
        else:
            if revision != self._base:
                return None
        changed: dict[tuple[str, bytes], Record] = {}
        for group in reversed(later):
            changed.update({(record.kind, record.id): record for record in group.records})
        return list(changed.values())

    def count_after(self, revision: int) -> int:
        """Return how many of the kept commits follow a revision."""
        count = 0
        for group in reversed(self._groups):
            if group.commit.revision <= revision:
                break
            count += 1
        return count


def _size_of(group: Group) -> int:
    return sum(len(r.id) + len(r.value or b"") + _RECORD_SIZE for r in group.records) + _RECORD_SIZE
