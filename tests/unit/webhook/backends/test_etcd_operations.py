"""What operators and other rooms see of a store in etcd: status, repair, clocks, workers."""

import logging
from collections.abc import Callable, Iterator
from math import inf

import pytest

from tests.fake_etcd import FakeEtcd, away
from tests.support import wait_until
from webhook.backends import etcd
from webhook.backends.etcd import EtcdBackend, boottime
from webhook.backends.etcd_clocks import Clocks
from webhook.backends.etcd_layout import Layout
from webhook.rbac.errors import (
    NotInitialisedError,
    StoreChangedError,
    StoreError,
    StoreLockedError,
    StoreUnavailableError,
)
from webhook.rbac.records import Record

A, B = Record("user", b"a", b"1"), Record("user", b"b", b"2")
LAYOUT = Layout("/leeway")


@pytest.fixture
def data() -> FakeEtcd:
    data = FakeEtcd()
    assert command(data).initialise([A, B])
    return data


def command(data: FakeEtcd) -> EtcdBackend:
    return EtcdBackend(data.client(), "/leeway", follow=False, writer="admin/1")


@pytest.fixture
def open_server(data: FakeEtcd) -> Iterator[Callable[..., EtcdBackend]]:
    opened: list[EtcdBackend] = []

    def open_one(**options: object) -> EtcdBackend:
        backend = EtcdBackend(data.client(), "/leeway", follow=True, writer="a/1", **options)  # type: ignore[arg-type]
        opened.append(backend)
        backend.applied(backend.load()[0])
        return backend

    yield open_one
    for backend in opened:
        backend.close()


# Status.


def test_the_status_names_each_member(data: FakeEtcd) -> None:
    found = command(data).status()
    assert [member.endpoint for member in found.endpoints] == list(data.client().endpoints)
    assert {member.version for member in found.endpoints} == {"3.6.13"}
    assert all(member.has_leader and not member.error for member in found.endpoints)
    assert found.alarms == ()


def test_the_status_of_members_that_are_away_says_so(data: FakeEtcd) -> None:
    client = data.client()
    client.is_away = True
    found = EtcdBackend(client, "/leeway", follow=False, writer="a/1").status()
    assert {member.error for member in found.endpoints} == {str(away())}
    assert found.alarms == ()


def test_a_store_that_cannot_be_reached_names_the_endpoints(data: FakeEtcd) -> None:
    client = data.client()
    backend = EtcdBackend(client, "/leeway", follow=False, writer="a/1")
    revision, _ = backend.load()
    client.is_away = True
    for attempt in (
        backend.load,
        backend.repair_plan,
        lambda: backend.changes(revision),
    ):
        with pytest.raises(StoreUnavailableError, match=r"/leeway/ in etcd at http://one, http://"):
            attempt()


# Repair.


@pytest.mark.parametrize("what", ["damaged", "gone", "added", "head", "no-head", "nothing"])
def test_a_repair_accepts_the_records_that_are_there(data: FakeEtcd, what: str) -> None:
    key, store_id = LAYOUT.key_of("user", b"a"), command(data).repair_plan().store_id
    expected = {A, B}
    if what == "damaged":
        data.put(key, b"junk")
        expected = {B}
    elif what == "gone":
        data.delete(key)
        expected = {B}
    elif what == "added":
        added = Record("user", b"c", b"3")
        data.put(LAYOUT.key_of("user", b"c"), LAYOUT.value_of(b"user/c", b"3")[0])
        expected = {A, B, added}
    elif what == "head":
        data.put(LAYOUT.head, b"junk")
    elif what == "no-head":
        data.delete(LAYOUT.head)
    if what != "nothing":
        with pytest.raises(StoreError, match=r"/leeway/.* in etcd"):
            command(data).load()
    plan = command(data).repair_plan()
    assert plan.is_needed == (what != "nothing")
    assert plan.records == len(expected)
    assert plan.unreadable == (("/leeway/v1/user/a",) if what == "damaged" else ())
    assert (plan.store_id == store_id) == (what not in ("head", "no-head"))
    revision = command(data).repair(plan)
    found, records = command(data).load()
    assert (found, set(records)) == (revision, expected)


def test_servers_load_what_was_repaired(
    data: FakeEtcd, open_server: Callable[..., EtcdBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd, "_DAMAGED_SECONDS", 0.0)
    server = open_server()
    data.delete(LAYOUT.key_of("user", b"a"))
    wait_until(lambda: server._following.follower is None)
    with pytest.raises(StoreError):
        server.load()
    command(data).repair(command(data).repair_plan())
    assert server.load()[1] == [B]


@pytest.mark.parametrize("what", ["record", "head"])
def test_a_repair_of_a_store_that_was_changed_meanwhile_is_refused(
    data: FakeEtcd, what: str
) -> None:
    data.delete(LAYOUT.key_of("user", b"a"))
    plan = command(data).repair_plan()
    data.put(LAYOUT.head if what == "head" else LAYOUT.key_of("user", b"x"), b"")
    keys = data.keys()
    with pytest.raises(StoreChangedError, match="nothing was repaired"):
        command(data).repair(plan)
    assert data.keys() == keys


def test_there_is_nothing_to_repair_where_there_is_no_store() -> None:
    with pytest.raises(NotInitialisedError, match="nothing to repair"):
        command(FakeEtcd()).repair_plan()


def test_a_damaged_store_is_not_read_all_the_time(data: FakeEtcd) -> None:
    client = data.client()
    backend = EtcdBackend(client, "/leeway", follow=False, writer="a/1")
    data.delete(LAYOUT.key_of("user", b"a"))
    for _ in range(5):
        with pytest.raises(StoreError, match="is damaged"):
            backend.load()
    assert len(client.reads) == 1


# Clocks.


@pytest.mark.parametrize(
    ("wall", "difference"),
    [(100.0, 0.0), (101.0, 0.0), (100.5, 0.0), (161.5, 60.5), (39.5, -60.5), (99.0, -1.0)],
)
def test_a_clock_differs_by_what_the_moment_of_the_commit_does_not_explain(
    wall: float, difference: float
) -> None:
    clocks = Clocks()
    clocks.saw("b/2", wall, 100.0, 101.0, 5.0)
    assert clocks.largest(5.0)[1] == difference


def test_the_largest_difference_of_the_last_minutes_counts() -> None:
    clocks = Clocks()
    clocks.saw("b/2", 500.0, 100.0, 100.0, 5.0)
    clocks.saw("c/3", 50.0, 100.0, 100.0, 6.0)
    clocks.saw("d/4", 9999.0, 90.0, 100.0, 6.0)  # It may have been made at any time before.
    assert clocks.largest(600.0) == ("b/2", 400.0)
    assert clocks.largest(605.5) == ("c/3", -50.0)
    clocks.saw("c/3", 100.0, 100.0, 100.0, 606.0)
    assert clocks.largest(606.0) == ("c/3", 0.0)
    assert clocks.largest(2000.0) == ("", 0.0)
    for number in range(100):
        clocks.saw(f"w/{number}", 200.0 - number, 100.0, 100.0, 2000.0)
    assert clocks.largest(2000.0) == ("w/36", 64.0)


def test_a_wrong_clock_is_reported_once(
    data: FakeEtcd, open_server: Callable[..., EtcdBackend], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "leeway")
    server = open_server()
    assert server.clock_difference == 0.0
    other = EtcdBackend(data.client(), "/leeway", follow=False, writer="wrong/9", wall=lambda: 1e9)
    for _ in range(3):
        now = boottime()
        server.wanted()
        wait_until(lambda now=now: server._following.proven(server.revision) >= now)  # type: ignore[misc]
        revision = other.commit(other.load()[0], [])
        assert server.changes(server.revision) == (revision, [])
        server.applied(revision)
    wait_until(lambda: server.clock_difference < -1e8)
    warnings = [record for record in caplog.records if "clocks differ" in record.message]
    assert len(warnings) == 1
    assert "wrong/9" in warnings[0].message


# The other workers of the server.


class FakePeers:
    """Workers that know what they are told."""

    def __init__(self) -> None:
        self.announced: list[int] = []
        self.latest = 0

    def announce(self, revision: int, now: float) -> None:
        assert 0 < now < inf
        self.announced.append(revision)

    def is_behind(self, revision: int, proof: float) -> bool:
        assert proof < inf
        return revision < self.latest


def test_what_another_worker_knows_is_waited_for(
    data: FakeEtcd, open_server: Callable[..., EtcdBackend]
) -> None:
    peers = FakePeers()
    server = open_server(peers=peers)
    first = server.revision
    assert peers.announced == [first]
    assert not server.unread()
    peers.latest = first + 1
    assert server.unread() == 1
    with pytest.raises(StoreLockedError, match="another worker of this server"):
        server.changes(first, wait=False)
    # Nor is what is here handed out while there is more: it would be answered from.
    peers.latest = first + 2
    revision = server.commit(first, [Record("user", b"c", b"")])
    with pytest.raises(StoreLockedError, match="another worker of this server"):
        server.changes(first, wait=False)
    peers.latest = revision
    assert peers.announced == [first, revision]
    found = server.changes(first, wait=False)
    assert found == (revision, [Record("user", b"c", b"")])
    server.applied(revision)
    assert peers.announced[-1] == revision
    assert not server.unread()
    assert server.changes(revision, wait=False) == (revision, [])
