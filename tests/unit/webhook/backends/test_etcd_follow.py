"""Following a store: the state of a fresh load, or no answer."""

import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fake_etcd import FakeEtcd, away
from tests.support import wait_until
from webhook.backends import etcd, etcd_history, etcd_load
from webhook.backends.etcd import EtcdBackend, boottime
from webhook.backends.etcd_follow import (
    Event,
    Follower,
    HeadRead,
    LostStoreError,
    MustLoadError,
    Reason,
)
from webhook.backends.etcd_head import CommitId, continues, decode, encode
from webhook.backends.etcd_layout import Layout
from webhook.etcd.values import WatchBatch
from webhook.rbac.errors import (
    ForeignPositionError,
    NotInitialisedError,
    StoreError,
    StoreLockedError,
    StoreUnavailableError,
)
from webhook.rbac.records import ConflictError, Record, ReplacedError

A, B, C = (Record("user", name, b"value of " + name) for name in (b"a", b"b", b"c"))
LAYOUT = Layout("/leeway")
HEAD = LAYOUT.head


class Pair:
    """One store: a server's backend on it, and a command's."""

    def __init__(self) -> None:
        self.etcd = FakeEtcd()
        assert self.command().initialise([A])
        self.client = self.etcd.client()
        self.server = EtcdBackend(self.client, "/leeway", follow=True, writer="a/1")

    def command(self, writer: str = "c/3") -> EtcdBackend:
        return EtcdBackend(self.etcd.client(), "/leeway", follow=False, writer=writer)

    def load(self) -> set[Record]:
        revision, records = self.server.load()
        self.server.applied(revision)
        return set(records)

    def commit(self, *records: Record) -> int:
        other = self.command("b/2")
        return other.commit(other.load()[0], records)

    def arrives(self, revision: int) -> None:
        follower = self.server._following
        wait_until(
            lambda: bool(follower.follower and follower.follower.commit.revision >= revision)
        )

    def must_load(self) -> None:
        wait_until(lambda: self.server._following.follower is None)
        wait_until(lambda: self.server._following.undiagnosed() is None)


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.server.close()


def test_nothing_is_there_before_the_first_load(pair: Pair) -> None:
    assert pair.server.unread()
    assert pair.server.proven(0) == float("-inf")
    assert pair.server.changes(0, wait=False) is None
    assert pair.server.position() == pair.server.store_id == ""
    with pytest.raises(ConflictError):
        pair.server.commit(pair.etcd.revision, [B])


def test_changes_of_others_arrive_by_themselves(pair: Pair) -> None:
    assert pair.load() == {A}
    before = pair.server.revision
    assert not pair.server.unread()
    revision = pair.commit(B, Record("user", b"a", None))
    wait_until(lambda: bool(pair.server.unread()))
    found = pair.server.changes(before, wait=False)
    assert found is not None
    assert (found[0], set(found[1])) == (revision, {B, Record("user", b"a", None)})
    assert pair.server.unread() == 1
    pair.server.applied(revision)
    assert not pair.server.unread()
    assert pair.server.counters.reloads == {"start": 1}


def test_waiting_for_changes_includes_what_was_acknowledged(pair: Pair) -> None:
    pair.load()
    before = pair.server.revision
    for number in range(30):
        record = Record("user", b"%d" % number, b"")
        revision = pair.commit(record)
        assert pair.server.changes(before) == (revision, [record])
        pair.server.applied(revision)
        before = revision


def test_a_proof_is_as_old_as_its_read(pair: Pair) -> None:
    earlier = boottime()
    pair.load()
    assert earlier <= pair.server.proven(pair.server.revision) <= boottime()
    now = boottime()
    pair.server.wanted()
    wait_until(lambda: pair.server.proven(pair.server.revision) >= now)
    # It is not one for a later commit, nor does a later read count for this state.
    before = pair.server.revision
    revision = pair.commit(B)
    pair.arrives(revision)
    committed = boottime()
    pair.server.wanted()
    wait_until(lambda: pair.server._following.proven(revision) >= committed)
    assert pair.server.proven(before) < committed


def test_etcd_that_is_away_proves_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd, "_CHANGES_SECONDS", 0.1)
    pair.load()
    pair.client.is_away = True
    for watch in pair.client.watches:
        watch.error = away()
    time.sleep(0.05)
    now = boottime()
    pair.server.wanted()
    wait_until(lambda: "did not answer" in pair.server.problem())
    assert pair.server.proven(pair.server.revision) < now
    with pytest.raises(StoreUnavailableError, match="is not available: etcd did not answer"):
        pair.server.changes(pair.server.revision)
    pair.client.is_away = False
    pair.server.wanted()
    wait_until(lambda: pair.server.proven(pair.server.revision) >= now)
    wait_until(lambda: not pair.server.problem())
    revision = pair.commit(B)
    pair.arrives(revision)
    assert pair.server.counters.reloads == {"start": 1}


def test_a_silent_watch_is_opened_again_elsewhere(pair: Pair) -> None:
    pair.load()
    wait_until(lambda: bool(pair.client.watches))
    pair.client.watches[0].is_silent = True
    revision = pair.commit(B)
    pair.server.wanted()
    wait_until(lambda: len(pair.client.watches) > 1)
    pair.arrives(revision)
    assert pair.client.watches[0].is_closed
    assert pair.server.counters.reloads == {"start": 1}


def test_an_idle_store_survives_the_compaction_of_a_busy_etcd(pair: Pair) -> None:
    pair.load()
    wait_until(lambda: bool(pair.client.watches))
    for number in range(10):
        pair.etcd.put(b"/neighbour", b"%d" % number)
    pair.server.wanted()
    wait_until(lambda: pair.server._following.next_watch > pair.etcd.revision)
    pair.etcd.compact()
    pair.client.watches[-1].error = away()
    pair.etcd.put(b"/neighbour", b"again")
    revision = pair.commit(B)
    pair.arrives(revision)
    assert pair.server.counters.reloads == {"start": 1}


@pytest.mark.bad_input(67)
def test_a_compaction_past_the_watch_loads_everything(pair: Pair) -> None:
    pair.load()
    wait_until(lambda: bool(pair.client.watches))
    pair.client.watches[0].is_silent = True
    pair.commit(B)
    pair.commit(C)
    pair.etcd.compact()
    pair.client.watches[0].error = away()
    pair.must_load()
    assert pair.server.changes(pair.server.revision, wait=False) is None
    assert pair.server.proven(pair.server.revision) == float("-inf")
    assert pair.load() == {A, B, C}
    assert pair.server.counters.reloads == {"start": 1, "compacted": 1}
    assert pair.server.lost_history(boottime()) == ""


@pytest.mark.bad_input(68)
@pytest.mark.parametrize(
    "key",
    [b"/leeway/v1/user/x", b"/leeway/v1/oops", b"/leeway/v1/"],
    ids=["record", "other", "none"],
)
def test_what_somebody_else_writes_is_reported_and_loaded(pair: Pair, key: bytes) -> None:
    pair.load()
    pair.etcd.put(key, b"by somebody else")
    pair.must_load()
    assert pair.server.unread()
    assert pair.load() == {A}
    assert pair.server.foreign_keys == (key.decode(),)
    assert pair.server.counters.foreign_groups == 1
    # Leeway goes on, and it is still reported after a load.
    revision = pair.commit(B)
    pair.arrives(revision)
    assert pair.load() == {A, B}
    assert pair.server.foreign_keys == (key.decode(),)


@pytest.mark.bad_input(68)
@pytest.mark.parametrize("what", ["value", "value-with-checksum", "gone", "added", "swapped"])
def test_records_that_somebody_else_changed_are_never_used(pair: Pair, what: str) -> None:
    pair.commit(B)
    pair.load()
    before = pair.server.revision
    key = LAYOUT.key_of("user", b"a")
    forged = LAYOUT.value_of(b"user/a", b"forged")[0]
    added = LAYOUT.value_of(b"user/z", b"added")[0]
    if what == "swapped":
        other = LAYOUT.key_of("user", b"b")
        values = pair.etcd.keys()
        pair.etcd.put(key, values[other])
        pair.etcd.put(other, values[key])
    elif what == "gone":
        pair.etcd.delete(key)
    elif what == "added":
        pair.etcd.put(LAYOUT.key_of("user", b"z"), added)
    else:
        pair.etcd.put(key, b"junk" if what == "value" else forged)
    pair.must_load()
    with pytest.raises(StoreError, match=r"is damaged: .*`leeway store repair`"):
        pair.server.load()
    assert pair.server.changes(before, wait=False) is None
    assert pair.server.proven(before) == float("-inf")


def test_the_head_that_vanishes_ends_the_answers(pair: Pair) -> None:
    pair.load()
    pair.etcd.delete(HEAD)
    wait_until(lambda: "head of the store was deleted" in pair.server.problem())
    for attempt in (
        pair.server.load,
        lambda: pair.server.changes(pair.server.revision, wait=False),
        lambda: pair.server.changes(pair.server.revision),
        lambda: pair.server.commit(pair.server.revision, [B]),
    ):
        with pytest.raises(StoreUnavailableError, match="start this process again"):
            attempt()
    assert pair.server.proven(pair.server.revision) == float("-inf")
    with pytest.raises(StoreError, match=r"1 keys and no head.*`leeway store repair`"):
        pair.command().load()


def test_another_store_in_its_place_ends_the_answers(pair: Pair) -> None:
    pair.load()
    pair.etcd.delete(b"/leeway/", b"/leeway0")
    assert pair.command().initialise([B])
    wait_until(lambda: "start this process again" in pair.server.problem())
    with pytest.raises(StoreUnavailableError):
        pair.server.load()


def test_another_store_that_is_found_by_the_load_ends_the_answers(pair: Pair) -> None:
    pair.load()
    pair.server._feed.end()
    pair.server._feed.join()
    pair.etcd.delete(b"/leeway/", b"/leeway0")
    assert pair.command().initialise([B])
    with pytest.raises(StoreUnavailableError, match="was replaced by store"):
        pair.server.load()
    with pytest.raises(StoreUnavailableError, match="was replaced by store"):
        pair.server.changes(pair.server.revision, wait=False)


@pytest.mark.parametrize("key", [None, b"/leeway/v2/x", b"/leeway/else"])
def test_an_empty_prefix_is_no_store(key: bytes | None) -> None:
    etcd = FakeEtcd()
    if key:
        etcd.put(key, b"")
    backend = EtcdBackend(etcd.client(), "/leeway", follow=True, writer="a/1")
    with pytest.raises(NotInitialisedError, match=r"no store under /leeway/.*`leeway init`"):
        backend.load()
    assert backend.unread()
    backend.close()


def test_records_without_a_head_are_no_store() -> None:
    etcd = FakeEtcd()
    etcd.put(LAYOUT.key_of("user", b"a"), LAYOUT.value_of(b"user/a", b"")[0])
    backend = EtcdBackend(etcd.client(), "/leeway", follow=False, writer="a/1")
    with pytest.raises(StoreError, match="no head"):
        backend.load()


def test_a_store_of_a_later_version_is_not_read(pair: Pair) -> None:
    pair.load()
    pair.etcd.put(HEAD, encode(decode(pair.etcd.keys()[HEAD]), min_reader=9))
    pair.must_load()
    with pytest.raises(StoreError, match="use a later version"):
        pair.server.load()


# A history that is lost.


@pytest.mark.bad_input(68)
@pytest.mark.parametrize("bump", [0, 1_000_000], ids=["as-it-was", "bumped"])
@pytest.mark.parametrize("commits", [0, 1, 3, 10], ids=["none", "fewer", "as-many", "more"])
def test_a_restored_backup_is_a_lost_history(pair: Pair, commits: int, bump: int) -> None:
    pair.load()
    copy = pair.etcd.copy()
    for number in range(3):
        pair.commit(Record("revocation", b"%d" % number, b""))
    pair.server.changes(pair.server.revision)
    pair.load()
    lost = pair.server.revision
    position = pair.server.position()
    pair.client.is_away = True
    pair.client.watches[-1].error = away()
    pair.etcd.put_back(copy, bump=bump)
    for number in range(commits):
        pair.commit(Record("user", b"after %d" % number, b""))
    pair.client.is_away = False
    pair.must_load()
    assert pair.server.proven(lost) == float("-inf")
    for wait in (False, True):
        with pytest.raises(ReplacedError):
            pair.server.changes(lost, wait=wait)
    with pytest.raises(ConflictError):
        pair.server.commit(lost, [B])
    revision, records = pair.server.load()
    # The old state gets no proof of the new one, even if it has the same revision.
    assert pair.server.proven(lost) == float("-inf")
    assert pair.server.changes(lost, wait=False) is None
    pair.server.applied(revision)
    assert len(records) == 1 + commits
    assert pair.server.proven(revision) > 0
    assert pair.server.lost_history(boottime())
    assert pair.server.lost_history(boottime() + 601) == ""
    assert pair.server.counters.reloads["lost_history"] == 1
    # Its digest holds for everybody.
    assert pair.server.commit(revision, [B])
    assert len(pair.command().load()[1]) == 2 + commits

    def is_foreign() -> bool:
        try:
            return pair.server.reaches(position)
        except ForeignPositionError:
            return True

    pair.server.applied(pair.server.changes(revision, wait=False)[0])  # type: ignore[index]
    pair.server.wanted()
    wait_until(is_foreign)
    with pytest.raises(ForeignPositionError, match="history of the store that was lost"):
        pair.server.reaches(position)


def test_a_commit_on_a_lost_history_is_a_conflict(pair: Pair) -> None:
    """The compare of the revision alone would succeed (etcd-store.md, history 4)."""
    copy = pair.etcd.copy()
    command = pair.command()
    pair.commit(B)
    lost, _ = command.load()
    pair.etcd.put_back(copy)
    assert pair.commit(C) == lost
    with pytest.raises((ConflictError, StoreUnavailableError)):
        command.commit(lost, [Record("user", b"d", b"")])
    assert {record.id for record in pair.command().load()[1]} == {b"a", b"c"}


def test_a_command_notices_a_lost_history(pair: Pair) -> None:
    copy = pair.etcd.copy()
    command = pair.command()
    pair.commit(B)
    revision, _ = command.load()
    command.applied(revision)
    assert command.changes(revision) == (revision, [])
    pair.etcd.put_back(copy)
    pair.commit(C)
    with pytest.raises(ReplacedError):
        command.changes(revision)


def test_a_load_notices_a_lost_history(pair: Pair) -> None:
    copy = pair.etcd.copy()
    pair.commit(B)
    command = pair.command()
    revision, _ = command.load()
    command.applied(revision)
    pair.etcd.put_back(copy)
    with pytest.raises(StoreLockedError, match="history of the store was lost"):
        command.load()
    with pytest.raises(ReplacedError):
        command.changes(revision, wait=False)
    assert command.load()[1] == [A]
    assert command.counters.reloads == {"start": 1, "lost_history": 1}


def test_a_command_loads_what_others_have_changed(pair: Pair) -> None:
    command = pair.command()
    revision, _ = command.load()
    command.applied(revision)
    pair.commit(B)
    assert command.changes(revision) is None
    assert set(command.load()[1]) == {A, B}
    assert command.max_staleness == float("inf")


# Reads that go backwards.


def follower_of(data: FakeEtcd) -> Follower:
    answer = data.range(LAYOUT.records, LAYOUT.records[:-1] + b"0", 0, 0)
    return Follower(LAYOUT, etcd_load.loaded(LAYOUT, answer.kvs)[0])


def head_read(pair: Pair, follower: Follower, revision: int, sent: float) -> HeadRead:
    kv = pair.etcd.states[revision][HEAD]
    return HeadRead(sent, follower.commit, kv.mod_revision, kv.value)


def test_a_read_that_went_backwards_proves_nothing(pair: Pair) -> None:
    old = pair.etcd.revision
    pair.commit(B)
    follower = follower_of(pair.etcd)
    assert follower.read(head_read(pair, follower, pair.etcd.revision, 1.0))
    assert follower.proofs.at(follower.commit.revision) == 1.0
    assert not follower.read(head_read(pair, follower, old, 2.0))
    assert follower.proofs.at(follower.commit.revision) == 1.0
    # Another member has the present one: it was a stale read.
    assert follower.read(head_read(pair, follower, pair.etcd.revision, 3.0))
    assert not follower.read(head_read(pair, follower, old, 4.0))
    with pytest.raises(MustLoadError) as caught:
        follower.read(head_read(pair, follower, old, 5.0))
    assert caught.value.reason is Reason.LOST_HISTORY


def test_a_read_ahead_proves_something_when_it_has_arrived(pair: Pair) -> None:
    follower = follower_of(pair.etcd)
    first = follower.commit.revision
    revision = pair.commit(B)
    assert follower.read(head_read(pair, follower, revision, 2.0))
    assert follower.proofs.at(first) == float("-inf")
    group = follower.follow(revision, events_of(pair.etcd, revision))
    assert group is not None
    assert (group.commit.revision, list(group.records)) == (revision, [B])
    assert follower.proofs.at(revision) == 2.0
    assert follower.proofs.at(first) == float("-inf")


def events_of(etcd: FakeEtcd, revision: int) -> list[Event]:
    return [Event(e.kv.key, None if e.is_delete else e.kv.value) for e in etcd.log[revision]]


def test_a_commit_of_its_own_that_the_feed_delivers_too_is_applied_once(pair: Pair) -> None:
    pair.load()
    before = pair.server.revision
    revision = pair.server.commit(before, [B])
    pair.server.applied(revision)
    again = pair.commit(C)
    pair.arrives(again)
    assert pair.server.changes(revision, wait=False) == (again, [C])
    assert pair.server.changes(before, wait=False) == (again, [B, C])


@given(st.lists(st.sampled_from("alcfrxd"), max_size=12))
@settings(max_examples=200, deadline=None)
def test_whatever_arrives_the_state_is_that_of_a_load_or_there_is_none(steps: str) -> None:
    """Take steps: a commit arrives (a), is lost (l), arrives twice (c); something foreign (f), a
    rollback (r), a damaged head (d), and none (x).
    """
    etcd = FakeEtcd()
    client = etcd.client()
    writer = EtcdBackend(client, "/leeway", follow=False, writer="w/1")
    assert writer.initialise([A])
    follower = follower_of(etcd)
    state = {(A.kind, A.id): A}
    copies = [etcd.copy()]
    try:
        for number, step in enumerate(steps):
            before = etcd.revision
            if step in "alc":
                with suppress(
                    StoreError, NotInitialisedError, ConflictError, StoreUnavailableError
                ):
                    records = [Record("user", b"%d" % (number % 4), b"%d" % number)]
                    records += [Record("user", b"%d" % (number % 3), None)]
                    writer = EtcdBackend(client, "/leeway", follow=False, writer="w/1")
                    writer.commit(writer.load()[0], records)
                copies.append(etcd.copy())
            elif step == "f":
                etcd.put(b"/leeway/v1/user/foreign", b"%d" % number)
            elif step == "d":
                etcd.put(HEAD, b"junk")
            elif step == "x":
                etcd.delete(HEAD)
            else:
                etcd.put_back(copies[number % len(copies)])
                before = etcd.revision
            if step != "l" and etcd.revision > before:
                for _ in range(2 if step == "c" else 1):
                    group = follower.follow(etcd.revision, events_of(etcd, etcd.revision))
                    for record in group.records if group else ():
                        state[record.kind, record.id] = record
            kv = etcd.states[etcd.revision].get(HEAD)
            read = HeadRead(
                float(number),
                follower.commit,
                kv.mod_revision if kv else 0,
                kv.value if kv else b"",
            )
            follower.read(read)
            if follower.proofs.at(follower.commit.revision) == float(number):
                fresh = EtcdBackend(client, "/leeway", follow=False, writer="w/1").load()
                live = {record for record in state.values() if record.value is not None}
                assert fresh == (follower.commit.revision, list(fresh[1]))
                assert live == set(fresh[1])
    except (MustLoadError, LostStoreError):
        pass


def test_a_group_is_followed_completely_or_not_at_all(pair: Pair) -> None:
    follower = follower_of(pair.etcd)
    revision = pair.commit(B, C)
    events = events_of(pair.etcd, revision)
    for missing in events:
        with pytest.raises(MustLoadError) as caught:
            follower_of_copy(pair, follower).follow(revision, [e for e in events if e != missing])
        assert caught.value.reason in (Reason.FOREIGN, Reason.DIVERGED)


def follower_of_copy(pair: Pair, follower: Follower) -> Follower:
    answer = pair.etcd.range(
        LAYOUT.records, LAYOUT.records[:-1] + b"0", follower.commit.revision, 0
    )
    return Follower(LAYOUT, etcd_load.loaded(LAYOUT, answer.kvs)[0])


def test_commits_that_did_not_arrive_are_a_gap(pair: Pair) -> None:
    follower = follower_of(pair.etcd)
    pair.commit(B)
    revision = pair.commit(C)
    with pytest.raises(MustLoadError) as caught:
        follower.follow(revision, events_of(pair.etcd, revision))
    assert caught.value.reason is Reason.GAP


@pytest.mark.parametrize(
    ("commits", "answer"), [(1, True), (64, True), (65, None)], ids=["one", "ring", "too-many"]
)
def test_whether_a_history_continues(pair: Pair, commits: int, answer: bool | None) -> None:
    start = follower_of(pair.etcd).commit
    for _ in range(commits):
        pair.commit()
    last = follower_of(pair.etcd)
    assert continues(start, last.commit.revision, last.head) is answer
    lost = CommitId(last.commit.revision - 1, bytes(16))
    assert continues(lost, last.commit.revision, last.head) is False


def test_another_cluster_loads_everything(pair: Pair) -> None:
    pair.load()
    pair.server.wanted()
    wait_until(lambda: bool(pair.server._following._header.cluster_id))
    pair.etcd.cluster_id += 1
    pair.must_load()
    pair.load()
    pair.etcd.raft_term -= 1
    pair.must_load()
    pair.load()
    assert pair.server.counters.reloads == {"start": 1, "cluster": 2}


def test_kept_commits_are_limited(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_history, "KEPT_COMMITS", 5)
    pair.load()
    revisions = [pair.server.revision]
    for number in range(10):
        revisions.append(pair.server.commit(revisions[-1], [Record("user", b"%d" % number, b"")]))
    found = [pair.server.changes(revision, wait=False) for revision in revisions]
    assert [answer is None for answer in found] == [True] * 5 + [False] * 6
    assert pair.load() >= {A}
    monkeypatch.setattr(etcd_history, "KEPT_BYTES", 1000)
    revision = pair.server.commit(revisions[-1], [Record("user", b"large", bytes(2000))])
    assert pair.server.changes(revisions[-1], wait=False) is not None
    pair.server.commit(revision, [])
    assert pair.server.changes(revisions[-1], wait=False) is None


@pytest.mark.bad_input(67)
def test_a_load_against_compaction_takes_larger_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_load, "FIRST_LIMIT", 10)
    monkeypatch.setattr(etcd_load, "_LAST_LIMIT", 40)
    client = FakeEtcd().client()
    records = [Record("user", b"%03d" % number, b"") for number in range(300)]
    backend = EtcdBackend(client, "/leeway", follow=False, writer="a/1")
    assert backend.initialise(records)
    assert len(backend.load()[1]) == 300
    assert {limit for _, limit, _ in client.reads} == {10}
    client.reads.clear()

    def compact(revision: int) -> None:
        if revision:
            client.etcd.put(b"/neighbour", b"")
            client.etcd.compact()

    client.before_range = compact
    assert set(backend.load()[1]) == set(records)
    assert [limit for _, limit, revision in client.reads if not revision] == [10, 40, 0]


def test_the_batches_of_a_watch_are_divided_by_revision(pair: Pair) -> None:
    from webhook.backends.etcd_requests import groups_of

    revisions = [pair.commit(B), pair.commit(C, Record("user", b"a", None))]
    events = tuple(event for revision in revisions for event in pair.etcd.log[revision])
    groups = list(groups_of(WatchBatch(pair.etcd.header(), events)))
    assert groups == [(revision, events_of(pair.etcd, revision)) for revision in revisions]
    assert list(groups_of(WatchBatch(pair.etcd.header(), ()))) == []


@pytest.mark.bad_input(68)
@pytest.mark.parametrize("is_lost", [False, True], ids=["continued", "lost"])
@pytest.mark.parametrize("is_compacted", [False, True], ids=["kept", "compacted"])
def test_a_history_longer_than_the_ring_is_compared_where_it_left_off(
    pair: Pair, is_lost: bool, is_compacted: bool
) -> None:
    pair.commit(B)
    copy = pair.etcd.copy()
    pair.commit(C)
    pair.load()
    pair.client.is_away = True
    pair.client.watches[-1].error = away()
    if is_lost:
        pair.etcd.put_back(copy)
    for number in range(70):
        pair.commit(Record("user", b"%d" % number, b""))
    if is_compacted:
        pair.etcd.compact()
    # The watch of such a server is resumed, or its start is compacted; either way it must load.
    with pair.server._following.changed:
        pair.server._following.fail(MustLoadError(Reason.GAP, "made up"))
        pair.server._following.changed.notify_all()
    pair.client.is_away = False
    pair.must_load()
    if is_lost and not is_compacted:
        with pytest.raises(ReplacedError):
            pair.server.changes(pair.server.revision, wait=False)
    else:
        assert pair.server.changes(pair.server.revision, wait=False) is None


def test_a_failure_that_was_not_looked_at_yet_is_waited_out(pair: Pair) -> None:
    pair.load()
    pair.client.is_away = True
    pair.client.watches[-1].error = away()
    pair.etcd.put(b"/leeway/v1/oops", b"")
    with pair.server._following.changed:
        pair.server._following.fail(MustLoadError(Reason.FOREIGN, "made up"))
        pair.server._following.changed.notify_all()
    with pytest.raises(StoreLockedError, match="has to be loaded again: made up"):
        pair.server.changes(pair.server.revision, wait=False)
    wait_until(lambda: "did not answer" in pair.server._feed.problem)
    # Nothing that a state of before claims to have applied counts.
    pair.server.applied(pair.server.revision)
    assert pair.server.unread()
    assert pair.server.age(boottime()) == float("inf")
    pair.client.is_away = False
    pair.must_load()
    assert pair.load() == {A}


def test_a_group_with_a_damaged_record_is_not_followed(pair: Pair) -> None:
    follower = follower_of(pair.etcd)
    revision = pair.commit(B, Record("user", b"a", None))
    events = events_of(pair.etcd, revision)
    for event in events:
        if event.key == HEAD:
            continue
        damaged = [Event(e.key, b"junk") if e == event else e for e in events]
        unreadable = [Event(b"/leeway/v1/oops", None) if e == event else e for e in events]
        for group in (damaged, unreadable):
            with pytest.raises(MustLoadError) as caught:
                follower_of_copy(pair, follower).follow(revision, group)
            assert caught.value.reason is Reason.DAMAGED


def test_a_position_is_known_only_where_something_is_in_use(pair: Pair) -> None:
    other = pair.command()
    other.applied(other.load()[0])
    assert not pair.server.reaches(other.position())
    pair.load()
    assert pair.server.reaches(other.position())
    assert pair.server.position() == other.position()
