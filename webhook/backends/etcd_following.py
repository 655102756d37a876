"""What a process knows of a store in etcd, shared by its threads.

Invariants:

1. Nothing here waits for etcd: the lock is held for calculations only.
2. A proof belongs to the state in use: nothing is proven between a failure to follow and
   ``applied(revision)`` after the load that repaired it.
3. A store that is gone, or whose place another one took, is never used again by this process.
4. A lost history is reported as such, never as an ordinary reload.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from logging import getLogger
from math import inf
from threading import Condition, Lock
from typing import Final

from webhook.backends.etcd_beside import Peers, StoreCounters
from webhook.backends.etcd_clocks import Clocks
from webhook.backends.etcd_commit import Write, Written
from webhook.backends.etcd_follow import (
    Event,
    Follower,
    HeadRead,
    LostStoreError,
    MustLoadError,
    Planned,
    Reason,
)
from webhook.backends.etcd_head import CommitId, Head, HeadError, continues, decode
from webhook.backends.etcd_proofs import NOTHING
from webhook.etcd.values import Header, KeyValue
from webhook.rbac.errors import StoreLockedError, StoreUnavailableError
from webhook.rbac.records import Record, ReplacedError

_CLOCK_WARNING: Final = 60.0
_ARRIVAL_SECONDS: Final = 1.0
_LOST_HISTORY_SECONDS: Final = 600.0
_logger = getLogger("leeway")


class Following:
    """The follower in use, what its state is proven for, and why there may be none."""

    def __init__(
        self,
        clock: Callable[[], float],
        wall: Callable[[], float],
        peers: Peers | None,
        *,
        is_fed: bool,
    ) -> None:
        self._clock, self._wall, self._peers = clock, wall, peers
        self._is_fed = is_fed
        self._arrival_seconds = _ARRIVAL_SECONDS if is_fed else 0.0
        self.changed = Condition(Lock())
        """Notified of each change; its lock guards everything here (invariant 1)."""
        self.counters = StoreCounters()
        self.clocks = Clocks()
        self.follower: Follower | None = None
        """None before the first load, and while everything has to be loaded again."""
        self.unread = 1
        self.store_id = ""
        self.problem = "it was not loaded yet"
        self._in_use: CommitId | None = None
        self._to_apply: int | None = None
        self._was_repaired = False
        self._newest = NOTHING
        self._failure: MustLoadError | None = None
        self._stopped = ""
        self._header, self._header_at = Header(0, 0, 0, 0), -inf
        self.next_watch = 0
        self._lost_history = ("", -inf)
        self._warned_of: set[str] = set()

    # What is in use.

    def require_running(self) -> None:
        """Raise StoreUnavailableError if the store is gone for this process (invariant 3)."""
        if self._stopped:
            raise StoreUnavailableError(self._stopped)

    def loaded(
        self, follower: Follower, sent: float, revision: int, floor: CommitId | None
    ) -> None:
        """Use another follower, made by a read of etcd's ``revision`` that was sent at ``sent``.

        ``floor`` is the commit known when it was sent. Raises StoreLockedError if a history was
        lost that nobody knew of: ``changes`` says so then.
        """
        with self.changed:
            store_id = follower.head.store.hex()
            if self.store_id and store_id != self.store_id:
                self._stop(
                    f"store {self.store_id} was replaced by store {store_id} while it was in use; "
                    "start this process again if that was intended"
                )
            self.require_running()
            if self.follower is not None and floor is not None:
                self._require_continued(floor, follower)
            reason = self._failure.reason if self._failure else Reason.BEHIND
            if not self.store_id:
                reason = Reason.START
            self.counters.reloads[reason] += 1
            if reason is Reason.LOST_HISTORY:
                self._lost_history = str(self._failure), self._clock()
            commit, present = follower.commit, self.follower
            if present is not None and present.history.after(commit.revision) is not None:
                # What was followed until now goes on, with what it knows of earlier commits.
                present.foreign, follower = follower.foreign, present
            else:
                self.next_watch = revision + 1
            follower.proofs.add(sent, commit.revision)
            self.store_id, self.follower = store_id, follower
            self._was_repaired = self._failure is not None
            self._failure, self.problem = None, ""
            self._to_apply, self.unread, self._newest = commit.revision, 1, NOTHING
            if not self._is_fed:  # Nothing arrives live, and others' clocks are compared by that.
                head = follower.head
                self.clocks.saw_old(head.writer, head.wall, self._wall(), self._clock())
            if follower.foreign:
                keys = ", ".join(follower.foreign)
                _logger.warning("keys under the store's prefix in etcd are not Leeway's: %s", keys)
            self.changed.notify_all()

    def _require_continued(self, floor: CommitId, found: Follower) -> None:
        if continues(floor, found.commit.revision, found.head) is not False:
            return
        text = f"revision {found.commit.revision} of the store does not continue {floor.revision}"
        self.fail(MustLoadError(Reason.LOST_HISTORY, text))
        raise StoreLockedError(f"the history of the store was lost: {text}; it is loaded again")

    def applied(self, revision: int) -> None:
        """Record that the state in use is that of ``revision``."""
        with self.changed:
            if self._to_apply is not None and revision != self._to_apply:
                return  # Of a state that is about to be replaced.
            follower = self.follower
            found = follower.history.id_of(revision) if follower else None
            if follower is None or found is None:
                return
            self._to_apply, self._in_use = None, CommitId(revision, found)
            self._update(follower)
        if self._peers is not None:
            self._peers.announce(revision, self._clock())

    def _update(self, follower: Follower) -> None:
        if self._in_use is not None and self._to_apply is None:
            self.unread = follower.history.count_after(self._in_use.revision)
            self._newest = follower.proofs.newest

    @property
    def in_use(self) -> CommitId | None:
        """The commit of the state in use."""
        return self._in_use

    def proven(self, revision: int) -> float:
        """Return as of when the state in use, of ``revision``, lacks nothing acknowledged."""
        found, sent = self._newest
        if found <= revision:
            return sent
        with self.changed:
            if self.follower is None or self._to_apply is not None:
                return -inf
            return self.follower.proofs.at(revision)

    def is_behind_peers(self, revision: int) -> bool:
        """Return whether another worker of this server knows a later revision."""
        return self._peers is not None and self._peers.is_behind(revision, self.proven(revision))

    def announce(self, revision: int) -> None:
        """Tell the other workers of a commit."""
        if self._peers is not None:
            self._peers.announce(revision, self._clock())

    def changes(self, after: int) -> tuple[int, list[Record]] | None:
        """Return what is here since ``after``, see ``Backend.changes``."""
        with self.changed:
            self.require_running()
            follower = self.follower
            if follower is None:
                self._raise_failure()
                return None
            if self._was_repaired and self._to_apply is not None:
                return None  # Invariant 2: ``after`` may be of the history before the load.
            records = follower.history.after(after)
            if records is None:
                return None
            return follower.commit.revision, records

    def _raise_failure(self) -> None:
        failure = self._failure
        if failure is not None and failure.reason is Reason.LOST_HISTORY:
            raise ReplacedError(str(failure))
        if failure is not None and not failure.is_diagnosed:
            raise StoreLockedError(f"the store has to be loaded again: {failure}")

    # What arrives.

    @contextmanager
    def using(self, follower: Follower) -> Iterator[bool]:
        """Hold the lock; False if another follower is in use. Its failures end its use."""
        with self.changed:
            is_in_use = self.follower is follower
            try:
                yield is_in_use
            except MustLoadError as error:
                if is_in_use:
                    self.fail(error)
            except LostStoreError as error:
                if is_in_use:
                    self._stop(str(error))
            else:
                if is_in_use:
                    self._update(follower)
            self.changed.notify_all()

    def follow(self, follower: Follower, revision: int, events: Sequence[Event]) -> bool:
        """Take over the events of a revision; False: this follower is no longer in use."""
        with self.using(follower) as is_in_use:
            if is_in_use:
                before, proof = follower.commit.revision, follower.proofs.newest
                group = follower.follow(revision, events)
                self.next_watch = max(self.next_watch, revision + 1)
                if group is not None and proof[0] == before:
                    self._compare_clocks(follower, proof[1])
        return self.follower is follower

    def read(self, follower: Follower, read: HeadRead, header: Header) -> bool:
        """Take over a read of the head; False: ask another member."""
        is_good = True
        with self.using(follower) as is_in_use:
            if is_in_use:
                self._check_cluster(header, read.sent)
                is_good = follower.read(read)
                self.counters.stale_reads += not is_good
                if is_good and read.revision == follower.commit.revision:
                    # Nothing of ours follows up to there, so a watch need not begin earlier.
                    self.next_watch = max(self.next_watch, header.revision + 1)
        return is_good

    def wrote(self, follower: Follower, write: Write, planned: Planned, written: Written) -> None:
        """Take over a commit of this process; it is a proof as well."""
        with self.using(follower) as is_in_use:
            if is_in_use:
                follower.wrote(written.commit, write.head, write.head_value, planned)
                if follower.commit.revision >= written.commit.revision:
                    follower.proofs.add(written.sent, written.commit.revision)

    def successor(self, commit: CommitId, later: CommitId) -> CommitId | None:
        """Return the commit that followed one, by what was followed; None if that does not say.

        Waits until ``later``, a commit of the same history, has arrived.
        """
        with self.changed:
            self.changed.wait_for(
                lambda: self.follower is None or self.follower.commit.revision >= later.revision,
                self._arrival_seconds,
            )
            if self.follower is None:
                return None
            history = self.follower.history
            if any(history.id_of(known.revision) != known.id for known in (commit, later)):
                return None
            return history.successor(commit.revision)

    def fail(self, error: MustLoadError) -> None:
        """Use the follower no more: everything has to be loaded (the lock is held)."""
        self.follower, self._failure = None, error
        self.unread, self._newest, self.problem = 1, NOTHING, str(error)
        self.counters.foreign_groups += error.reason is Reason.FOREIGN
        level = _logger.error if error.reason is Reason.LOST_HISTORY else _logger.warning
        level("the store in etcd is loaded again (%s): %s", error.reason, error)

    def undiagnosed(self) -> MustLoadError | None:
        """Return the failure of which is not known whether a history was lost with it."""
        failure = self._failure
        return failure if failure is not None and not failure.is_diagnosed else None

    def diagnose(
        self, failure: MustLoadError, head: KeyValue | None, earlier: Callable[[int], bytes | None]
    ) -> None:
        """Decide whether a history was lost (invariant 4).

        ``head`` is the present head. ``earlier`` returns the head as of a revision of etcd, None if
        that is not known any more.
        """
        in_use, is_lost = self._in_use, False
        found = _head_of(head)
        if found is not None and found.store.hex() == self.store_id and in_use and head:
            is_continued = continues(in_use, head.mod_revision, found)
            if is_continued is None:
                value = earlier(in_use.revision)
                is_continued = value is None or in_use.id in value
            is_lost = not is_continued
        with self.changed:
            failure.is_diagnosed = True
            if is_lost:
                failure.reason = Reason.LOST_HISTORY
                _logger.error("the history of the store in etcd was lost: %s", failure)
            self.changed.notify_all()

    def _stop(self, text: str) -> None:
        self._stopped = self.problem = text
        self.follower, self.unread, self._newest = None, 1, NOTHING
        _logger.error("the store in etcd is used no more: %s", text)

    def _check_cluster(self, header: Header, sent: float) -> None:
        before, received = self._header, self._header_at
        if sent < received:
            return  # Of two reads at the same time, either may be answered first.
        self._header, self._header_at = header, self._clock()
        if not before.cluster_id:
            return
        if header.cluster_id != before.cluster_id:
            raise MustLoadError(Reason.CLUSTER, "another cluster answers at etcd's endpoints")
        if header.raft_term < before.raft_term:
            raise MustLoadError(
                Reason.CLUSTER,
                f"etcd's term went back from {before.raft_term} to {header.raft_term}",
            )

    def _compare_clocks(self, follower: Follower, proof: float) -> None:
        # The commit was made after the read of the one before it, and before now.
        head, now, wall = follower.head, self._clock(), self._wall()
        self.clocks.saw(head.writer, head.wall, wall - (now - proof), wall, now)
        writer, difference = self.clocks.largest(now)
        if abs(difference) > _CLOCK_WARNING and writer not in self._warned_of:
            self._warned_of = {writer}
            _logger.warning(
                "the clocks differ: %s is %+.0f s from this one; correct the wrong one",
                writer,
                difference,
            )

    # What others want to know.

    def lost_history(self, now: float) -> str:
        """Return what was lost in the last ten minutes, empty for nothing."""
        text, when = self._lost_history
        return text if now - when <= _LOST_HISTORY_SECONDS else ""

    def is_known(self, commit: CommitId) -> bool | None:
        """Return whether a commit is of the history in use; None if it is too long ago to say."""
        with self.changed:
            follower = self.follower
            if follower is None or commit.revision < follower.history.oldest:
                return None
            return follower.history.id_of(commit.revision) == commit.id


def _head_of(kv: KeyValue | None) -> Head | None:
    try:
        return decode(kv.value) if kv else None
    except HeadError:
        return None  # The load says what is wrong.
