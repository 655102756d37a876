"""The store on a real etcd whose members are stopped, killed, restored and compacted."""

import os
import random
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.etcd_cluster import EtcdCluster, memory_folder
from tests.etcd_member import find_program, is_sound, need_program, version_of
from tests.support import wait_until
from tests.tcp_proxy import TCPProxy
from webhook.backends.etcd import EtcdBackend, boottime
from webhook.etcd.client import EtcdClient
from webhook.etcd.operations import Compare, Operation
from webhook.etcd.values import TxnAnswer
from webhook.rbac.errors import (
    OutcomeUnknownError,
    StoreError,
    StoreLockedError,
    StoreUnavailableError,
)
from webhook.rbac.records import ConflictError, Record, ReplacedError

_SECONDS = float(os.environ.get("TEST_ETCD_SECONDS", "8"))
A, B = Record("user", b"a", b"1"), Record("user", b"b", b"2")


@pytest.fixture(scope="module")
def cluster() -> Iterator[EtcdCluster]:
    """Three members that the tests of this file stop and kill."""
    with memory_folder() as folder, EtcdCluster(folder) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _healed(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "cluster" in request.fixturenames:
        request.getfixturevalue("cluster").heal()


def open_on(
    endpoints: Sequence[str], prefix: str, *, follow: bool = False, writer: str = "a/1"
) -> EtcdBackend:
    return EtcdBackend(EtcdClient(endpoints), prefix, follow=follow, writer=writer)


def new_prefix(endpoints: Sequence[str]) -> str:
    prefix = f"/leeway-{uuid.uuid4().hex[:12]}"
    backend = open_on(endpoints, prefix)
    assert backend.initialise([])
    backend.close()
    return prefix


def used(backend: EtcdBackend) -> int:
    revision, _ = backend.load()
    backend.applied(revision)
    return revision


def stored(endpoints: Sequence[str], prefix: str) -> set[Record]:
    backend = open_on(endpoints, prefix)
    try:
        return set(backend.load()[1])
    finally:
        backend.close()


def test_a_stopped_leader_that_continues_writes_nothing_that_was_fenced(
    cluster: EtcdCluster,
) -> None:
    """The late arrival of etcd-store.md: a request that its leader keeps while it is stopped."""
    prefix = new_prefix(cluster.endpoints)
    backend = open_on(cluster.endpoints, prefix)
    revision = used(backend)
    leader = cluster.leader()
    leader.pause()
    outcome = ""
    try:
        backend.commit(revision, [A])
        outcome = "committed"
    except (ConflictError, StoreUnavailableError):
        outcome = "refused"
    except OutcomeUnknownError:
        outcome = "unknown"
    leader.resume()
    cluster.heal()
    backend.close()
    # A later commit, so that whatever was on its way has arrived or never will.
    last = open_on(cluster.endpoints, prefix)
    last.commit(last.load()[0], [B])
    last.close()
    found = stored(cluster.endpoints, prefix)
    assert B in found
    if outcome != "unknown":
        assert (A in found) == (outcome == "committed")


class Repeating(EtcdClient):
    """A client behind a proxy that repeats: of some transactions only the second answer is seen."""

    def __init__(self, endpoints: Sequence[str], tries: random.Random) -> None:
        super().__init__(endpoints)
        self._tries = tries
        self.repeated = 0

    def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout: float = 5.0,
        endpoint: str | None = None,
    ) -> TxnAnswer:
        if self._tries.random() < 0.1:
            self.repeated += 1
            with suppress(Exception):
                super().txn(compares, success, failure, timeout=timeout, endpoint=endpoint)
        return super().txn(compares, success, failure, timeout=timeout, endpoint=endpoint)


@pytest.mark.bad_input(66)
def test_three_writers_against_stopped_members_lose_and_repeat_nothing(
    cluster: EtcdCluster,
) -> None:
    """Every tenth transaction arrives twice, and a member stops all the time."""
    if not is_sound(version_of(need_program("etcd"))):
        pytest.skip(f"etcd {cluster.version} has faults of its own when its members are stopped")
    prefix = new_prefix(cluster.endpoints)
    tries = random.Random(15)
    acknowledged, refused, unknown = set[bytes](), set[bytes](), set[bytes]()
    conflicts = [0]
    failures: list[BaseException] = []
    is_over = threading.Event()

    def write(name: str) -> None:
        client = Repeating(cluster.endpoints, random.Random(name))
        backend = EtcdBackend(client, prefix, follow=True, writer=f"{name}/1")
        try:
            used(backend)
            number = 0
            while not is_over.is_set():
                number += 1
                record = Record("user", f"{name}-{number}".encode(), b"")
                try:
                    found = backend.changes(backend.revision) or backend.load()
                    backend.applied(found[0])
                    revision = backend.commit(found[0], [record])
                    backend.applied(revision)
                    acknowledged.add(record.id)
                except ConflictError:
                    conflicts[0] += 1
                    refused.add(record.id)
                except OutcomeUnknownError:
                    unknown.add(record.id)
                except StoreUnavailableError:
                    refused.add(record.id)
            assert client.repeated
        except BaseException as error:
            failures.append(error)
        finally:
            backend.close()

    writers = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for writer in writers:
        writer.start()
    over = boottime() + _SECONDS
    while boottime() < over and not failures:
        member = cluster.leader() if tries.random() < 0.7 else tries.choice(cluster.members)
        member.pause()
        is_over.wait(0.5 + tries.random())
        member.resume()
        is_over.wait(0.5)
    is_over.set()
    for writer in writers:
        writer.join()
    cluster.heal()
    assert not failures
    found = {record.id for record in stored(cluster.endpoints, prefix)}
    assert acknowledged <= found <= acknowledged | unknown
    assert not refused & found
    assert len(acknowledged) > 50


@pytest.mark.bad_input(68)
@pytest.mark.parametrize("commits", [0, 3, 5], ids=["fewer", "as-many", "more"])
def test_the_data_of_a_member_put_back(tmp_path: Path, commits: int) -> None:
    """History 4 of etcd-store.md: the same revisions, and other commits."""
    with (
        memory_folder() as folder,
        memory_folder() as copies,
        EtcdCluster(folder, size=1) as etcd,
        TCPProxy(etcd.ports) as proxy,
    ):
        prefix = new_prefix(etcd.endpoints)
        server = open_on(proxy.endpoints(), prefix, follow=True)
        other = open_on(etcd.endpoints, prefix, writer="b/2")
        try:
            used(server)
            etcd.copy_data(copies)
            revision = used(other)
            for number in range(3):
                revision = other.commit(revision, [Record("revocation", b"%d" % number, b"")])
            wait_until(lambda: server._following.follower.commit.revision == revision)  # type: ignore[union-attr]
            server.applied(revision)
            position = server.position()
            proxy.cut()
            etcd.swap_data(copies)
            third = open_on(etcd.endpoints, prefix, writer="c/3")
            again = used(third)
            for number in range(commits):
                again = third.commit(again, [Record("user", b"%d" % number, b"")])
            assert (again == revision) == (commits == 3)
            # Whatever it has not noticed yet is no proof, and its commit is a conflict.
            now = boottime()
            with suppress(StoreUnavailableError), pytest.raises(ConflictError):
                server.commit(revision, [A])
            proxy.heal()
            wait_until(lambda: server._following.follower is None)
            wait_until(lambda: server._following.undiagnosed() is None)
            assert server.proven(revision) < now
            with pytest.raises(ReplacedError):
                server.changes(revision, wait=False)
            fresh, records = server.load()
            server.applied(fresh)
            assert (fresh, len(records)) == (again, commits)
            assert server.lost_history(boottime())
            assert server.reaches(server.position())
            assert position != server.position()
            # The digest holds for everybody.
            last = server.commit(fresh, [B])
            assert third.changes(again) is None
            assert third.load()[0] == last
            third.close()
        finally:
            server.close()
            other.close()


@pytest.mark.bad_input(67)
def test_4000_records_in_fragments_and_compaction(etcd: EtcdCluster) -> None:
    prefix = new_prefix(etcd.endpoints)
    server = open_on(etcd.endpoints, prefix, follow=True)
    other = open_on(etcd.endpoints, prefix, writer="b/2")
    try:
        used(server)
        revision = used(other)
        known: dict[tuple[str, bytes], Record] = {}
        for step in range(4):
            many = [
                Record("permission", b"%05d" % number, None if step % 2 else b"\1" * 300)
                for number in range(4000)
            ]
            before = server.revision
            revision = other.commit(revision, many)
            etcd.compact()
            found = server.changes(before)
            if found is None:
                known, found = {}, server.load()
            server.applied(found[0])
            known |= {(record.kind, record.id): record for record in found[1]}
            assert found[0] == revision
            live = {record for record in known.values() if record.value is not None}
            assert live == stored(etcd.endpoints, prefix)
    finally:
        server.close()
        other.close()


@pytest.mark.bad_input(68)
def test_what_etcdctl_does_under_the_prefix(etcd: EtcdCluster) -> None:
    prefix = new_prefix(etcd.endpoints)
    server = open_on(etcd.endpoints, prefix, follow=True)
    try:
        used(server)
        server.applied(server.commit(server.revision, [A, B]))
        etcd.etcdctl("put", f"{prefix}/v1/oops", "by hand")
        wait_until(lambda: server._following.follower is None)
        used(server)
        assert server.foreign_keys == (f"{prefix}/v1/oops",)
        etcd.etcdctl("del", f"{prefix}/v1/user/a")
        wait_until(lambda: server._following.follower is None)
        with pytest.raises(StoreError, match=r"damaged.*`leeway store repair`"):
            server.load()
        command = open_on(etcd.endpoints, prefix, writer="admin/1")
        command.repair(command.repair_plan())
        command.close()

        def is_loaded() -> bool:
            try:
                return used(server) > 0
            except (StoreError, StoreLockedError):
                return False

        wait_until(is_loaded)
        assert stored(etcd.endpoints, prefix) == {B}
        etcd.etcdctl("del", "--prefix", f"{prefix}/")
        wait_until(lambda: "start this process again" in server.problem())
        with pytest.raises(StoreUnavailableError):
            server.load()
    finally:
        server.close()


def test_eight_make_a_store_at_once(etcd: EtcdCluster) -> None:
    prefix = f"/leeway-{uuid.uuid4().hex[:12]}"
    made: list[bool] = []
    together = threading.Barrier(8)

    def make(number: int) -> None:
        backend = open_on(etcd.endpoints, prefix, writer=f"init/{number}")
        together.wait()
        made.append(backend.initialise([Record("user", b"%d" % number, b"")]))
        backend.close()

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 7 + [True]
    assert len(stored(etcd.endpoints, prefix)) == 1


def test_the_version_of_etcd_is_known(etcd: EtcdCluster) -> None:
    """What stopped and killed members show is etcd's fault before these versions."""
    program = find_program("etcd")
    assert program is not None
    assert version_of(program) >= (3, 5, 0)
    assert etcd.version == ".".join(map(str, version_of(program)))
