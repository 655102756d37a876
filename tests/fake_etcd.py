"""An etcd in memory with the interface of ``EtcdClient``, whose answers can be made to go wrong.

It has revisions, transactions, compaction and watches like etcd's. A real etcd runs in
``tests/etcd_cluster.py``; this one is for what cannot be provoked there at will.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Condition

from webhook.etcd.errors import Code, CompactedError, EtcdError, NoAnswerError, error_of_status
from webhook.etcd.operations import Compare, Delete, Get, Operation, Put, Relation, Target, Txn
from webhook.etcd.values import (
    Alarm,
    DeleteAnswer,
    Event,
    Header,
    KeyValue,
    MemberStatus,
    OperationAnswer,
    PutAnswer,
    RangeAnswer,
    TxnAnswer,
    WatchBatch,
)

COMPACTED = "etcdserver: mvcc: required revision has been compacted"
DUPLICATE = "etcdserver: duplicate key given in txn request"
TOO_MANY = "etcdserver: too many operations in txn request"
Keys = Mapping[bytes, KeyValue]
Deliver = Callable[[], TxnAnswer]
Fault = Callable[[Deliver], TxnAnswer]


class FakeEtcd:
    """The data of a cluster; ``client()`` returns a client of it."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.revision = 1
        self.raft_term = 2
        self.cluster_id = 7
        self.compacted = 0
        self.states: dict[int, Keys] = {1: {}}
        self.log: dict[int, tuple[Event, ...]] = {}

    def client(self) -> "FakeClient":
        return FakeClient(self)

    def copy(self) -> tuple[int, dict[int, Keys], dict[int, tuple[Event, ...]]]:
        """Return the data for ``put_back``, as a copy of the files of a member."""
        with self.changed:
            return self.revision, dict(self.states), dict(self.log)

    def put_back(
        self, data: tuple[int, dict[int, Keys], dict[int, tuple[Event, ...]]], *, bump: int = 0
    ) -> None:
        """Replace the data by a copy; watches of before see nothing more. ``bump`` as etcdutl's."""
        with self.changed:
            self.revision, self.states, self.log = data[0], dict(data[1]), dict(data[2])
            if bump:
                self.states[self.revision + bump] = self.states[self.revision]
                self.revision += bump
            self.changed.notify_all()

    def header(self) -> Header:
        return Header(self.cluster_id, 1, self.revision, self.raft_term)

    def keys(self) -> dict[bytes, bytes]:
        return {key: kv.value for key, kv in self.states[self.revision].items()}

    def put(self, key: bytes, value: bytes) -> int:
        """Write a key as somebody else would; returns the revision."""
        return self.execute((), [Put(key, value)], ()).header.revision

    def delete(self, key: bytes, range_end: bytes = b"") -> int:
        return self.execute((), [Delete(key, range_end)], ()).header.revision

    def compact(self) -> None:
        """Forget all revisions but the present one."""
        with self.changed:
            self.compacted = self.revision
            self.changed.notify_all()

    def execute(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation],
    ) -> TxnAnswer:
        with self.changed:
            _check_operations(success, 128)
            keys = dict(self.states[self.revision])
            events: dict[bytes, Event] = {}
            answer = self._execute(Txn(compares, success, failure), keys, events)
            if events:
                self.revision += 1
                self.states[self.revision] = keys
                self.log[self.revision] = tuple(events.values())
                self.changed.notify_all()
            return TxnAnswer(self.header(), answer.succeeded, answer.answers, "http://fake")

    def _execute(
        self, txn: Txn, keys: dict[bytes, KeyValue], events: dict[bytes, Event]
    ) -> TxnAnswer:
        before = dict(keys)
        succeeded = all(_holds(compare, before) for compare in txn.compares)
        answers: list[OperationAnswer] = []
        new = self.revision + 1
        for operation in txn.success if succeeded else txn.failure:
            match operation:
                case Put(key, value):
                    old = keys.get(key)
                    created, version = (old.create_revision, old.version + 1) if old else (new, 1)
                    keys[key] = KeyValue(key, value, created, new, version, 0)
                    events[key] = Event(keys[key], False, None)
                    answers.append(PutAnswer(self.header(), None, ""))
                case Delete(key, range_end):
                    for gone in _in_range(keys, key, range_end):
                        del keys[gone.key]
                        dead = KeyValue(gone.key, b"", 0, new, 0, 0)
                        events[gone.key] = Event(dead, True, None)
                    answers.append(DeleteAnswer(self.header(), 0, (), ""))
                case Get(key, range_end):
                    kvs = tuple(_in_range(keys, key, range_end))
                    answers.append(RangeAnswer(self.header(), kvs, False, len(kvs), ""))
                case Txn():
                    answers.append(self._execute(operation, keys, events))
        return TxnAnswer(self.header(), succeeded, tuple(answers), "")

    def range(self, key: bytes, range_end: bytes, revision: int, limit: int) -> RangeAnswer:
        with self.changed:
            if revision and revision < self.compacted:
                raise _compacted(self.compacted)
            if revision > self.revision:
                text = "etcdserver: mvcc: required revision is a future revision"
                raise error_of_status(Code.OUT_OF_RANGE, text, "http://fake", "a Range")
            kvs = _in_range(self.states[revision or self.revision], key, range_end)
            some = tuple(kvs[:limit] if limit else kvs)
            return RangeAnswer(self.header(), some, len(some) < len(kvs), len(kvs), "http://fake")


class FakeWatch:
    """A watch of one range. ``is_silent`` holds its events back."""

    def __init__(self, etcd: FakeEtcd, key: bytes, range_end: bytes, start: int) -> None:
        self.endpoint = "http://fake"
        self.is_silent = self.is_closed = False
        self.error: EtcdError | None = None
        self._etcd, self._key, self._end = etcd, key, range_end
        self._next = start or etcd.revision + 1
        self._log = etcd.log

    def __iter__(self) -> Iterator[WatchBatch]:
        etcd = self._etcd
        while True:
            with etcd.changed:
                etcd.changed.wait_for(self._is_due)
                if self.is_closed:
                    return
                if self.error is not None:
                    raise self.error
                if self._next < etcd.compacted:
                    raise _compacted(etcd.compacted)
                later = [number for number in etcd.log if number >= self._next]
                revision = min(later, default=etcd.revision)
                self._next = revision + 1
                events = tuple(
                    event
                    for event in etcd.log.get(revision, ())
                    if self._key <= event.kv.key < self._end
                )
                batch = WatchBatch(etcd.header(), events)
            if events:
                yield batch

    def _is_due(self) -> bool:
        # A watch of data that was put back over is one of a member that is gone.
        is_due = self._next <= self._etcd.revision and not self.is_silent
        return self.is_closed or self.error is not None or is_due

    def close(self) -> None:
        with self._etcd.changed:
            self.is_closed = True
            self._etcd.changed.notify_all()


class FakeClient:
    """The interface of ``EtcdClient``. The next transactions go through ``faults``, one each."""

    def __init__(self, etcd: FakeEtcd) -> None:
        self.etcd = etcd
        self.endpoints: tuple[str, ...] = ("http://one", "http://two", "http://three")
        self.endpoint = "http://one"
        self.faults: deque[Fault] = deque()
        self.read_errors: deque[EtcdError] = deque()
        self.reads: list[tuple[bytes, int, int]] = []
        self.before_range: Callable[[int], None] = lambda _revision: None
        self.is_away = False
        self.watches: list[FakeWatch] = []

    def next_endpoint(self, after: str) -> str:
        return self.endpoints[
            (self.endpoints.index(after) + 1) % 3 if after in self.endpoints else 0
        ]

    def range(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        revision: int = 0,
        limit: int = 0,
        serializable: bool = False,
        timeout: float = 5.0,
        endpoint: str | None = None,
        hedge: float | None = None,
    ) -> RangeAnswer:
        self._require_reachable()
        if self.read_errors:
            raise self.read_errors.popleft()
        self.reads.append((key, limit, revision))
        self.before_range(revision)
        return self.etcd.range(key, range_end, revision, limit)

    def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout: float = 5.0,
    ) -> TxnAnswer:
        self._require_reachable()

        def deliver() -> TxnAnswer:
            return self.etcd.execute(compares, success, failure)

        return self.faults.popleft()(deliver) if self.faults else deliver()

    def watch(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        start_revision: int = 0,
        timeout: float = 5.0,
        endpoint: str | None = None,
    ) -> FakeWatch:
        self._require_reachable()
        with self.etcd.changed:
            if 0 < start_revision < self.etcd.compacted:
                raise _compacted(self.etcd.compacted)
            self.watches.append(FakeWatch(self.etcd, key, range_end, start_revision))
            return self.watches[-1]

    def status(self, endpoint: str, *, timeout: float = 5.0) -> MemberStatus:
        self._require_reachable()
        header = self.etcd.header()
        return MemberStatus(header, endpoint, "3.6.13", 1, 1, 2, 1, 1, 1, 2, (), False, "3.6.0")

    def alarms(self, *, timeout: float = 5.0) -> tuple[Alarm, ...]:
        self._require_reachable()
        return ()

    def close(self) -> None:
        for watch in self.watches:
            watch.close()

    def _require_reachable(self) -> None:
        if self.is_away:
            raise away()


def away() -> EtcdError:
    """Return the error of a deadline."""
    return NoAnswerError("etcd did not answer", code=Code.DEADLINE_EXCEEDED, endpoint="http://one")


def delivered_twice(deliver: Deliver) -> TxnAnswer:
    """A proxy that repeats: only the second answer arrives."""
    deliver()
    return deliver()


def lost_before(deliver: Deliver) -> TxnAnswer:
    """The request never arrives."""
    raise away()


def lost_after(deliver: Deliver) -> TxnAnswer:
    """The answer never arrives."""
    deliver()
    raise away()


def failing(error: EtcdError, *, executed: bool) -> Fault:
    """Return the fault of an error, for a request that was executed or not."""

    def fault(deliver: Deliver) -> TxnAnswer:
        if executed:
            deliver()
        raise error

    return fault


def _compacted(revision: int) -> CompactedError:
    error = CompactedError(
        f"etcd refused: {COMPACTED}", code=Code.OUT_OF_RANGE, text=COMPACTED, endpoint="http://fake"
    )
    error.compact_revision = revision
    return error


def _in_range(keys: Keys, key: bytes, range_end: bytes) -> list[KeyValue]:
    if not range_end:
        return [keys[key]] if key in keys else []
    return [keys[name] for name in sorted(keys) if key <= name < range_end]


def _holds(compare: Compare, keys: Keys) -> bool:
    found = _in_range(keys, compare.key, compare.range_end)
    if not found and compare.target is Target.VALUE:
        return False
    return all(_is_met(compare, kv) for kv in found or [KeyValue(b"", b"", 0, 0, 0, 0)])


def _is_met(compare: Compare, kv: KeyValue) -> bool:
    if compare.target is Target.VALUE:
        return kv.value == compare.operand
    values = {Target.CREATE_REVISION: kv.create_revision, Target.MOD_REVISION: kv.mod_revision}
    assert isinstance(compare.operand, int)
    if compare.relation is Relation.LESS:
        return values[compare.target] < compare.operand
    return values[compare.target] == compare.operand


def _check_operations(operations: Sequence[Operation], allowed: int) -> None:
    """Refuse what etcd refuses: too many operations on a level, and a key written twice."""
    written: list[bytes] = []

    def check(level: Sequence[Operation], left: int) -> None:
        if len(level) > left:
            raise error_of_status(Code.INVALID_ARGUMENT, TOO_MANY, "http://fake", "a Txn")
        for operation in level:
            if isinstance(operation, Txn):
                check(operation.success, left - len(level))
            elif isinstance(operation, Put | Delete):
                written.append(operation.key)

    check(operations, allowed)
    if len(written) != len(set(written)):
        raise error_of_status(Code.INVALID_ARGUMENT, DUPLICATE, "http://fake", "a Txn")
