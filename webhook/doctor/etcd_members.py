"""Judges what the members of an etcd cluster say of themselves.

Source: etcd's changelogs and its issues #13766 (3.5.0 to 3.5.2 may lose data when they are killed)
and #20418 (a linearizable read may be stale after a pause).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from keys.messages import counted
from webhook.doctor.clock import Offset
from webhook.doctor.findings import Verdict, command, failure, ok, warning
from webhook.duration import format_duration
from webhook.etcd.values import Alarm, GrantedRange, Member, MemberStatus
from webhook.rbac.model import Permission, PermissionType, Role
from webhook.rbac.permissions import Permissions
from webhook.rbac.ranges import Range, prefix_end

ELECTION_SECONDS: Final = 2.0
"""How long etcd takes to notice that its leader is gone and to elect another, at its defaults."""
ROOT_ROLE: Final = "root"
_DEFAULT_QUOTA: Final = 2 * 1024**3
_MIB: Final = 1024 * 1024
_ALMOST_FULL: Final = 0.8
MANY_REVISIONS: Final = 1_000_000
"""How much history is too much."""
_CLOCK_SECONDS: Final = 5.0
_VERSION: Final = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})(?:[-+][!-~]{0,40})?")
# The first version of each line without #20418.
_SOUND: Final = {(3, 5): 28, (3, 6): 9}
_LOSES_DATA: Final = ((3, 5, 0), (3, 5, 2))


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """One endpoint: the status of the member that answers there, or why none does."""

    endpoint: str
    status: MemberStatus | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class WebFacts:
    """What an endpoint answers to HTTP/1.1 on several connections.

    ``member_ids`` are hexadecimal, those that /metrics named. ``proxy`` says what kind of proxy
    answers, empty for none that is known. ``quota`` is in bytes, 0 if it is not said.
    """

    endpoint: str
    member_ids: frozenset[str] = frozenset()
    proxy: str = ""
    quota: int = 0
    offset: Offset | None = None


def answering(endpoints: Sequence[EndpointFacts]) -> list[MemberStatus]:
    """Return the status of each endpoint that answers."""
    return [facts.status for facts in endpoints if facts.status is not None]


def check_endpoints(endpoints: Sequence[EndpointFacts], members: Sequence[Member]) -> Verdict:
    """Check that each endpoint leads to another member of one cluster that has a leader."""
    found = answering(endpoints)
    silent = [facts for facts in endpoints if facts.status is None]
    health = command("etcdctl", "endpoint", "health", "--endpoints", _joined(endpoints))
    if not found:
        return failure(f"no endpoint answers: {_reasons(silent)}", health)
    clusters = {status.header.cluster_id for status in found}
    if len(clusters) > 1:
        names = ", ".join(f"{s.endpoint} (cluster {s.header.cluster_id:x})" for s in found)
        return failure(
            f"the endpoints lead to {len(clusters)} different clusters: {names}",
            "name the members of one cluster in store.etcd.endpoints",
        )
    if leaderless := [status.endpoint for status in found if not status.leader]:
        return failure(
            f"{' and '.join(leaderless)} know of no leader: a majority of the members is missing",
            health,
        )
    if silent:
        return warning(f"{counted(len(silent), 'endpoint')} silent: {_reasons(silent)}", health)
    return _check_members(found, members)


def _check_members(found: Sequence[MemberStatus], members: Sequence[Member]) -> Verdict:
    """Check which members answer at the endpoints, and which have none."""
    by_member: dict[int, list[str]] = {}
    for status in found:
        by_member.setdefault(status.header.member_id, []).append(status.endpoint)
    if twice := next((names for names in by_member.values() if len(names) > 1), None):
        return warning(
            f"{' and '.join(twice)} lead to the same member, so that one fault takes away both",
            "name each member once in store.etcd.endpoints",
        )
    if learner := next((status for status in found if status.is_learner), None):
        return warning(
            f"{learner.endpoint} is a learner, which answers no linearizable read",
            command("etcdctl", "member", "promote", f"{learner.header.member_id:x}"),
        )
    voters = [member for member in members if not member.is_learner]
    if len(voters) > len(found):
        others = [
            url for m in voters if m.id not in by_member for url in m.client_urls[:1] or (m.name,)
        ]
        return warning(
            f"{len(found)} of {counted(len(voters), 'member')} are named; "
            "the store is lost with them although the others may have a majority",
            f"add {', '.join(others)} to store.etcd.endpoints",
        )
    return ok(f"{counted(len(found), 'member')} of one cluster, with a leader")


def check_versions(found: Sequence[MemberStatus]) -> Verdict:
    """Check that no member has a version with a known fault that concerns this store."""
    upgrade = "upgrade etcd to 3.5.28, 3.6.9 or later, one member after the other"
    versions = {status.endpoint: _VERSION.fullmatch(status.version) for status in found}
    if unknown := [name for name, match in versions.items() if match is None]:
        return warning(f"{' and '.join(unknown)} says no version like 3.6.9", upgrade)
    numbers = {
        name: (int(match[1]), int(match[2]), int(match[3]))
        for name, match in versions.items()
        if match
    }
    if lossy := [n for n, v in numbers.items() if _LOSES_DATA[0] <= v <= _LOSES_DATA[1]]:
        return failure(
            f"{_versions(lossy, found)} can lose data that it has acknowledged when it is killed "
            "(etcd #13766)",
            upgrade,
        )
    if old := [n for n, v in numbers.items() if v[:2] < min(_SOUND)]:
        return failure(f"{_versions(old, found)} gets no more fixes", upgrade)
    if stale := [n for n, v in numbers.items() if v[:2] in _SOUND and v[2] < _SOUND[v[:2]]]:
        return warning(
            f"{_versions(stale, found)} may answer one read with old data after it was paused, so "
            "that a revocation could count later than maxStaleness (etcd #20418)",
            upgrade,
        )
    return ok(", ".join(sorted({status.version for status in found})))


def check_space(found: Sequence[MemberStatus], quotas: Mapping[str, int]) -> Verdict:
    """Check that no database is near its quota; ``quotas`` has those known, by endpoint."""
    said = []
    for status in found:
        known = status.db_quota or quotas.get(status.endpoint, 0)
        quota = known or _DEFAULT_QUOTA
        share = status.db_size / quota
        size = f"{_mib(status.db_size)} of {_mib(quota)}"
        said.append(f"{size}{'' if known else ' (etcd default)'}")
        if share < _ALMOST_FULL:
            continue
        finding = (
            f"the database of {status.endpoint} has {size}; when it is full, nothing can be changed"
        )
        if status.db_size_in_use < _ALMOST_FULL * status.db_size:
            return warning(
                f"{finding}, and {_mib(status.db_size - status.db_size_in_use)} of it are free",
                command("etcdctl", "defrag", "--endpoints", status.endpoint),
            )
        return warning(
            finding,
            "start etcd with a larger --quota-backend-bytes, or find what fills it: "
            "`etcdctl get / --prefix --keys-only`",
        )
    return ok(", ".join(dict.fromkeys(said)))


def check_alarms(alarms: Sequence[Alarm], endpoints: str) -> Verdict:
    """Check that no alarm is raised; ``endpoints`` are those for etcdctl."""
    kinds = {alarm.kind: f"{alarm.member_id:x}" for alarm in alarms}
    if member := kinds.get("CORRUPT"):
        return failure(
            f"the data of member {member} differs from that of the others (alarm CORRUPT)",
            f"etcdctl member remove {member}   # then add it again with an empty data directory",
        )
    if "NOSPACE" in kinds:
        return failure(
            "the database is full (alarm NOSPACE): nothing can be changed, not even revoked",
            f"etcdctl compact REVISION, etcdctl defrag --endpoints {endpoints}, then etcdctl alarm "
            "disarm",
        )
    return ok("none")


def check_compaction(revision: int, is_kept: bool) -> Verdict:
    """Check that old revisions are dropped.

    ``is_kept`` is whether the one MANY_REVISIONS before the present ``revision`` is still there.
    """
    if is_kept and revision > MANY_REVISIONS:
        return warning(
            f"etcd keeps more than {MANY_REVISIONS:,} revisions: its database grows until it is "
            "full",
            "start each member with --auto-compaction-mode=periodic --auto-compaction-retention=1h",
        )
    return ok(f"revision {revision}, fewer than {MANY_REVISIONS:,} are kept")


def check_rights(
    user: str, roles: Mapping[str, Sequence[GrantedRange]], prefix: str, is_enabled: bool
) -> Verdict:
    """Check that a user of etcd may read and write below a prefix, and only there."""
    start = f"{prefix}/".encode()
    span = Range(start, prefix_end(start))
    if not is_enabled:
        return warning(
            "etcd's auth is disabled: everybody that etcd lets connect can change the store",
            "docs/etcd-store.md has the commands: a user with a role for the prefix, then "
            "`etcdctl auth enable`",
        )
    role = next(iter(sorted(roles)), user)
    grant = command(
        *("etcdctl", "role", "grant-permission", role, "--prefix", "readwrite", f"{prefix}/")
    )
    if ROOT_ROLE in roles:
        return warning(
            f"the user {user} has the role root, and can change everything in etcd",
            f"{command('etcdctl', 'user', 'revoke-role', user, ROOT_ROLE)}, after a role of its "
            f"own: {grant}",
        )
    granted = Permissions([_role_of(name, ranges) for name, ranges in roles.items()])
    for kind in (PermissionType.READ, PermissionType.WRITE):
        if granted.uncovered(kind, span):
            return failure(f"the user {user} may not {kind.name} all of {prefix}/", grant)
    for name, ranges in sorted(roles.items()):
        for given in ranges:
            if not _is_inside(given, span):
                words = [given.key, given.range_end] if given.range_end else [given.key]
                shown = [word.decode("utf-8", "backslashreplace") for word in words]
                return warning(
                    f"the user {user} may {given.permission} outside of {prefix}/ too, by role "
                    f"{name}: {' to '.join(shown)}",
                    command("etcdctl", "role", "revoke-permission", name, *shown),
                )
    return ok(f"user {user}, {prefix}/ and nothing else")


def check_proxies(found: Sequence[WebFacts]) -> Verdict:
    """Check that each endpoint is a member itself, and not something in front of several."""
    direct = "name the members themselves in store.etcd.endpoints"
    for facts in found:
        if facts.proxy:
            return failure(
                f"{facts.endpoint} is {facts.proxy}, which may repeat a request or answer from "
                "its own memory",
                direct,
            )
        if len(facts.member_ids) > 1:
            return failure(
                f"{facts.endpoint} leads to {len(facts.member_ids)} members in turn: it is a proxy "
                "or balancer",
                direct,
            )
    return ok(counted(len(found), "endpoint"))


def check_clocks(found: Sequence[WebFacts], head: tuple[str, float] | None) -> Verdict:
    """Check that the clocks of the members, and of the last writer, are within 5 s of this one.

    ``head`` is who wrote last, and by how many seconds its clock is ahead at least.
    """
    fix = "chronyc makestep   # on the machine whose clock is wrong; `date -u` on both tells"
    if head is not None and head[1] > _CLOCK_SECONDS:
        return failure(
            f"the clock of {head[0]}, which changed the store last, is at least {head[1]:.1f}s "
            "ahead of this one: tokens and revocations count by different clocks",
            fix,
        )
    offsets = [(facts.endpoint, facts.offset) for facts in found if facts.offset is not None]
    for endpoint, offset in offsets:
        if abs(offset.ahead) - offset.uncertainty > _CLOCK_SECONDS:
            side = "ahead of" if offset.ahead > 0 else "behind"
            return warning(
                f"the clock of {endpoint} is {abs(offset.ahead):.1f}s {side} this one "
                f"(± {offset.uncertainty:.1f}s)",
                fix,
            )
    return ok(f"within {_CLOCK_SECONDS:g}s: {counted(len(offsets), 'member')}")


def check_staleness(seconds: float, consistency: str) -> Verdict:
    """Compare ``maxStaleness`` with the time that etcd needs to elect a leader."""
    shown = format_duration(seconds)
    if seconds < ELECTION_SECONDS:
        return warning(
            f"maxStaleness is {shown}, and etcd needs up to {format_duration(ELECTION_SECONDS)} to "
            "elect a leader: with each one that fails every replica answers 503",
            "set store.etcd.maxStaleness to 3s",
        )
    return ok(f"maxStaleness {shown}, consistency {consistency}")


def check_clock_source(name: str, consistency: str) -> Verdict:
    """Check that this machine's clock runs on while its host pauses it."""
    if name == "kvm-clock" and consistency != "strict":
        return warning(
            "the clock source kvm-clock stands still while the host pauses this machine: after "
            "that, answers can be as old as the pause and maxStaleness together",
            "set store.etcd.consistency to strict, or: echo tsc > "
            "/sys/devices/system/clocksource/clocksource0/current_clocksource",
        )
    return ok(name or "not known")


def _role_of(name: str, ranges: Sequence[GrantedRange]) -> Role:
    kinds = {kind.name: kind for kind in PermissionType}
    granted = [Permission(g.key, g.range_end, kinds[g.permission]) for g in ranges]
    return Role(name, tuple(granted))


def _is_inside(given: GrantedRange, span: Range) -> bool:
    found = Permission(given.key, given.range_end, PermissionType.READ).span
    ends_inside = found.end is not None and (span.end is None or found.end <= span.end)
    return found.start >= span.start and ends_inside


def _joined(endpoints: Sequence[EndpointFacts]) -> str:
    return ",".join(facts.endpoint for facts in endpoints)


def _reasons(silent: Sequence[EndpointFacts]) -> str:
    return "; ".join(dict.fromkeys(facts.error or facts.endpoint for facts in silent))


def _versions(names: Sequence[str], found: Sequence[MemberStatus]) -> str:
    versions = sorted({status.version for status in found if status.endpoint in names})
    return f"etcd {' and '.join(versions)} ({', '.join(names)})"


def _mib(size: int) -> str:
    return f"{size / _MIB:.0f} MiB"
