"""Two replicas on a real etcd, and what is done to it: no old answer, and both recover."""

import base64
import os
import signal
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.etcd_cluster import EtcdCluster, memory_folder
from tests.etcd_replicas import MAX_STALENESS, Replica, Replicas
from tests.support import jti_of, wait_until
from tests.tcp_proxy import DOWN, UP

SECONDS = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[EtcdCluster]:
    with memory_folder() as folder, EtcdCluster(folder, fast=True) as running:
        yield running


@pytest.fixture(scope="module")
def shared(cluster: EtcdCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with Replicas(tmp_path_factory.mktemp("replicas"), cluster) as running:
        yield running


@pytest.fixture
def replicas(shared: Replicas, cluster: EtcdCluster) -> Iterator[Replicas]:
    """Return two replicas that work, and wait until they do so again."""
    yield shared
    cluster.heal()
    for replica in shared:
        replica.proxy.retarget(cluster.ports)
        replica.proxy.heal()
        until_all(replica, 201)


def review(replica: Replica, token: str) -> tuple[int, bool]:
    """Return the status of a review, and whether the token was accepted."""
    answer = replica.server.post_review(token)
    accepted = answer.status == 201 and bool(answer.json["status"].get("authenticated"))
    return answer.status, accepted


def until_all(replica: Replica, status: int) -> None:
    """Wait until several answers in a row, of either worker, have a status."""
    token = replica.server.sign()
    wait_until(lambda: all(review(replica, token)[0] == status for _ in range(6)), SECONDS)


def livez(replica: Replica) -> int:
    return replica.server.request("GET", "/livez", context=replica.server.context("")).status


def revoke(replica: Replica, token: str) -> None:
    replica.leeway("revoke", "jti", jti_of(token))


@pytest.mark.bad_input(64)
@pytest.mark.parametrize("directions", [(), (UP,), (DOWN,)], ids=["both", "up", "down"])
def test_a_replica_cut_off_stops_answering_and_comes_back(
    replicas: Replicas, directions: tuple[str, ...]
) -> None:
    a, b = replicas
    token = a.server.sign()
    b.proxy.cut(*directions)
    revoke(a, token)
    # From then on nobody may accept it; until then what is answered may be older.
    time.sleep(MAX_STALENESS)
    for _ in range(10):
        assert review(b, token) == (503, False)
        assert review(a, token) == (201, False)
    answer = b.server.post_review(token)
    assert answer.headers["retry-after"]
    status, text = b.readyz()
    assert (status, livez(b)) == (503, 200)
    assert "[-]store failed" in text
    assert str(b.proxy.ports[0]) in text
    b.proxy.heal()
    until_all(b, 201)
    assert review(b, token) == (201, False)
    assert b.readyz()[0] == 200


@pytest.mark.bad_input(64)
def test_without_a_majority_nobody_answers(replicas: Replicas, cluster: EtcdCluster) -> None:
    for member in cluster.members[:2]:
        member.pause()
    for replica in replicas:
        until_all(replica, 503)
        assert (replica.readyz()[0], livez(replica)) == (503, 200)
    cluster.heal()
    for replica in replicas:
        until_all(replica, 201)


@pytest.mark.bad_input(65)
@pytest.mark.parametrize("with_member", [False, True], ids=["workers", "workers and the leader"])
def test_what_is_asked_after_a_stop_is_not_answered_from_before_it(
    replicas: Replicas, cluster: EtcdCluster, with_member: bool
) -> None:
    a, b = replicas
    token = a.server.sign()
    assert review(b, token) == (201, True)
    workers = b.server.both_workers()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    leader = cluster.leader()
    if with_member:
        leader.pause()
        cluster_has_leader(cluster)
    revoke(a, token)
    time.sleep(MAX_STALENESS + 0.5)
    leader.resume()
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    answers = [review(b, token) for _ in range(100)]
    assert (201, True) not in answers
    until_all(b, 201)


def cluster_has_leader(cluster: EtcdCluster) -> None:
    assert cluster.leader().is_running


@pytest.mark.bad_input(66)
def test_changes_while_leaders_and_a_replica_are_killed(
    replicas: Replicas, cluster: EtcdCluster
) -> None:
    a, b = replicas
    acknowledged = []
    for number in range(60):
        name = f"killed-{number}"
        if number % 20 == 10:
            cluster.leader().kill()
        if number == 35:
            for pid in (b.master, *b.workers()):
                os.kill(pid, signal.SIGKILL)
            b.server.process.wait()
        body = {"name": name, "options": {"no_password": True}}
        answer = a.server.post("/v3/auth/user/add", body, a.server.context("root"))
        if answer.status == 200:
            acknowledged.append(name)
        if number % 20 == 15:
            cluster.heal()
    b.start()
    for replica in replicas:
        until_all(replica, 201)
        listed = replica.server.post("/v3/auth/user/list", {}, a.server.context("root"))
        assert set(acknowledged) <= set(listed.json["users"])
    assert len(acknowledged) > 20


@pytest.mark.bad_input(68)
def test_a_key_that_somebody_corrupts(replicas: Replicas, cluster: EtcdCluster) -> None:
    stored = cluster.keys()
    key = next(key for key in stored if b"/v1/user/" in key)
    put(cluster, key, b"nonsense")
    for replica in replicas:
        until_all(replica, 503)
        status, text = replica.readyz()
        assert (status, livez(replica)) == (503, 200)
        assert "[-]store failed" in text
    put(cluster, key, stored[key])
    for replica in replicas:
        until_all(replica, 201)


def put(cluster: EtcdCluster, key: bytes, value: bytes) -> None:
    cluster.leader().post("/v3/kv/put", key=b64(key), value=b64(value))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@pytest.mark.bad_input(68)
def test_another_cluster_at_the_same_address(replicas: Replicas) -> None:
    a, b = replicas
    token = a.server.sign()
    with memory_folder() as folder, EtcdCluster(folder, size=3, fast=True) as other:
        b.proxy.retarget(other.ports)
        b.proxy.reset()
        until_all(b, 503)
        # There is no store at all, which must not count as auth disabled.
        assert all(review(b, token) == (503, False) for _ in range(10))
        status, text = b.readyz()
        assert (status, livez(b)) == (503, 200)
        assert "[-]store failed" in text


@pytest.mark.bad_input(69)
def test_no_space_stops_changes_and_not_answers(replicas: Replicas, cluster: EtcdCluster) -> None:
    a, _ = replicas
    cluster.leader().post("/v3/maintenance/alarm", action="ACTIVATE", memberID=0, alarm="NOSPACE")
    body = {"name": "late", "options": {"no_password": True}}
    refused = a.server.post("/v3/auth/user/add", body, a.server.context("root"))
    assert refused.status == 503
    assert "NOSPACE" in refused.json["message"]
    token = a.server.sign()
    assert all(review(replica, token) == (201, True) for replica in replicas for _ in range(10))
    cluster.etcdctl("alarm", "disarm")
    wait_until(
        lambda: a.server.post("/v3/auth/user/add", body, a.server.context("root")).status == 200,
        SECONDS,
    )


@pytest.mark.bad_input(69)
def test_the_endpoints_move(replicas: Replicas, cluster: EtcdCluster) -> None:
    _, b = replicas
    b.proxy.retarget([cluster.ports[2], cluster.ports[0], cluster.ports[1]])
    b.proxy.reset()
    until_all(b, 201)


@pytest.mark.bad_input(69)
def test_auth_of_etcd_turned_on_while_it_runs(replicas: Replicas, cluster: EtcdCluster) -> None:
    cluster.enable_auth()
    try:
        for replica in replicas:
            until_all(replica, 503)
            wait_until(partial(names_the_reason, replica), SECONDS)
    finally:
        cluster.disable_auth()
    for replica in replicas:
        until_all(replica, 201)


def names_the_reason(replica: Replica) -> bool:
    return "user name is empty" in replica.readyz()[1]
