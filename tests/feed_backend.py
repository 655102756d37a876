"""A backend with a feed and proofs, as one in a cluster has them, whose every step can be held."""

from collections.abc import Callable, Sequence
from math import inf
from threading import Condition, get_ident

from webhook.rbac.errors import ForeignPositionError, NotInitialisedError, StoreLockedError
from webhook.rbac.records import ConflictError, Record

FIRST, STEP = 7, 3


class Log:
    """The commits of a store that several replicas share. Revisions are not 1, 2, 3."""

    def __init__(self, *, is_initialised: bool = True) -> None:
        self.changed = Condition()
        self.commits: list[tuple[int, list[Record]]] = []
        if is_initialised:
            self.append([])

    @property
    def head(self) -> int:
        """The revision of the last commit, 0 if there is none."""
        return self.commits[-1][0] if self.commits else 0

    def append(self, records: Sequence[Record]) -> int:
        """Add a commit, of whomever."""
        with self.changed:
            self.commits.append((self.head + STEP if self.commits else FIRST, list(records)))
            self.changed.notify_all()
            return self.head

    def between(self, after: int, until: int) -> list[Record]:
        """Return the last record of each id in the commits after a revision, up to another."""
        with self.changed:
            found = [r for at, records in self.commits if after < at <= until for r in records]
        return list({(record.kind, record.id): record for record in found}.values())


class FeedBackend:
    """One replica's view of a log.

    ``hooks`` are called at the beginning of ``load``, ``changes`` (with ``wait``), ``commit`` and
    after a commit (``committed``); they may wait, or raise.
    """

    place = "the log"
    store_id = "log"

    def __init__(self, log: Log, clock: Callable[[], float], max_records: int = 100) -> None:
        self.log = log
        self.clock = clock
        self.max_records: int | None = max_records
        self.max_staleness = 3.0
        self.clock_difference = 0.0
        self.hooks: dict[str, Callable[[], None]] = {}
        self.is_live = True
        """Whether the feed delivers what others commit."""
        self.is_reading = True
        """Whether the present head can be read, so that there are proofs."""
        self.known_to_others = 0
        """The highest revision that another worker of the server knows."""
        self.reaches_back_to = 0
        """Before which revision the feed knows nothing."""
        self.replaced: Exception | None = None
        self.asked = 0
        """How often a proof was wanted."""
        self.applied_by: list[int] = []
        """The threads that applied something."""
        self.loads = 0
        self._reached = 0
        self._applied = 0
        self._proof = -inf

    def load(self) -> tuple[int, list[Record]]:
        """Return the revision and every record of it."""
        self.loads += 1
        self._hook("load")
        revision = self.log.head
        if not revision:
            raise NotInitialisedError("there is no store in the log; make it")
        self._reached, self.replaced = max(self._reached, revision), None
        return revision, [r for r in self.log.between(0, revision) if r.value is not None]

    def changes(self, after: int, *, wait: bool = True) -> tuple[int, list[Record]] | None:
        """Return the revision and the records changed after ``after``."""
        if wait:
            self._hook("changes")
            self._reached = self.log.head
        if self.replaced is not None:
            raise self.replaced
        self._deliver()
        until = max(after, self._reached)
        if not wait and until == after < self.known_to_others:
            raise StoreLockedError("another worker knows a later change; try again")
        return None if after < self.reaches_back_to else (until, self.log.between(after, until))

    def applied(self, revision: int) -> None:
        """Record what is in use, and by which thread. Nothing goes backwards."""
        assert revision >= self._applied
        self._applied = revision
        self.applied_by.append(get_ident())

    def unread(self) -> int:
        """Return how many commits the feed has delivered that are not in use."""
        self._deliver()
        if self.replaced is not None or self._applied < self.known_to_others:
            return 1
        return sum(self._applied < at <= self._reached for at, _ in list(self.log.commits))

    def problem(self) -> str:
        return ""

    def proven(self, revision: int) -> float:
        """Return when the head was last seen to be in use."""
        if self.is_reading and revision >= self.log.head:
            self._proof = self.clock()
        return self._proof

    def wanted(self) -> None:
        """Count that a proof is wanted."""
        self.asked += 1

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        """Add a commit. Raises ConflictError where the head is not ``expected``."""
        self._hook("commit")
        with self.log.changed:
            if self.log.head != expected:
                raise ConflictError
            revision = self.log.append(records)
        self._hook("committed")
        return revision

    def position(self) -> str:
        """Return the revision in use."""
        return f"log-{self._applied}"

    def reaches(self, position: str) -> bool:
        """Return whether what is in use is at a position or after it."""
        if not position.startswith("log-"):
            raise ForeignPositionError("the position is of another store; use one of this store")
        return int(position[4:]) <= self._applied

    def close(self) -> None:
        """Do nothing."""

    def deliver(self, revision: int) -> None:
        """Have the feed deliver what was committed up to a revision."""
        self._reached = max(self._reached, revision)

    def _hook(self, name: str) -> None:
        self.hooks.get(name, _nothing)()

    def _deliver(self) -> None:
        if self.is_live:
            self._reached = max(self._reached, self.log.head)


def _nothing() -> None:
    pass
