"""The messages of a watch stream: fragments, progress, cancels, and what does not belong there."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook.etcd import rpc_pb2 as rpc
from webhook.etcd.errors import (
    Code,
    CompactedError,
    NoAnswerError,
    PermissionDeniedError,
    RefusedError,
    WatchCanceledError,
)
from webhook.etcd.values import Header, WatchBatch
from webhook.etcd.watch_events import WatchEvents

HERE = "https://10.0.0.1:2379"
PUT, DELETE = rpc.Event.PUT, rpc.Event.DELETE


def message(
    revision: int,
    events: Sequence[rpc.Event] = (),
    *,
    watch_id: int = 0,
    created: bool = False,
    fragment: bool = False,
    canceled: bool = False,
    reason: str = "",
    compact_revision: int = 0,
) -> rpc.WatchResponse:
    return rpc.WatchResponse(
        header=rpc.ResponseHeader(cluster_id=1, member_id=2, revision=revision, raft_term=3),
        watch_id=watch_id,
        created=created,
        canceled=canceled,
        fragment=fragment,
        cancel_reason=reason,
        compact_revision=compact_revision,
        events=events,
    )


def put(revision: int, key: bytes = b"/a/x", value: bytes = b"v") -> rpc.Event:
    kv = rpc.KeyValue(
        key=key, value=value, mod_revision=revision, create_revision=revision, version=1
    )
    return rpc.Event(type=PUT, kv=kv)


def delete(revision: int, key: bytes = b"/a/x") -> rpc.Event:
    return rpc.Event(type=DELETE, kv=rpc.KeyValue(key=key, mod_revision=revision))


def created(start: int = 0, revision: int = 10, watch_id: int = 0) -> WatchEvents:
    events = WatchEvents(start, HERE)
    assert events.take(message(revision, created=True, watch_id=watch_id)) is None
    return events


def revisions(batch: WatchBatch | None) -> list[int]:
    assert batch is not None
    return [event.kv.mod_revision for event in batch.events]


@pytest.mark.parametrize(
    ("start", "revision", "following"),
    [(0, 10, 11), (5, 10, 5), (20, 10, 20)],
    ids=["from now on", "from the past", "from the future"],
)
def test_where_a_watch_begins(start: int, revision: int, following: int) -> None:
    events = created(start, revision)
    assert events.created == Header(1, 2, revision, 3)
    assert events.next_revision == following


def test_events() -> None:
    events = created()
    batch = events.take(message(12, [put(11), put(12, b"/a/y"), delete(12)]))
    assert batch is not None
    assert batch.header.revision == 12
    assert [(event.kv.key, event.is_delete) for event in batch.events] == [
        (b"/a/x", False),
        (b"/a/y", False),
        (b"/a/x", True),
    ]
    assert events.next_revision == 13


def test_the_revision_of_a_header_with_events_is_not_where_to_go_on() -> None:
    """etcd sends at most 1,000 revisions at a time to a watch that lags."""
    events = created(5, 100)
    assert revisions(events.take(message(100, [put(5), put(6)]))) == [5, 6]
    assert events.next_revision == 7


@pytest.mark.parametrize(
    ("revision", "following"), [(40, 41), (9, 11)], ids=["ahead", "of a member that lags"]
)
def test_progress_moves_on_and_never_back(revision: int, following: int) -> None:
    events = created()
    batch = events.take(message(revision))
    assert batch == WatchBatch(Header(1, 2, revision, 3), ())
    assert events.next_revision == following


def test_fragments_are_joined() -> None:
    events = created()
    assert events.take(message(12, [put(11)], fragment=True)) is None
    assert events.take(message(12, [put(11, b"/a/y")], fragment=True)) is None
    assert events.next_revision == 11
    assert revisions(events.take(message(12, [put(12)]))) == [11, 11, 12]
    assert events.next_revision == 13
    assert revisions(events.take(message(13, [put(13)]))) == [13]


def test_a_cancel_drops_the_fragments_before_it() -> None:
    events = created()
    assert events.take(message(12, [put(11)], fragment=True)) is None
    with pytest.raises(WatchCanceledError):
        events.take(message(12, canceled=True, reason="etcdserver: stopped"))
    assert events.next_revision == 11


@pytest.mark.parametrize("watch_id", [-1, 0, 3])
def test_a_create_that_is_refused(watch_id: int) -> None:
    """etcd 3.5.6 and later answer with the id -1, and others with one that may be in use."""
    events = WatchEvents(0, HERE)
    refusal = message(
        10, created=True, canceled=True, watch_id=watch_id, reason="etcdserver: permission denied"
    )
    with pytest.raises(PermissionDeniedError) as caught:
        events.take(refusal)
    assert caught.value.code is Code.PERMISSION_DENIED
    assert events.created is None


def test_compaction() -> None:
    events = created(2)
    with pytest.raises(CompactedError) as caught:
        events.take(message(10, canceled=True, compact_revision=8))
    assert caught.value.compact_revision == 8


def test_events_in_a_cancel_are_not_returned() -> None:
    with pytest.raises(RefusedError):
        created().take(message(12, [put(11)], canceled=True))


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (message(11, [put(11)], watch_id=5), "another watch"),
        (message(11, created=True), "another watch"),
        (message(11, watch_id=-1), "another watch"),
        (message(11, [put(10)]), "revision 10 after 10"),
        (message(13, [put(13), put(12)]), "revision 12 after 12"),
    ],
    ids=["other id", "created twice", "progress of all watches", "repeated", "out of order"],
)
def test_what_does_not_belong_here(wrong: rpc.WatchResponse, what: str) -> None:
    events = created()
    with pytest.raises(NoAnswerError, match=what) as caught:
        events.take(wrong)
    assert not caught.value.is_definite


@pytest.mark.parametrize(
    "first",
    [message(11, [put(11)]), message(11), message(11, [put(11)], created=True)],
    ids=["an event", "progress", "created with an event"],
)
def test_nothing_counts_before_the_watch_is_created(first: rpc.WatchResponse) -> None:
    with pytest.raises(NoAnswerError, match="before the watch was created"):
        WatchEvents(0, HERE).take(first)


@given(st.data())
def test_however_it_is_cut_the_events_are_the_same(data: st.DataObject) -> None:
    steps = data.draw(st.lists(st.integers(0, 3), max_size=20))
    sent = []
    revision = 11
    for step in steps:
        revision += step
        sent.append(put(revision))
    events = created()
    received: list[int] = []
    position = 0
    while position < len(sent):
        size = data.draw(st.integers(1, 5))
        # A revision is never divided by more than fragments.
        end = min(position + size, len(sent))
        while end < len(sent) and sent[end].kv.mod_revision == sent[end - 1].kv.mod_revision:
            end += 1
        part, position = sent[position:end], end
        while len(part) > 1 and data.draw(st.booleans()):
            head, part = part[:1], part[1:]
            assert events.take(message(99, head, fragment=True)) is None
        received += revisions(events.take(message(99, part)))
        assert events.next_revision == received[-1] + 1
    assert received == [event.kv.mod_revision for event in sent]
