"""The client of etcd with a real one: keys, transactions, watches, TLS."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.etcd_cluster import EtcdCluster, memory_folder
from tests.etcd_member import find_program, need_program
from tests.integration.etcd_clients import (
    ALL,
    END,
    LONG,
    client_of,
    revisions,
    take,
)
from webhook.etcd.client import EtcdClient
from webhook.etcd.credentials import EtcdTLS
from webhook.etcd.errors import (
    CompactedError,
    EtcdError,
    NotSentError,
    RefusedError,
)
from webhook.etcd.messages import txn_size
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
    value_is,
)
from webhook.etcd.values import DeleteAnswer, PutAnswer, RangeAnswer, TxnAnswer


def programs() -> list[Path]:
    """Return every etcd there is: the newest, and the one of the development group."""
    found = [find_program("etcd"), Path(sys.executable).with_name("etcd")]
    return list(dict.fromkeys(path for path in found if path is not None and path.is_file()))


PROGRAMS: list[Path | None] = [*programs()]


@pytest.fixture(scope="module", params=PROGRAMS or [None], ids=str)
def cluster(request: pytest.FixtureRequest) -> Iterator[EtcdCluster]:
    """One member of each version, with mutual TLS."""
    program = request.param or need_program("etcd")
    with memory_folder() as folder, EtcdCluster(folder, 1, tls=True, program=program) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: EtcdCluster) -> Iterator[EtcdClient]:
    client = client_of(cluster)
    yield client
    client.delete(ALL, END, timeout=LONG)
    client.close()


def test_keys(client: EtcdClient) -> None:
    first = client.put(b"/leeway/a", b"1")
    second = client.put(b"/leeway/a", b"2", prev_kv=True)
    assert second.previous is not None
    assert second.previous.value == b"1"
    assert second.header.revision == first.header.revision + 1
    client.put(b"/leeway/b", b"")
    found = client.range(ALL, END)
    assert [(kv.key, kv.value, kv.version) for kv in found.kvs] == [
        (b"/leeway/a", b"2", 2),
        (b"/leeway/b", b"", 1),
    ]
    page = client.range(ALL, END, limit=1, keys_only=True)
    assert (page.more, page.count, page.kvs[0].value) == (True, 2, b"")
    old = client.range(b"/leeway/a", revision=first.header.revision)
    assert old.kvs[0].value == b"1"
    assert client.range(ALL, END, count_only=True).count == 2
    assert client.range(ALL, END, serializable=True).kvs == found.kvs
    deleted = client.delete(b"/leeway/a", prev_kv=True)
    assert (deleted.deleted, deleted.previous[0].value) == (1, b"2")


def test_a_transaction_does_one_or_the_other(client: EtcdClient) -> None:
    head = b"/leeway/head"
    guard = [mod_revision_is(head, 0), create_revision_is(ALL, 0, END)]
    success: list[Operation] = [Put(head, b"one"), Txn([], [Put(b"/leeway/u/1", b"x"), Get(head)])]
    first = client.txn(guard, success, [Get(head)])
    assert first.succeeded
    revision = first.header.revision
    nested = first.answers[1]
    assert isinstance(first.answers[0], PutAnswer)
    assert isinstance(nested, TxnAnswer)
    assert isinstance(nested.answers[1], RangeAnswer)
    assert nested.answers[1].kvs[0].value == b"one"
    again = client.txn(guard, success, [Get(head), Delete(b"/leeway/none")])
    assert not again.succeeded
    found, deleted = again.answers
    assert isinstance(found, RangeAnswer)
    assert isinstance(deleted, DeleteAnswer)
    assert (found.kvs[0].value, found.kvs[0].mod_revision) == (b"one", revision)
    assert deleted.deleted == 0
    # A head of the same revision with another value is another history.
    assert client.txn([mod_revision_is(head, revision), value_is(head, b"one")], []).succeeded
    assert not client.txn([mod_revision_is(head, revision), value_is(head, b"two")], []).succeeded
    later = Compare(Target.MOD_REVISION, head, revision - 1, Relation.GREATER)
    assert client.txn([later], []).succeeded


@pytest.mark.parametrize(
    ("operations", "text"),
    [
        ([Put(b"/leeway/a", b""), Put(b"/leeway/a", b"")], "duplicate key given in txn request"),
        ([Put(b"", b"")], "key is not provided"),
        ([Put(b"/leeway/%d" % n, b"") for n in range(200)], "too many operations in txn request"),
        ([Put(b"/leeway/a", bytes(7 << 18))], "request is too large"),
    ],
    ids=["duplicate", "no key", "too many", "too large"],
)
def test_what_etcd_refuses_was_not_executed(
    operations: list[Operation], text: str, client: EtcdClient
) -> None:
    with pytest.raises(RefusedError, match=text) as caught:
        client.txn([], operations)
    assert caught.value.is_definite
    assert client.range(ALL, END).kvs == ()


def test_the_size_of_a_transaction_is_what_etcd_measures(client: EtcdClient) -> None:
    """Its limit is 1.5 MiB."""
    room = 3 * (1 << 19) - txn_size([], [Put(b"/leeway/a", bytes(1 << 20))]) + (1 << 20)
    client.txn([], [Put(b"/leeway/a", bytes(room - 1024))])
    with pytest.raises(RefusedError, match="too large"):
        client.txn([], [Put(b"/leeway/a", bytes(room + 1024))])


def test_4032_puts_in_one_revision(client: EtcdClient) -> None:
    groups: list[Operation] = [
        Txn([], [Put(b"/leeway/%04d" % (64 * group + n), b"x") for n in range(64)])
        for group in range(63)
    ]
    with client.watch(ALL, END) as watch:
        answer = client.txn([], groups, timeout=LONG)
        assert answer.succeeded
        assert revisions(take(watch, 4032)) == [answer.header.revision] * 4032


def test_leases(client: EtcdClient) -> None:
    lease = client.grant_lease(60)
    assert lease.granted_ttl == 60
    client.put(b"/leeway/l", b"", lease=lease.id)
    assert client.keep_lease_alive(lease.id).ttl == 60
    assert client.lease(lease.id, keys=True).keys == (b"/leeway/l",)
    client.revoke_lease(lease.id)
    assert client.range(b"/leeway/l").kvs == ()
    assert client.lease(lease.id).ttl == -1
    assert client.keep_lease_alive(lease.id).ttl <= 0
    with pytest.raises(RefusedError, match="requested lease not found"):
        client.put(b"/leeway/l", b"", lease=lease.id)


def test_the_cluster(cluster: EtcdCluster, client: EtcdClient) -> None:
    (endpoint,) = cluster.endpoints
    status = client.status(endpoint)
    assert status.version == cluster.version
    assert status.leader == status.header.member_id
    assert status.db_size >= status.db_size_in_use > 0
    assert client.alarms() == ()
    (member,) = client.members()
    assert (member.id, member.client_urls) == (status.header.member_id, (endpoint,))
    assert not client.auth_status().enabled


def test_a_watch(client: EtcdClient) -> None:
    start = client.put(b"/leeway/a", b"1").header.revision
    with client.watch(ALL, END, start_revision=start, prev_kv=True) as watch:
        client.put(b"/leeway/a", b"2")
        client.put(b"/elsewhere", b"")
        client.delete(b"/leeway/a")
        events = [event for batch in take(watch, 3) for event in batch.events]
        assert [(event.is_delete, event.kv.value) for event in events] == [
            (False, b"1"),
            (False, b"2"),
            (True, b""),
        ]
        assert [event.previous and event.previous.value for event in events] == [None, b"1", b"2"]
        assert watch.next_revision == start + 4
    client.delete(b"/elsewhere")


def test_a_watch_from_now_on(client: EtcdClient) -> None:
    client.put(b"/leeway/a", b"old")
    with client.watch(ALL, END) as watch:
        assert watch.next_revision == watch.created.revision + 1
        revision = client.put(b"/leeway/a", b"new").header.revision
        assert revisions(take(watch, 1)) == [revision]


def test_fragments_are_joined_to_complete_revisions(client: EtcdClient) -> None:
    """etcd divides what is larger than a request may be; here, four revisions of 1 MiB."""
    start = client.range(ALL, END).header.revision + 1
    for n in range(4):
        client.txn([], [Put(b"/leeway/%d/%d" % (n, part), bytes(1 << 18)) for part in range(4)])
    with client.watch(ALL, END, start_revision=start) as watch:
        (batch,) = take(watch, 16)
    assert revisions([batch]) == [start + n for n in range(4) for _ in range(4)]


def test_a_watch_over_a_compaction(client: EtcdClient) -> None:
    start = client.put(b"/leeway/a", b"1").header.revision
    with client.watch(ALL, END, start_revision=start) as watch:
        last = client.put(b"/leeway/a", b"2").header.revision
        assert revisions(take(watch, 2)) == [start, last]
        client.compact(last, physical=True)
        # What is open goes on.
        after = client.put(b"/leeway/a", b"3").header.revision
        assert revisions(take(watch, 1)) == [after]
    late = client.watch(ALL, END, start_revision=start)
    with pytest.raises(CompactedError) as caught:
        next(late)
    assert caught.value.compact_revision == last
    with pytest.raises(CompactedError):
        client.range(b"/leeway/a", revision=start)
    with client.watch(ALL, END, start_revision=last) as watch:
        assert revisions(take(watch, 2)) == [last, after]


def test_without_the_certificate_of_a_client(cluster: EtcdCluster) -> None:
    assert cluster.files is not None
    client = EtcdClient(cluster.endpoints, EtcdTLS(str(cluster.files.ca_file)))
    for call in (lambda: client.range(b"k"), lambda: client.put(b"k", b"")):
        with pytest.raises(NotSentError) as caught:
            call()
        assert cluster.endpoints[0] in str(caught.value)
    client.close()


def test_a_ca_that_did_not_sign_the_server(cluster: EtcdCluster) -> None:
    assert cluster.files is not None
    certificate = str(cluster.files.cert_file)
    client = EtcdClient(cluster.endpoints, EtcdTLS(certificate))
    with pytest.raises(NotSentError, match="check the CA file"):
        client.range(b"k")
    client.close()


def test_a_certificate_is_replaced_while_calls_go_on(
    cluster: EtcdCluster, client: EtcdClient
) -> None:
    assert cluster.files is not None
    stopped = threading.Event()
    failures: list[EtcdError] = []

    def call() -> None:
        while not stopped.is_set():
            try:
                client.put(b"/leeway/c", b"", timeout=LONG)
            except EtcdError as error:
                failures.append(error)

    threads = [threading.Thread(target=call) for _ in range(2)]
    with client.watch(ALL, END) as watch:
        for thread in threads:
            thread.start()
        for number in range(5):
            cluster.files.write("client", cluster.files.client(f"client-{number}"))
            client._channels.poll_soon()
            take(watch, 20)
        stopped.set()
        for thread in threads:
            thread.join(LONG)
    assert failures == []
    assert client.problem == ""
    client.range(b"k")
    assert client._channels._retired == []
