"""Follows a store in etcd: the records' hashes, the last commits, and as of when they are proven.

Pure: events, reads and times in, records out. Times are seconds of CLOCK_BOOTTIME.

Invariants:

1. ``commit`` is the commit whose records were handed out last; the hashes are those of its records.
2. A group of events (one revision) is handed out completely, or not at all: its head is that of
   this store, follows ``commit``, and has the count and the digest of the records after it.
3. What does not follow is an error that says why; after one, the follower is never used again.
4. A read that returned an earlier commit than was known when it was sent proves nothing.

The hashes are what a commit subtracts from the digest for the records that it replaces. Reading the
old values before each commit instead would cost a request, and they may be compacted. For 110,000
records the hashes take 20 MiB.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from webhook.backends.etcd_head import CommitId, Contents, Head, HeadError, continues, decode
from webhook.backends.etcd_history import Group, History
from webhook.backends.etcd_layout import Layout, UnreadableKeyError, name_of, shown_key
from webhook.backends.etcd_proofs import Proofs
from webhook.rbac.records import Record

_STALE_READS_ALLOWED: Final = 1


class Reason(StrEnum):
    """Why everything is loaded again; the label of a metric."""

    START = "start"
    COMPACTED = "compacted"
    FOREIGN = "foreign"
    GAP = "gap"
    DIVERGED = "diverged"
    DAMAGED = "damaged"
    CLUSTER = "cluster"
    LOST_HISTORY = "lost_history"
    BEHIND = "behind"


class MustLoadError(Exception):
    """The data does not continue what was handed out: load all of it (invariant 3)."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.is_diagnosed = reason is Reason.LOST_HISTORY
        """Whether it is known if a history was lost with it."""


class LostStoreError(Exception):
    """The store that was followed is gone, or another one took its place: answer nothing."""


class Event(NamedTuple):
    """A change of a key; a value of None means that it was deleted."""

    key: bytes
    value: bytes | None


class HeadRead(NamedTuple):
    """A linearizable read of the head's key.

    ``floor`` is the commit known when it was sent at ``sent``; a revision of 0 means no head.
    """

    sent: float
    floor: CommitId
    revision: int
    value: bytes


class Loaded(NamedTuple):
    """All of a store as of one commit."""

    commit: CommitId
    head: Head
    value: bytes
    hashes: dict[bytes, bytes]
    foreign: tuple[str, ...] = ()
    """The keys under the prefix that are not records of this store, for people."""


class Planned(NamedTuple):
    """What a commit writes: a value of None deletes the key."""

    values: list[tuple[bytes, bytes | None]]
    hashes: list[tuple[bytes, bytes | None]]
    records: list[Record]
    contents: Contents


class Follower:
    """What is known of one store since it was loaded."""

    def __init__(self, layout: Layout, loaded: Loaded) -> None:
        self._layout = layout
        self.commit = loaded.commit
        self.head = loaded.head
        self.value = loaded.value
        self.foreign = loaded.foreign
        self._hashes = loaded.hashes
        self.history = History(loaded.head.chain(loaded.commit.revision))
        self.proofs = Proofs()
        self._stale_reads = 0

    # Following.

    def follow(self, revision: int, events: Sequence[Event]) -> Group | None:
        """Take over the events of a revision; None where they are known already.

        Raises MustLoadError and LostStoreError (invariant 2).
        """
        # 1. The head is among them.
        values = {event.key: event.value for event in events}
        if self._layout.head not in values:
            keys = ", ".join(shown_key(event.key) for event in events[:3])
            raise MustLoadError(
                Reason.FOREIGN,
                f"something other than Leeway wrote revision {revision}: {keys}; keep it away from "
                "the prefix",
            )
        # 2. It is a head of this store.
        head = self._read_head(values.pop(self._layout.head))
        # 3. It is known already: this process wrote it, or the watch began earlier.
        if revision <= self.commit.revision:
            if revision >= self.history.oldest:
                self._require_known(CommitId(revision, head.id))
            return None
        # 4. It follows the last commit.
        self._require_next(revision, head)
        # 5. The others are records.
        records, hashes = self._read_records(revision, values)
        # 6. Together with the other records they are what the head describes.
        contents = self._contents_after(hashes)
        if contents != head.contents:
            raise MustLoadError(
                Reason.DIVERGED,
                f"revision {revision}, written by {head.writer}, does not describe its records",
            )
        return self._take(CommitId(revision, head.id), head, events, records, hashes)

    def wrote(self, commit: CommitId, head: Head, value: bytes, planned: Planned) -> Group | None:
        """Take over a commit of this process; None if it is known, or others are missing before."""
        if head.previous != self.commit:
            return None
        event = Event(self._layout.head, value)
        return self._take(commit, head, (event,), planned.records, planned.hashes)

    # Writing.

    def plan(self, records: Iterable[Record]) -> Planned:
        """Return what the next commit writes; the last record of each id counts."""
        last = {
            name_of(kind, record_id): (kind, record_id, value) for kind, record_id, value in records
        }
        planned = Planned([], [], [Record(*record) for record in last.values()], Contents(0, 0))
        for name, (_, _, value) in last.items():
            key = self._layout.records + name
            if value is None:
                planned.values.append((key, None))
                planned.hashes.append((name, None))
            else:
                stored, digest = self._layout.value_of(name, value)
                planned.values.append((key, stored))
                planned.hashes.append((name, digest))
        return planned._replace(contents=self._contents_after(planned.hashes))

    # Freshness.

    def read(self, read: HeadRead) -> bool:
        """Take over a read of the head; False: ask another member, this answer proves nothing.

        Raises MustLoadError and LostStoreError.
        """
        head = self._read_head(read.value if read.revision else None)
        found = CommitId(read.revision, head.id)
        if found.revision < read.floor.revision:  # Invariant 4.
            self._stale_reads += 1
            if self._stale_reads > _STALE_READS_ALLOWED:
                raise MustLoadError(
                    Reason.LOST_HISTORY,
                    f"etcd has revision {found.revision} of the store, and had "
                    f"{read.floor.revision} before",
                )
            return False
        self._stale_reads = 0
        if found.revision > self.commit.revision:
            self.proofs.expect(read.sent, found)
        elif found.revision >= self.history.oldest:
            self._require_known(found)
            self.proofs.add(read.sent, found.revision)
        return True

    # Steps of the above.

    def _read_head(self, value: bytes | None) -> Head:
        if value is None:
            raise LostStoreError(
                "the head of the store was deleted while it was in use; restore the store from a "
                "backup, and start this process again"
            )
        try:
            head = decode(value)
        except HeadError as error:
            raise MustLoadError(Reason.DAMAGED, str(error)) from error
        if head.store != self.head.store:
            raise LostStoreError(
                f"store {self.head.store.hex()} was replaced by store {head.store.hex()} while it "
                "was in use; start this process again if that was intended"
            )
        return head

    def _require_known(self, commit: CommitId) -> None:
        if self.history.id_of(commit.revision) != commit.id:
            raise MustLoadError(
                Reason.LOST_HISTORY,
                f"revision {commit.revision} of the store is another commit than before",
            )

    def _require_next(self, revision: int, head: Head) -> None:
        if head.previous == self.commit:
            return
        if self.commit in head.chain(revision):
            raise MustLoadError(
                Reason.GAP,
                f"the commits between {self.commit.revision} and {revision} did not arrive",
            )
        raise MustLoadError(
            Reason.GAP if continues(self.commit, revision, head) is None else Reason.LOST_HISTORY,
            f"revision {revision} of the store does not continue {self.commit.revision}",
        )

    def _read_records(
        self, revision: int, values: Mapping[bytes, bytes | None]
    ) -> tuple[list[Record], list[tuple[bytes, bytes | None]]]:
        records: list[Record] = []
        hashes: list[tuple[bytes, bytes | None]] = []
        for key, value in values.items():
            try:
                if value is None:
                    record, digest = Record(*self._layout.id_of(key), None), None
                else:
                    record, digest = self._layout.record_of(key, value)
            except UnreadableKeyError as error:
                raise MustLoadError(Reason.DAMAGED, f"{error} (revision {revision})") from error
            records.append(record)
            hashes.append((self._layout.name_in(key), digest))
        return records, hashes

    def _contents_after(self, hashes: Iterable[tuple[bytes, bytes | None]]) -> Contents:
        contents = self.head.contents
        for name, digest in hashes:
            before = self._hashes.get(name)
            if before is not None:
                contents = contents.without(before)
            if digest is not None:
                contents = contents.with_one_more(digest)
        return contents

    def _take(
        self,
        commit: CommitId,
        head: Head,
        events: Sequence[Event],
        records: Sequence[Record],
        hashes: Iterable[tuple[bytes, bytes | None]],
    ) -> Group:
        for name, digest in hashes:
            if digest is None:
                self._hashes.pop(name, None)
            else:
                self._hashes[name] = digest
        self.value = next(e.value for e in events if e.key == self._layout.head and e.value)
        self.commit, self.head = commit, head  # Invariant 1.
        group = Group(commit, records)
        self.history.add(group)
        for sent, found in self.proofs.arrived(commit.revision):
            self._require_known(found)
            self.proofs.add(sent, found.revision)
        return group
