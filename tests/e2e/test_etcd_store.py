"""Two servers on one store in etcd, as users run them: what changes at one counts at the other."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.etcd_cluster import EtcdCluster
from tests.support import wait_until
from tests.tcp_proxy import TCPProxy

from .etcd_replicas import (
    copy_directory,
    leeway,
    libraries_of,
    make_directory,
    running,
    section_of,
)
from .harness import Answer, RunningServer, free_port

ROLE_GROUP = "leeway:role:team"
USER = "system:serviceaccount:demo:default"


def section(etcd: EtcdCluster, prefix: str) -> str:
    return section_of(etcd.endpoints, prefix)


@pytest.fixture(scope="module")
def replicas(
    etcd: EtcdCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[RunningServer]]:
    """Run two servers with two workers each."""
    folder = tmp_path_factory.mktemp("replicas")
    text = section(etcd, f"/{folder.name}")
    first = make_directory(folder / "a", text)
    with running(first, copy_directory(first, folder / "b", text)) as servers:
        for server in servers:
            server.both_workers()
        yield servers


def status_of(server: RunningServer, token: str) -> dict[str, object]:
    answer = server.post_review(token)
    assert answer.status == 201, answer
    found: dict[str, object] = answer.json["status"]
    return found


def groups_of(server: RunningServer, token: str) -> list[str]:
    user = status_of(server, token)["user"]
    assert isinstance(user, dict)
    groups: list[str] = user["groups"]
    return groups


def root(server: RunningServer, call: str, **values: object) -> Answer:
    return server.post(f"/v3/auth/{call}", values, server.context("root"))


def test_a_role_that_one_grants_counts_at_the_other(replicas: list[RunningServer]) -> None:
    first, second = replicas
    token = first.sign()
    for name in ("role/add", "user/add"):
        value = (
            {"name": "team"}
            if name == "role/add"
            else {"name": USER, "options": {"no_password": True}}
        )
        assert root(first, name, **value).status == 200
    assert ROLE_GROUP not in groups_of(second, token)
    assert root(second, "user/grant", user=USER, role="team").status == 200
    # The next request, whichever worker gets it.
    for _ in range(10):
        assert ROLE_GROUP in groups_of(second, token)
    wait_until(lambda: ROLE_GROUP in groups_of(first, token))
    assert root(first, "user/revoke", name=USER, role="team").status == 200
    wait_until(lambda: ROLE_GROUP not in groups_of(second, token))


def test_a_revocation_on_one_machine_counts_on_the_other(replicas: list[RunningServer]) -> None:
    first, second = replicas
    token = first.sign("revoked")
    assert status_of(second, token)["authenticated"] is True
    leeway(first.data_dir, "revoke", "serviceaccount", "demo/revoked").assert_done()
    for server in replicas:
        is_refused = partial(lambda at: not status_of(at, token).get("authenticated"), server)
        wait_until(is_refused)
    assert "revoked" in str(status_of(second, token)["error"])


def test_changes_at_both_at_once_are_all_made(replicas: list[RunningServer]) -> None:
    names = [f"both-{number}" for number in range(10)]
    for number, name in enumerate(names):
        assert root(replicas[number % 2], "role/add", name=name).status == 200
    for server in replicas:
        found = root(server, "role/list").json["roles"]
        assert set(names) <= set(found)


def test_workers_have_grpc_and_their_master_has_not(replicas: list[RunningServer]) -> None:
    for server in replicas:
        assert not [name for name in libraries_of(server.process.pid) if "grpc" in name]
        for worker in server.both_workers():
            assert [name for name in libraries_of(worker) if "grpc" in name]


def test_metrics_of_the_store(replicas: list[RunningServer]) -> None:
    def metrics() -> dict[str, float]:
        text = replicas[0].request("GET", "/metrics").body.decode()
        rows = [line.rpartition(" ") for line in text.splitlines() if line[:1] != "#"]
        return {name: float(value) for name, _, value in rows}

    wait_until(lambda: metrics().get("leeway_store_revision", 0) > 0)
    found = metrics()
    assert 0 <= found["leeway_store_age_seconds"] < 3
    assert found['leeway_store_reloads_total{reason="start"}'] == 2
    assert found['leeway_store_commits_total{result="unknown"}'] == 0


def test_the_status_of_the_store(replicas: list[RunningServer], etcd: EtcdCluster) -> None:
    text = leeway(replicas[0].data_dir, "store", "status").assert_done()
    assert "Kind: etcd\n" in text
    for endpoint in etcd.endpoints:
        assert endpoint in text
    found = json.loads(leeway(replicas[1].data_dir, "store", "status", "-o", "json").assert_done())
    assert found["kind"] == "etcd"
    assert found["records"]["users"] >= 2
    assert 0 <= found["ageSeconds"] < 3
    assert [entry["healthy"] for entry in found["endpoints"]] == [True] * 3
    assert sum(entry["leader"] for entry in found["endpoints"]) == 1


@pytest.mark.parametrize("fault", ["refuse", "cut"])
def test_a_replica_that_starts_while_etcd_is_away(
    etcd: EtcdCluster, tmp_path: Path, fault: str
) -> None:
    data_dir = make_directory(tmp_path / "a", section(etcd, f"/{tmp_path.name}"))
    with TCPProxy(etcd.ports) as proxy:
        text = section_of(proxy.endpoints(), f"/{tmp_path.name}")
        behind = copy_directory(data_dir, tmp_path / "b", text)
        getattr(proxy, fault)()
        with running(behind, readyz=503) as (server,):
            context = server.context("")
            assert server.request("GET", "/livez", context=context).status == 200
            why = server.request("GET", "/readyz?verbose", context=context).body.decode()
            assert "[-]store" in why
            for endpoint in proxy.endpoints():
                assert endpoint.removeprefix("http://") in why
            review = server.post_review(server.sign())
            assert (review.status, review.headers["retry-after"]) == (503, "1")
            proxy.heal()

            def is_ready() -> bool:
                answers = [server.request("GET", "/readyz", context=context) for _ in range(10)]
                return all(answer.status == 200 for answer in answers)  # of both workers

            wait_until(is_ready)
            assert status_of(server, server.sign())["authenticated"] is True


def test_a_prefix_without_a_store_is_never_answered_from(etcd: EtcdCluster, tmp_path: Path) -> None:
    data_dir = make_directory(tmp_path / "a", section(etcd, f"/{tmp_path.name}"))
    text = section(etcd, f"/{tmp_path.name}-typo")
    other = copy_directory(data_dir, tmp_path / "b", text)
    with running(other, readyz=503) as (server,):
        assert server.post_review(server.sign()).status == 503
        why = server.request("GET", "/readyz?verbose", context=server.context(""))
        assert b"leeway init" in why.body
        # Any certificate may do anything where auth is disabled, as in an empty store.
        answer = server.post("/v3/auth/role/add", {"name": "r"}, server.context("kube-apiserver"))
        assert answer.status == 503
        leeway(other, "init").assert_done()
        wait_until(lambda: server.post_review(server.sign()).status == 201)


@pytest.mark.parametrize(
    "words",
    [
        ("user", "list"),
        ("role", "add", "r"),
        ("auth", "status"),
        ("revoke", "user", "u"),
        ("can-i", "read", "/a", "--user", "u"),
        ("store", "export"),
        ("token", "review", "x"),
    ],
    ids=lambda words: "-".join(words[:2]),
)
def test_commands_that_cannot_reach_etcd(words: tuple[str, ...], unreachable: Path) -> None:
    endpoint = (unreachable / "endpoint").read_text()
    leeway(unreachable, *words).assert_failed(3, endpoint)


@pytest.fixture(scope="module")
def unreachable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data directory whose etcd nobody runs."""
    data_dir = tmp_path_factory.mktemp("unreachable") / "data"
    leeway(data_dir, "init").assert_done()
    address = f"127.0.0.1:{free_port()}"
    with (data_dir / "leeway.yaml").open("a") as file:
        file.write(f"store: {{etcd: {{endpoints: ['http://{address}']}}}}\n")
    (data_dir / "auth.db").unlink()
    (data_dir / "endpoint").write_text(address)
    return data_dir


def test_the_status_of_a_store_that_cannot_be_reached(unreachable: Path) -> None:
    endpoint = (unreachable / "endpoint").read_text()
    done = leeway(unreachable, "store", "status")
    assert done.code == 3
    assert endpoint in done.err
    assert endpoint in done.out
    assert "Kind: etcd" in done.out


def test_commands_on_a_prefix_without_a_store(etcd: EtcdCluster, tmp_path: Path) -> None:
    data_dir = make_directory(tmp_path / "a", section(etcd, f"/{tmp_path.name}"))
    other = copy_directory(data_dir, tmp_path / "b", section(etcd, f"/{tmp_path.name}-other"))
    for words in (("user", "list"), ("role", "add", "r")):
        leeway(other, *words).assert_failed(3, "leeway init")
    assert leeway(other, "store", "status").code == 3


def test_files_of_the_store_that_are_missing_stop_the_start(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    leeway(data_dir, "init").assert_done()
    with (data_dir / "leeway.yaml").open("a") as file:
        file.write("store: {etcd: {endpoints: ['https://127.0.0.1:1'], caFile: no-ca.crt}}\n")
    leeway(data_dir, "serve").assert_failed(3, "no-ca.crt")


def test_with_strict_consistency_the_next_request_anywhere_has_the_change(
    etcd: EtcdCluster, tmp_path: Path
) -> None:
    text = section_of(etcd.endpoints, f"/{tmp_path.name}", consistency="strict")
    first = make_directory(tmp_path / "a", text)
    with running(first, copy_directory(first, tmp_path / "b", text)) as (one, other):
        token = one.sign()
        assert root(one, "role/add", name="team").status == 200
        options = {"no_password": True}
        assert root(one, "user/add", name=USER, options=options).status == 200
        for _ in range(10):
            assert root(one, "user/grant", user=USER, role="team").status == 200
            assert ROLE_GROUP in groups_of(other, token)
            assert root(other, "user/revoke", name=USER, role="team").status == 200
            assert ROLE_GROUP not in groups_of(one, token)
