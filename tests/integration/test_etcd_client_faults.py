"""The client of etcd while members are killed and stopped, and connections cut."""

import contextlib
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.etcd_cluster import EtcdCluster, memory_folder
from tests.etcd_member import HOST, is_sound, need_program, version_of
from tests.integration.etcd_clients import (
    ALL,
    ATTEMPT_SECONDS,
    END,
    LONG,
    client_of,
    eventually,
    revisions,
    take,
    until_its_end,
)
from tests.tcp_proxy import DOWN, UP, TCPProxy
from webhook.etcd.client import EtcdClient
from webhook.etcd.errors import (
    Code,
    EtcdError,
    NoAnswerError,
    NotSentError,
)


@pytest.fixture(scope="module")
def three() -> Iterator[EtcdCluster]:
    """Three members that can be stopped and killed."""
    program = need_program("etcd")
    with memory_folder() as folder, EtcdCluster(folder, fast=True) as cluster:
        if not is_sound(version_of(program)):
            pytest.skip(f"etcd {cluster.version} has faults that killed members show")
        yield cluster


@pytest.fixture
def members(three: EtcdCluster) -> Iterator[EtcdCluster]:
    """The three, healthy again after each test."""
    yield three
    three.heal()


def test_a_member_is_killed(members: EtcdCluster) -> None:
    """Reads and writes go on at the others, and the watch is told."""
    client = client_of(members)
    client.put(b"/leeway/a", b"1")
    watch = client.watch(ALL, END, endpoint=members.endpoints[0])
    members.members[0].kill()
    with pytest.raises(NoAnswerError):
        take(watch, 1)
    assert client.range(b"/leeway/a").endpoint != members.endpoints[0]
    eventually(lambda: client.put(b"/leeway/a", b"2"))
    with client.watch(ALL, END, start_revision=watch.next_revision) as following:
        assert following.endpoint != members.endpoints[0]
        assert take(following, 1)[0].events[0].kv.value == b"2"
    members.members[0].start()
    eventually(lambda: client.range(b"/leeway/a", endpoint=members.endpoints[0]))
    client.close()


def test_a_watch_that_is_opened_again_misses_nothing(members: EtcdCluster) -> None:
    client, writer = client_of(members), client_of(members)
    start = eventually(partial(client.range, ALL, END))
    following = start.header.revision + 1
    written: list[int] = []
    stopped = threading.Event()

    def write() -> None:
        while not stopped.is_set():
            with contextlib.suppress(EtcdError):
                written.append(writer.put(b"/leeway/w", b"").header.revision)
            time.sleep(0.01)

    thread = threading.Thread(target=write)
    thread.start()
    seen: list[int] = []
    try:
        for _ in range(6):
            watch = eventually(partial(client.watch, ALL, END, start_revision=following))
            seen += revisions(take(watch, 20))
            victim = next(m for m in members.members if m.endpoint == watch.endpoint)
            victim.kill()
            seen += until_its_end(watch)
            following = watch.next_revision
            victim.start()
            members.wait_healthy()
    finally:
        stopped.set()
        thread.join(LONG)
    with client.watch(ALL, END, start_revision=following) as watch:
        while seen[-1] < written[-1]:
            seen += revisions([next(watch)])
    assert seen == sorted(set(seen))
    assert set(written) <= set(seen)
    client.close()
    writer.close()


def test_a_member_is_stopped(members: EtcdCluster) -> None:
    """It accepts connections, and nobody answers."""
    client = client_of(members)
    client.put(b"/leeway/a", b"1")
    first = next(m for m in members.members if m.endpoint == client.endpoint)
    if first.is_leader():
        # The others would have to elect first.
        first = members.followers()[0]
        client.range(b"/leeway/a")
        client._calls.first = first.endpoint
        client.put(b"/leeway/a", b"1")
    first.pause()
    # It may still answer while the signal is on its way to its threads.
    while client.range(b"/leeway/a", timeout=LONG, hedge=0.1).endpoint == first.endpoint:
        time.sleep(ATTEMPT_SECONDS)
    # A write into it may still arrive: its outcome is unknown.
    with pytest.raises(NoAnswerError) as caught:
        client.put(b"/leeway/a", b"2", timeout=0.5, endpoint=first.endpoint)
    assert not caught.value.is_definite
    # Once that is known, nothing is sent into it.
    with pytest.raises(NotSentError):
        client.put(b"/leeway/a", b"3", timeout=0.5, endpoint=first.endpoint)
    assert client.put(b"/leeway/a", b"4", timeout=LONG).endpoint != first.endpoint
    client.close()


def test_the_leader_is_killed(members: EtcdCluster) -> None:
    client = client_of(members)
    client.put(b"/leeway/a", b"1")
    for _ in range(3):
        members.leader().kill()
        # A read waits for the election; a write is told what it can know.
        assert client.range(b"/leeway/a", timeout=LONG).kvs[0].key == b"/leeway/a"
        eventually(lambda: client.put(b"/leeway/a", b"1"))
        members.heal()
    client.close()


def test_there_is_no_majority(members: EtcdCluster) -> None:
    client = client_of(members)
    client.put(b"/leeway/a", b"1")
    watch = client.watch(ALL, END, endpoint=members.endpoints[0])
    for member in members.members[1:]:
        member.kill()
    with pytest.raises(NoAnswerError):
        client.range(b"/leeway/a", timeout=1.0)
    # The leader is demanded: what one member has is not read either.
    with pytest.raises(NoAnswerError):
        take(watch, 1)
    with pytest.raises(NoAnswerError, match="no leader"):
        client.range(b"/leeway/a", serializable=True, timeout=1.0, endpoint=members.endpoints[0])
    with pytest.raises(NoAnswerError) as caught:
        client.put(b"/leeway/a", b"2", timeout=1.0, endpoint=members.endpoints[0])
    assert not caught.value.is_definite
    members.heal()
    client.range(b"/leeway/a", timeout=LONG)
    client.close()


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_a_connection_is_cut_half(direction: str, members: EtcdCluster) -> None:
    with TCPProxy(members.ports[:1]) as proxy:
        near = f"http://{HOST}:{proxy.ports[0]}"
        client = EtcdClient([near, *members.endpoints[1:]])
        assert client.put(b"/leeway/a", b"1").endpoint == near
        proxy.cut(direction)
        with pytest.raises(NoAnswerError) as caught:
            client.put(b"/leeway/a", b"2", timeout=0.5)
        assert not caught.value.is_definite
        assert client.endpoint == members.endpoints[1]
        assert client.put(b"/leeway/a", b"3", timeout=LONG).endpoint == members.endpoints[1]
        proxy.heal()
        eventually(lambda: client.range(b"/leeway/a", endpoint=near))
        client.close()


def test_a_stream_that_is_reset(members: EtcdCluster) -> None:
    with TCPProxy(members.ports[:1]) as proxy:
        client = EtcdClient([f"http://{HOST}:{proxy.ports[0]}"])
        watch = client.watch(ALL, END)
        proxy.reset()
        with pytest.raises(NoAnswerError) as caught:
            next(watch)
        assert caught.value.code is Code.UNAVAILABLE
        proxy.refuse()
        with pytest.raises((NotSentError, NoAnswerError)):
            client.range(b"k", timeout=1.0)
        client.close()


def test_what_is_said_of_a_write_is_true(members: EtcdCluster) -> None:
    """Members are killed and connections reset under writes of keys that are used once."""
    acknowledged: set[bytes] = set()
    unknown: set[bytes] = set()
    definite: set[bytes] = set()
    stopped = threading.Event()

    def write(number: int, client: EtcdClient) -> None:
        for count in range(1 << 20):
            if stopped.is_set():
                return
            key = b"/leeway/%d/%d" % (number, count)
            try:
                client.put(key, b"", timeout=1.0)
            except EtcdError as error:
                (definite if error.is_definite else unknown).add(key)
            else:
                acknowledged.add(key)

    with TCPProxy(members.ports) as proxy:
        urls = [f"http://{HOST}:{port}" for port in proxy.ports]
        # The first writer has one endpoint, so that some writes find nobody.
        clients = [EtcdClient(urls[:1]), EtcdClient(urls), EtcdClient(members.endpoints)]
        threads = [
            threading.Thread(target=write, args=(number, client))
            for number, client in enumerate(clients)
        ]
        for thread in threads:
            thread.start()
        for victim in (*members.members, *members.members):
            victim.kill()
            # Until the loss is noticed, and others have taken over.
            before = len(acknowledged)
            while len(acknowledged) < before + 50:
                time.sleep(ATTEMPT_SECONDS)
            victim.start()
            members.wait_healthy()
            proxy.reset()
        stopped.set()
        for thread in threads:
            thread.join(LONG)
        for client in clients:
            client.close()
    reader = client_of(members)
    found = {kv.key for kv in reader.range(ALL, END, keys_only=True, timeout=LONG).kvs}
    reader.delete(ALL, END, timeout=LONG)
    reader.close()
    assert acknowledged <= found
    assert not definite & found
    assert definite
    assert unknown
