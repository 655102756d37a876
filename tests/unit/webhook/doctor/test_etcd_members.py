"""What doctor finds in an etcd cluster: one finding each, with the command that fixes it."""

from typing import Any

import pytest

from webhook.doctor.clock import Offset
from webhook.doctor.etcd_members import (
    MANY_REVISIONS,
    EndpointFacts,
    WebFacts,
    check_alarms,
    check_clock_source,
    check_clocks,
    check_compaction,
    check_endpoints,
    check_proxies,
    check_rights,
    check_space,
    check_staleness,
    check_versions,
)
from webhook.doctor.findings import Status, Verdict
from webhook.etcd.values import Alarm, GrantedRange, Header, Member, MemberStatus

MIB = 1024 * 1024
NAMES = ("https://a:2379", "https://b:2379", "https://c:2379")


def status(place: int = 0, **changes: Any) -> MemberStatus:
    values: dict[str, Any] = {
        "header": Header(7, changes.pop("member", place + 1), 100, 2),
        "endpoint": NAMES[place],
        "version": "3.6.13",
        "db_size": MIB,
        "db_size_in_use": MIB,
        "db_quota": 2048 * MIB,
        "leader": 1,
        "raft_index": 9,
        "raft_applied_index": 9,
        "raft_term": 2,
        "errors": (),
        "is_learner": False,
        "storage_version": "3.6.0",
    }
    return MemberStatus(**(values | changes))


def answers(*found: MemberStatus) -> list[EndpointFacts]:
    return [EndpointFacts(entry.endpoint, entry) for entry in found]


MEMBERS = [Member(n + 1, "abc"[n], (), (NAMES[n],), is_learner=False) for n in range(3)]
THREE = answers(status(0), status(1), status(2))
SILENT = EndpointFacts(NAMES[2], None, "etcd at https://c:2379 cannot be reached: refused")


def assert_says(verdict: Verdict, expected: Status, finding: str, fix: str) -> None:
    assert verdict.status is expected
    assert finding in verdict.finding
    assert fix in verdict.fix
    assert bool(verdict.fix) is (expected is not Status.OK)
    assert "\n" not in verdict.finding + verdict.fix


@pytest.mark.parametrize(
    ("endpoints", "members", "expected", "finding", "fix"),
    [
        (THREE, MEMBERS, Status.OK, "3 members of one cluster, with a leader", ""),
        (answers(status()), MEMBERS[:1], Status.OK, "1 member of one cluster", ""),
        # Without the right to list members.
        (THREE, [], Status.OK, "3 members of one cluster", ""),
        (
            [SILENT], [], Status.FAILURE, "no endpoint answers: etcd at https://c:2379 cannot be",
            "etcdctl endpoint health --endpoints https://c:2379",
        ),
        (
            [*THREE[:2], SILENT], MEMBERS, Status.WARNING, "1 endpoint silent: etcd at https://c",
            "etcdctl endpoint health --endpoints https://a:2379,https://b:2379,https://c:2379",
        ),
        (
            answers(status(0), status(1, header=Header(8, 2, 1, 1))), MEMBERS, Status.FAILURE,
            "2 different clusters: https://a:2379 (cluster 7), https://b:2379 (cluster 8)",
            "store.etcd.endpoints",
        ),
        (
            answers(status(0), status(1, leader=0), status(2)), MEMBERS, Status.FAILURE,
            "https://b:2379 know of no leader", "etcdctl endpoint health",
        ),
        (
            answers(status(0), status(1, member=1), status(2)), MEMBERS, Status.WARNING,
            "https://a:2379 and https://b:2379 lead to the same member", "each member once",
        ),
        (
            answers(status(0), status(1), status(2, is_learner=True)), MEMBERS, Status.WARNING,
            "https://c:2379 is a learner", "etcdctl member promote 3",
        ),
        (
            answers(status(0)), MEMBERS, Status.WARNING, "1 of 3 members are named",
            "add https://b:2379, https://c:2379 to store.etcd.endpoints",
        ),
    ],
    ids=[
        "three", "one", "unknown-members", "none-answers", "one-silent", "two-clusters",
        "no-leader", "same-member", "learner", "one-named",
    ],
)  # fmt: skip
def test_endpoints(
    endpoints: list[EndpointFacts],
    members: list[Member],
    expected: Status,
    finding: str,
    fix: str,
) -> None:
    assert_says(check_endpoints(endpoints, members), expected, finding, fix)


@pytest.mark.parametrize(
    ("version", "expected", "finding"),
    [
        ("3.6.13", Status.OK, "3.6.13"),
        ("3.6.9", Status.OK, "3.6.9"),
        ("3.5.28", Status.OK, "3.5.28"),
        ("3.7.0", Status.OK, "3.7.0"),
        ("3.7.0-rc.1", Status.OK, "3.7.0-rc.1"),
        ("4.0.0", Status.OK, "4.0.0"),
        ("3.6.8", Status.WARNING, "old data after it was paused"),
        ("3.6.0-rc.4", Status.WARNING, "old data after it was paused"),
        ("3.5.27", Status.WARNING, "etcd 3.5.27 (https://b:2379) may answer"),
        ("3.5.3", Status.WARNING, "#20418"),
        ("3.5.2", Status.FAILURE, "can lose data"),
        ("3.5.0", Status.FAILURE, "#13766"),
        ("3.4.40", Status.FAILURE, "etcd 3.4.40 (https://b:2379) gets no more fixes"),
        ("2.3.8", Status.FAILURE, "gets no more fixes"),
        ("latest", Status.WARNING, "says no version"),
        ("", Status.WARNING, "says no version"),
    ],
)
def test_versions(version: str, expected: Status, finding: str) -> None:
    verdict = check_versions([status(0), status(1, version=version)])
    assert_says(verdict, expected, finding, "" if expected is Status.OK else "3.5.28, 3.6.9")


@pytest.mark.parametrize(
    ("changes", "quotas", "expected", "finding", "fix"),
    [
        ({}, {}, Status.OK, "1 MiB of 2048 MiB", ""),
        ({"db_quota": 0}, {NAMES[0]: 4 * MIB}, Status.OK, "1 MiB of 4 MiB", ""),
        ({"db_quota": 0}, {}, Status.OK, "1 MiB of 2048 MiB (etcd default)", ""),
        (
            {"db_size": 1700 * MIB, "db_size_in_use": 1600 * MIB}, {}, Status.WARNING,
            "the database of https://a:2379 has 1700 MiB of 2048 MiB", "--quota-backend-bytes",
        ),
        (
            {"db_size": 1700 * MIB, "db_size_in_use": 100 * MIB}, {}, Status.WARNING,
            "1600 MiB of it are free", "etcdctl defrag --endpoints https://a:2379",
        ),
    ],
)  # fmt: skip
def test_space(
    changes: dict[str, int], quotas: dict[str, int], expected: Status, finding: str, fix: str
) -> None:
    assert_says(check_space([status(0, **changes)], quotas), expected, finding, fix)


@pytest.mark.parametrize(
    ("alarms", "expected", "finding", "fix"),
    [
        ([], Status.OK, "none", ""),
        ([Alarm(10, "NOSPACE")], Status.FAILURE, "not even revoked", "etcdctl alarm disarm"),
        ([Alarm(10, "CORRUPT")], Status.FAILURE, "member a differs", "etcdctl member remove a"),
        ([Alarm(1, "NOSPACE"), Alarm(10, "CORRUPT")], Status.FAILURE, "member a", "remove a"),
    ],
)
def test_alarms(alarms: list[Alarm], expected: Status, finding: str, fix: str) -> None:
    assert_says(check_alarms(alarms, "https://a:2379"), expected, finding, fix)


@pytest.mark.parametrize(
    ("revision", "is_kept", "expected"),
    [
        (10, False, Status.OK),
        (MANY_REVISIONS + 1, False, Status.OK),
        (MANY_REVISIONS + 1, True, Status.WARNING),
    ],
)
def test_history(revision: int, is_kept: bool, expected: Status) -> None:
    verdict = check_compaction(revision, is_kept)
    fix = "" if expected is Status.OK else "--auto-compaction-mode=periodic"
    assert_says(verdict, expected, "1,000,000", fix)


OWN = GrantedRange("READWRITE", b"/leeway/", b"/leeway0")


@pytest.mark.parametrize(
    ("roles", "expected", "finding", "fix"),
    [
        ({"leeway": [OWN]}, Status.OK, "user u, /leeway/ and nothing else", ""),
        (
            {
                "r": [GrantedRange("READ", b"/leeway/", b"/leeway0")],
                "w": [GrantedRange("WRITE", b"/leeway/", b"/leeway0")],
            },
            Status.OK, "nothing else", "",
        ),
        (
            {"r": [GrantedRange("READ", b"/leeway/", b"/leeway0")]}, Status.FAILURE,
            "may not WRITE all of /leeway/",
            "etcdctl role grant-permission r --prefix readwrite /leeway/",
        ),
        ({}, Status.FAILURE, "may not READ all", "grant-permission u --prefix"),
        (
            {"r": [GrantedRange("READWRITE", b"/leeway/v1/", b"/leeway/v10")]}, Status.FAILURE,
            "may not READ all of /leeway/", "grant-permission r",
        ),
        (
            {"r": [OWN, GrantedRange("READ", b"/other", b"")]}, Status.WARNING,
            "may READ outside of /leeway/ too, by role r: /other",
            "etcdctl role revoke-permission r /other",
        ),
        (
            {"r": [GrantedRange("READWRITE", b"/", b"0")]}, Status.WARNING,
            "may READWRITE outside of /leeway/ too, by role r: / to 0",
            "etcdctl role revoke-permission r / 0",
        ),
        (
            {"r": [GrantedRange("READWRITE", b"/leeway", b"\0")]}, Status.WARNING,
            "outside of /leeway/", "revoke-permission r /leeway",
        ),
        ({"root": []}, Status.WARNING, "has the role root", "etcdctl user revoke-role u root"),
    ],
    ids=["own", "two-roles", "read-only", "none", "less", "other-key", "more", "open", "root"],
)  # fmt: skip
def test_rights(
    roles: dict[str, list[GrantedRange]], expected: Status, finding: str, fix: str
) -> None:
    assert_says(check_rights("u", roles, "/leeway", is_enabled=True), expected, finding, fix)


def test_rights_without_auth() -> None:
    verdict = check_rights("u", {}, "/leeway", is_enabled=False)
    assert_says(verdict, Status.WARNING, "etcd's auth is disabled", "etcdctl auth enable")


@pytest.mark.parametrize(
    ("facts", "expected", "finding"),
    [
        ([WebFacts(NAMES[0], frozenset({"a"}))], Status.OK, "1 endpoint"),
        ([WebFacts(NAMES[0])], Status.OK, "1 endpoint"),
        ([WebFacts(NAMES[0], frozenset({"a", "b"}))], Status.FAILURE, "leads to 2 members in turn"),
        ([WebFacts(NAMES[0], proxy="etcd's grpc-proxy")], Status.FAILURE, "is etcd's grpc-proxy"),
    ],
)
def test_proxies(facts: list[WebFacts], expected: Status, finding: str) -> None:
    fix = "" if expected is Status.OK else "the members themselves"
    assert_says(check_proxies(facts), expected, finding, fix)


@pytest.mark.parametrize(
    ("ahead", "uncertainty", "head", "expected", "finding"),
    [
        (0.0, 0.5, None, Status.OK, "within 5s: 1 member"),
        (5.4, 0.5, None, Status.OK, "within 5s"),
        (-5.4, 0.5, ("b:7", -900.0), Status.OK, "within 5s"),
        (9.0, 0.5, None, Status.WARNING, "https://a:2379 is 9.0s ahead of this one (± 0.5s)"),
        (-9.0, 0.5, None, Status.WARNING, "https://a:2379 is 9.0s behind this one"),
        (0.0, 0.5, ("b:7", 6.0), Status.FAILURE, "of b:7, which changed the store last, is at"),
        (0.0, 0.5, ("b:7", 4.0), Status.OK, "within 5s"),
    ],
)
def test_clocks(
    ahead: float,
    uncertainty: float,
    head: tuple[str, float] | None,
    expected: Status,
    finding: str,
) -> None:
    facts = [WebFacts(NAMES[0], offset=Offset(ahead, uncertainty)), WebFacts(NAMES[1])]
    fix = "" if expected is Status.OK else "chronyc makestep"
    assert_says(check_clocks(facts, head), expected, finding, fix)


@pytest.mark.parametrize(
    ("seconds", "expected", "finding"),
    [
        (3.0, Status.OK, "maxStaleness 3s, consistency bounded"),
        (2.0, Status.OK, "maxStaleness 2s"),
        (1.0, Status.WARNING, "maxStaleness is 1s, and etcd needs up to 2s to elect a leader"),
        (0.5, Status.WARNING, "maxStaleness is 0.5s"),
    ],
)
def test_staleness(seconds: float, expected: Status, finding: str) -> None:
    fix = "" if expected is Status.OK else "set store.etcd.maxStaleness to 3s"
    assert_says(check_staleness(seconds, "bounded"), expected, finding, fix)


@pytest.mark.parametrize(
    ("name", "consistency", "expected"),
    [
        ("tsc", "bounded", Status.OK),
        ("kvm-clock", "strict", Status.OK),
        ("kvm-clock", "bounded", Status.WARNING),
        ("", "bounded", Status.OK),
    ],
)
def test_clock_source(name: str, consistency: str, expected: Status) -> None:
    verdict = check_clock_source(name, consistency)
    warned = expected is Status.WARNING
    assert_says(verdict, expected, name if warned else "", "strict" if warned else "")
