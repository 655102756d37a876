"""The requests of the etcd store, in the terms of its layout."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from webhook.backends.etcd_commit import MAX_BYTES, MAX_RECORDS, Answer, Write
from webhook.backends.etcd_follow import Event
from webhook.backends.etcd_layout import Layout, shown_key
from webhook.backends.etcd_load import Page
from webhook.etcd.errors import Code, CompactedError, EtcdError
from webhook.etcd.operations import (
    Compare,
    Delete,
    Get,
    Operation,
    Put,
    Relation,
    Target,
    Txn,
    create_revision_is,
    mod_revision_is,
    prefix_end,
    value_is,
)
from webhook.etcd.values import (
    Alarm,
    Header,
    KeyValue,
    MemberStatus,
    RangeAnswer,
    TxnAnswer,
    WatchBatch,
)
from webhook.rbac.errors import TooLargeError

FIRST_PAGE_SECONDS: Final = 5.0
"""It tells whether etcd answers at all, so that a command does not wait longer for nothing."""
PAGE_SECONDS: Final = 20.0
WATCH_SECONDS: Final = 1.0
_FLAT: Final = 120
_NESTED: Final = 64
_RESERVED_BYTES: Final = 4096
_OPERATION_BYTES: Final = 40


class Watch(Protocol):
    """A stream of changes at one endpoint: complete revisions, in order."""

    endpoint: str

    def __iter__(self) -> Iterator[WatchBatch]: ...
    def close(self) -> None:
        """End the stream; can be called by any thread."""


class Client(Protocol):
    """What the store needs of a client of etcd; ``EtcdClient`` has it."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The URLs of the members."""

    @property
    def endpoint(self) -> str:
        """The one that is tried first."""

    def next_endpoint(self, after: str) -> str:
        """Return the one to try after another."""

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
        """Read a range. Raises EtcdError, as all of these."""

    def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout: float = 5.0,
    ) -> TxnAnswer:
        """Send a transaction once."""

    def watch(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        start_revision: int = 0,
        timeout: float = 5.0,
        endpoint: str | None = None,
    ) -> Watch:
        """Watch a range from a revision on."""

    def status(self, endpoint: str, *, timeout: float = 5.0) -> MemberStatus:
        """Return what a member says of itself."""

    def alarms(self, *, timeout: float = 5.0) -> tuple[Alarm, ...]:
        """Return the alarms of the cluster."""

    def close(self) -> None:
        """Close all connections."""


class ReadHead(NamedTuple):
    """The head's key (None: there is none), as of the revision in ``header``."""

    kv: KeyValue | None
    header: Header
    endpoint: str


class Requests:
    """Reads and writes the keys of one prefix."""

    def __init__(self, client: Client, layout: Layout) -> None:
        self.client = client
        self._layout = layout
        self._end = prefix_end(layout.records)

    def read_head(
        self, timeout: float, *, hedge: float | None = None, endpoint: str = ""
    ) -> ReadHead:
        """Read the head linearizably. Raises EtcdError."""
        answer = self.client.range(
            self._layout.head, timeout=timeout, hedge=hedge, endpoint=endpoint or None
        )
        return ReadHead(answer.kvs[0] if answer.kvs else None, answer.header, answer.endpoint)

    def head_at(self, revision: int) -> bytes | None:
        """Return the head as of a revision, None if it is compacted or still to come."""
        try:
            answer = self.client.range(self._layout.head, revision=revision, timeout=PAGE_SECONDS)
        except EtcdError as error:
            if error.code != Code.OUT_OF_RANGE:
                raise
            return None
        return answer.kvs[0].value if answer.kvs else b""

    def fetch(self, start: bytes, limit: int, revision: int) -> Page:
        """Read a page of the records, see ``etcd_load.Fetch``. Raises EtcdError."""
        try:
            answer = self._page(start, limit, revision, serializable=bool(revision))
        except CompactedError:
            raise
        except EtcdError as error:
            # The member may not have that revision yet: a linearizable read waits for it.
            if not revision or error.code != Code.OUT_OF_RANGE:
                raise
            answer = self._page(start, limit, revision, serializable=False)
        return Page(revision or answer.header.revision, answer.kvs, not answer.more)

    def _page(self, start: bytes, limit: int, revision: int, *, serializable: bool) -> RangeAnswer:
        return self.client.range(
            start,
            self._end,
            limit=limit,
            revision=revision,
            serializable=serializable,
            timeout=PAGE_SECONDS if revision or not limit else FIRST_PAGE_SECONDS,
        )

    def watch(self, start_revision: int, endpoint: str) -> Watch:
        """Watch the records from a revision on. Raises EtcdError."""
        return self.client.watch(
            self._layout.records,
            self._end,
            start_revision=start_revision,
            timeout=WATCH_SECONDS,
            endpoint=endpoint,
        )

    def send(self, write: Write, timeout: float) -> Answer:
        """Send a transaction once, see ``etcd_commit.Send``."""
        answer = self.client.txn(*self._transaction(write), timeout=timeout)
        if answer.succeeded:
            return Answer(True, answer.header.revision)
        read = answer.answers[0] if answer.answers else None
        if isinstance(read, RangeAnswer) and read.kvs:
            return Answer(False, read.kvs[0].mod_revision, read.kvs[0].value)
        return Answer(False, 0)

    def write_head(self, value: bytes, revision: int) -> Answer:
        """Write the head if nothing under the prefix was written after ``revision`` of etcd."""
        layout = self._layout
        unchanged = Compare(
            Target.MOD_REVISION, layout.records, revision + 1, Relation.LESS, self._end
        )
        answer = self.client.txn([unchanged], [Put(layout.head, value)], timeout=PAGE_SECONDS)
        return Answer(answer.succeeded, answer.header.revision)

    def require_fit(self, write: Write) -> None:
        """Raise TooLargeError for a transaction that etcd would refuse."""
        count = len(write.values)
        size = sum(len(key) + len(value or b"") + _OPERATION_BYTES for key, value in write.values)
        if size > MAX_BYTES // 2:
            from webhook.etcd.messages import txn_size

            size = txn_size(*self._transaction(write))
        if count > MAX_RECORDS or size > MAX_BYTES - _RESERVED_BYTES:
            raise TooLargeError(
                f"the change has {count} records and {size} bytes; a transaction of etcd takes at "
                f"most {MAX_RECORDS} records and {MAX_BYTES - _RESERVED_BYTES} bytes. Make it in "
                "several smaller changes"
            )

    def _transaction(self, write: Write) -> tuple[list[Compare], list[Operation], list[Operation]]:
        layout = self._layout
        if write.expected is None:
            guard = [
                mod_revision_is(layout.head, 0),
                create_revision_is(layout.all, 0, prefix_end(layout.all)),
            ]
        else:
            # Invariant 1 of ``etcd_head.py``.
            guard = [
                mod_revision_is(layout.head, write.expected.revision),
                value_is(layout.head, write.expected_value),
            ]
        if write.is_look:
            return guard, [Get(layout.head)], [Get(layout.head)]
        operations: list[Operation] = [
            Delete(key) if value is None else Put(key, value) for key, value in write.values
        ]
        if len(operations) > _FLAT:
            starts = range(0, len(operations), _NESTED)
            operations = [Txn((), tuple(operations[i : i + _NESTED])) for i in starts]
        return guard, [Put(layout.head, write.head_value), *operations], [Get(layout.head)]


def groups_of(batch: WatchBatch) -> Iterator[tuple[int, list[Event]]]:
    """Return the revisions of a batch and their events, in order."""
    revision, events = 0, list[Event]()
    for event in batch.events:
        if event.kv.mod_revision != revision and events:
            yield revision, events
            events = []
        revision = event.kv.mod_revision
        events.append(Event(event.kv.key, None if event.is_delete else event.kv.value))
    if events:
        yield revision, events


def place_of(layout: Layout, client: Client) -> str:
    """Return what messages call the store."""
    return f"{shown_key(layout.all)} in etcd at {', '.join(client.endpoints)}"
