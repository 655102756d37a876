"""The etcd that other tests use does what they rely on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.etcd_cluster import EtcdCluster, memory_folder
from tests.etcd_member import is_sound


@pytest.fixture(scope="module")
def fast() -> Iterator[EtcdCluster]:
    with memory_folder() as folder, EtcdCluster(folder, fast=True) as cluster:
        yield cluster


def test_the_shared_cluster_is_there(etcd: EtcdCluster, etcd_prefix: str) -> None:
    etcd.etcdctl("put", f"{etcd_prefix}/a", "1")
    assert etcd.keys(etcd_prefix) == {f"{etcd_prefix}/a".encode(): b"1"}


@pytest.mark.parametrize("how", ["kill", "pause", "stop"])
def test_another_leader_after_the_leader_is_gone(fast: EtcdCluster, how: str) -> None:
    leader = fast.leader()
    getattr(leader, how)()
    assert fast.leader() is not leader
    fast.etcdctl("put", "/after", how, endpoints=[fast.leader().endpoint])
    fast.heal()
    assert fast.keys("/after") == {b"/after": how.encode()}


def test_compaction(fast: EtcdCluster) -> None:
    fast.etcdctl("put", "/compacted", "1")
    first = fast.revision()
    fast.etcdctl("put", "/compacted", "2")
    fast.compact()
    with pytest.raises(OSError, match="compacted"):
        fast.etcdctl("get", "/compacted", "--rev", first)


def test_data_put_back_to_an_earlier_copy(fast: EtcdCluster) -> None:
    fast.etcdctl("put", "/restored", "before")
    revision = fast.revision()
    with memory_folder() as copy:
        fast.copy_data(copy)
        fast.etcdctl("put", "/restored", "after")
        fast.swap_data(copy)
    assert fast.keys("/restored") == {b"/restored": b"before"}
    assert fast.revision() == revision


def test_auth_turned_on_while_it_runs_and_a_password_changed(fast: EtcdCluster) -> None:
    fast.enable_auth()
    assert fast.keys("/nothing") == {}
    fast.change_password("etcd-another-Jq83kLs")
    fast.disable_auth()
    assert fast.keys("/nothing") == {}


def test_certificates_and_auth(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path / "etcd", size=1, tls=True, auth=True) as cluster:
        assert cluster.keys() == {}
        assert cluster.files is not None
        assert cluster.leader() is cluster.members[0]
        assert cluster.endpoints[0].startswith("https://")


def test_flags(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path / "etcd", size=1, flags={"quota-backend-bytes": 1}) as cluster:
        with pytest.raises(OSError, match="database space exceeded"):
            cluster.etcdctl("put", "/b", "1")
        assert "NOSPACE" in cluster.etcdctl("alarm", "list")


@pytest.mark.parametrize(
    ("version", "sound"),
    [
        ((3, 5, 1), False),
        ((3, 5, 27), False),
        ((3, 5, 28), True),
        ((3, 6, 8), False),
        ((3, 6, 9), True),
        ((3, 7, 0), True),
    ],
)
def test_versions_with_known_faults(version: tuple[int, int, int], sound: bool) -> None:
    assert is_sound(version) == sound


def test_a_leader_that_is_isolated_still_answers_what_needs_no_majority(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path / "etcd", fast=True, divisible=True) as cluster:
        leader = cluster.leader()
        others = [m.endpoint for m in cluster.members if m is not leader]
        cluster.etcdctl("put", "/a", "1")
        cluster.isolate(leader)
        cluster.etcdctl("put", "/a", "2", endpoints=others)
        old = cluster.etcdctl("get", "/a", "--consistency=s", endpoints=[leader.endpoint])
        assert old.split() == ["/a", "1"]
        cluster.heal()
        assert cluster.keys("/a") == {b"/a": b"2"}
