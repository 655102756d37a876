"""The backend on an etcd cluster: one store, any number of replicas.

Invariants:

1. A commit is one transaction that compares the head's revision and value. ``commit`` returns only
   what is in etcd, and calls nothing a failure that may be in it (``etcd_commit.py``).
2. Records are handed out in the order of the commits, each commit completely (``etcd_follow.py``).
3. ``proven`` is a time before which nothing was acknowledged that the state in use lacks; it never
   rests on what etcd sends by itself, only on linearizable reads and commits.
4. A store without a head, of another identity or with other contents than its head says is never
   loaded. Before the first load there is nothing to answer from.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Final

from webhook.backends import etcd_load
from webhook.backends.etcd_beside import Peers, StoreCounters
from webhook.backends.etcd_commit import COMMIT_SECONDS, MAX_RECORDS
from webhook.backends.etcd_feed import Feed
from webhook.backends.etcd_follow import Follower, HeadRead
from webhook.backends.etcd_following import Following
from webhook.backends.etcd_head import CommitId, HeadError, continues, decode
from webhook.backends.etcd_layout import Layout
from webhook.backends.etcd_position import AwaitedPositions, format_position, parse_position
from webhook.backends.etcd_repair import RepairPlan, plan_repair, repair
from webhook.backends.etcd_requests import Client, Requests, place_of
from webhook.backends.etcd_status import StoreStatus, status_of
from webhook.backends.etcd_writer import Writer
from webhook.etcd.errors import EtcdError
from webhook.rbac.errors import (
    ForeignPositionError,
    StoreError,
    StoreLockedError,
    StoreUnavailableError,
)
from webhook.rbac.records import Record, ReplacedError

_CHANGES_SECONDS: Final = 5.0
_DAMAGED_SECONDS: Final = 1.0
"""For how long a damaged store is not read again: a server tries all the time."""


def boottime() -> float:
    """Return the seconds of CLOCK_BOOTTIME, which runs while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class EtcdBackend:
    """Records of one store, under one prefix of an etcd cluster.

    With ``follow`` it is a server's: two threads begin with the first ``load``. Without, it is a
    command's: nothing arrives by itself.
    """

    max_records: int | None = MAX_RECORDS

    def __init__(
        self,
        client: Client,
        prefix: str,
        *,
        follow: bool,
        writer: str,
        max_staleness: float = 3.0,
        peers: Peers | None = None,
        clock: Callable[[], float] = boottime,
        wall: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._layout = Layout(prefix)
        self._requests = Requests(client, self._layout)
        self.place = place_of(self._layout, client)
        self._client, self._name, self._clock, self._wall = client, writer, clock, wall
        self.max_staleness = max_staleness if follow else inf
        """Seconds that a proof holds; a command answers from what it loaded."""
        self._peers = peers
        self._following = Following(clock, wall, peers, is_fed=follow)
        self._feed = Feed(self._requests, self._following, clock, max_staleness)
        self._awaited = AwaitedPositions()
        self._damage: tuple[StoreError | None, float] = None, 0.0
        self._must_start = follow
        self._follows = follow
        self._pause = pause
        self._writer = Writer(
            self._requests, self._layout, self._following, writer, clock, wall, pause
        )

    # Reading.

    def load(self) -> tuple[int, list[Record]]:
        """Return the revision and every record of it. May block for as long as etcd hesitates."""
        self._following.require_running()
        damage, until = self._damage
        if damage is not None and self._clock() < until:
            raise damage.with_traceback(None)
        before, sent = self._following.follower, self._clock()
        floor = before.commit if before is not None else None
        with self._reaching():
            page = etcd_load.read_all(self._layout.records, self._requests.fetch)
        try:
            found, records = etcd_load.loaded(self._layout, page.kvs)  # Invariant 4.
        except StoreError as error:
            self._damage = error, self._clock() + _DAMAGED_SECONDS
            raise
        follower = Follower(self._layout, found)
        self._following.loaded(follower, sent, page.revision, floor)
        if self._following.follower is not before:
            self._feed.end_watch()
        if self._must_start:
            self._must_start = False
            self._feed.start()
        return found.commit.revision, records

    def changes(self, after: int, *, wait: bool = True) -> tuple[int, list[Record]] | None:
        """Return the revision and the records changed after ``after``, see ``Backend``."""
        following = self._following
        if wait:
            following.require_running()
            if not (self._catch_up() if self._follows else self._is_current()):
                return None
        found = following.changes(after)  # Invariant 2.
        if found is not None and not wait and following.is_behind_peers(found[0]):
            # Not what is here either: the caller would answer from it without asking again.
            raise StoreLockedError(
                "another worker of this server knows a later change of the store; try again"
            )
        return found

    def _catch_up(self) -> bool:
        """Wait until all that is acknowledged now has arrived; False: load."""
        following, deadline = self._following, self._clock() + _CHANGES_SECONDS
        revision = 0
        while not revision:
            if following.undiagnosed() is not None:
                self._feed.diagnose()
            if following.follower is None:
                following.require_running()
                return True  # ``Following.changes`` says what to do.
            revision = self._feed.read(max(self._feed.read_seconds, 1.0))
            if not revision and self._clock() > deadline:
                raise StoreUnavailableError(
                    f"the store at {self.place} is not available: {self.problem()}; try again"
                )
            if not revision:
                self._pause(0.02)
        with following.changed:
            arrived = following.changed.wait_for(
                lambda: (
                    following.follower is None or following.follower.commit.revision >= revision
                ),
                max(0.0, deadline - self._clock()),
            )
        if not arrived:
            raise StoreUnavailableError(
                f"the store at {self.place} does not send its changes: {self.problem()}; try again"
            )
        return True

    def _is_current(self) -> bool:
        """Return whether what was loaded is what etcd has now; for commands, which follow nothing.

        Raises ReplacedError if it continues another history.
        """
        following = self._following
        follower = following.follower
        if follower is None:
            return False
        floor, sent = follower.commit, self._clock()
        with self._reaching():
            found = self._requests.read_head(COMMIT_SECONDS)
        kv = found.kv
        revision, value = (kv.mod_revision, kv.value) if kv else (0, b"")
        if revision != floor.revision or value != follower.value:
            self._require_continued(floor, revision, value)
            return False
        return following.read(follower, HeadRead(sent, floor, revision, value), found.header)

    def _require_continued(self, commit: CommitId, revision: int, value: bytes) -> None:
        try:
            head = decode(value) if revision else None
        except HeadError:
            return  # The load says what is wrong.
        if head is not None and continues(commit, revision, head) is False:
            raise ReplacedError(f"the history of the store at {self.place} was lost")

    # What is in use.

    def unread(self) -> int:
        """Return how many commits are here and not in use, at least. Never waits."""
        following = self._following
        if following.unread or self._peers is None:
            return following.unread
        in_use = following.in_use
        return int(in_use is not None and following.is_behind_peers(in_use.revision))

    def applied(self, revision: int) -> None:
        """Record that the state in use is that of ``revision``."""
        self._following.applied(revision)

    def proven(self, revision: int) -> float:
        """Return the CLOCK_BOOTTIME as of which the state in use lacks nothing acknowledged."""
        return self._following.proven(revision)  # Invariant 3.

    def wanted(self) -> None:
        """Ask etcd now whether anything is missing; ``proven`` is later soon. Never waits."""
        self._feed.want_read()

    def position(self) -> str:
        """Return the position of what is in use, "" if nothing is."""
        in_use = self._following.in_use
        return format_position(self.store_id, in_use) if in_use else ""

    def reaches(self, position: str) -> bool:
        """Return whether the state in use contains a position. Raises ForeignPositionError."""
        store_id, commit = parse_position(position)
        following, now = self._following, self._clock()
        in_use = following.in_use
        if in_use is None or not self.store_id:
            return False
        if store_id != self.store_id:
            raise ForeignPositionError(
                f"the position is of store {store_id}, and this is {self.store_id}; use one of this"
            )
        is_known = following.is_known(commit)
        is_reached = commit.revision <= in_use.revision
        # One that is still ahead of a read sent after it was asked for is in no history any more.
        is_gone = not is_reached and self._awaited.is_behind(
            position, following.proven(in_use.revision), now
        )
        if (is_reached and is_known is False) or is_gone:
            raise ForeignPositionError(
                "the position is of a history of the store that was lost; use one of the present"
            )
        return is_reached

    # Writing.

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        """Write all records in one transaction (invariant 1)."""
        return self._writer.commit(expected, records)

    def initialise(self, records: Sequence[Record], store_id: str = "") -> bool:
        """Make a store of these records in one transaction; False if there is one already.

        Its id, in hexadecimal, is random unless it is given: signing keys are sealed with it.

        Raises StoreError if other keys are under the prefix, OutcomeUnknownError if etcd did not
        answer: this can be repeated.
        """
        return self._writer.initialise(records, store_id)

    # For operators.

    @property
    def store_id(self) -> str:
        """The id of the store, in hexadecimal; empty before the first load."""
        return self._following.store_id

    @property
    def revision(self) -> int:
        """The revision of the state in use, 0 if there is none."""
        in_use = self._following.in_use
        return in_use.revision if in_use else 0

    @property
    def counters(self) -> StoreCounters:
        """What happened since the start."""
        return self._following.counters

    @property
    def clock_difference(self) -> float:
        """The clock of another writer minus ours (seconds): the largest of the last ten minutes."""
        return self._following.clocks.largest(self._clock())[1]

    @property
    def foreign_keys(self) -> tuple[str, ...]:
        """The keys under the prefix that are not of the store, as of the last load."""
        follower = self._following.follower
        return follower.foreign if follower else ()

    def age(self, now: float) -> float:
        """Return how old the proof of the state in use is (seconds), infinite without one."""
        return now - self.proven(self.revision)

    def problem(self) -> str:
        """Return why nothing is answered, or soon will not be; empty if all is well."""
        return self._following.problem or self._feed.problem

    def lost_history(self, now: float) -> str:
        """Return what is known of a history that was lost in the last ten minutes, or ""."""
        return self._following.lost_history(now)

    def status(self, timeout: float = 2.0) -> StoreStatus:
        """Ask each member how it is; ``timeout`` (seconds) is for each of them."""
        return status_of(self._client, self._clock, timeout)

    def repair_plan(self) -> RepairPlan:
        """Look at what is stored, and return what a repair would make of it.

        Raises NotInitialisedError if there are no records, and StoreUnavailableError.
        """
        with self._reaching():
            return plan_repair(self._requests, self._layout, self._wall(), self._name)

    def repair(self, plan: RepairPlan) -> int:
        """Write the head of a plan, and return the new revision.

        Raises StoreChangedError if anything was written since, and StoreUnavailableError: look
        again, and repair again if that is needed.
        """
        with self._reaching():
            return repair(self._requests, plan).revision

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except EtcdError as error:
            raise StoreUnavailableError(
                f"the store at {self.place} is not available: {error}"
            ) from error

    def close(self) -> None:
        """End the threads and close the client."""
        self._feed.end()
        self._client.close()  # Ends a watch that is being opened.
        self._feed.join()
