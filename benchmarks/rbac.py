"""Claims: a permission question costs about one ``bisect``, and a change only what it affects.

Questions are measured in one process, in turn with only ``bisect_right`` for the same keys on
the same list of bounds; the time of an empty loop is subtracted from both. Changes are measured on
SQLite with ``synchronous=FULL``, in stores of 100 and of 10,000 users in turn. Memory is that of
two processes, one with an empty store.
"""

import random
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, ParamSpec

from benchmarks.report import Row, cost_row, limit_row
from webhook.backends.sqlite import SQLiteBackend
from webhook.rbac import changes
from webhook.rbac.access import is_key_permitted
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.model import Permission, PermissionType, Role, User
from webhook.rbac.permissions import Permissions
from webhook.rbac.ranges import Range
from webhook.rbac.records import permission_record, role_record, user_record

_GRANTS: Final = (10, 100, 1_000, 10_000, 100_000)
_QUESTION_CEILING: Final = 2.5
_COMMIT_MS: Final = 5.0
_TOUCHED_MS: Final = 5.0
_UNTOUCHED_US: Final = 20.0
_GROWTH_CEILING: Final = 1.5
_RESIDENT_MB: Final = 40.0
_FEW_USERS: Final = 100
_MANY_USERS: Final = 10_000
_ROLE_SETS: Final = 50
_HOLDERS: Final = 10
_PERMISSIONS: Final = 1_000
_HOT: Final = "hot"
_NOTHING: Final = Range(b"/nothing", b"/nothing\0")
_P = ParamSpec("_P")


class _Pair(NamedTuple):
    ours: float
    bare: float


def run(*, quick: bool) -> list[Row]:
    """Measure questions, changes and memory."""
    rows = [row for grants in _GRANTS for row in _questions(grants, 7 if quick else 21)]
    with tempfile.TemporaryDirectory(prefix="leeway-bench-") as name:
        folder = Path(name)
        rows += _changes(folder, 15 if quick else 60)
        rows.append(_memory(folder))
    return rows


def _questions(grants: int, rounds: int) -> list[Row]:
    rng = random.Random(grants)
    spans = [namespace_span(number) for number in range(grants)]
    permissions = Permissions(
        [Role("r", tuple(Permission(*span, PermissionType.READ) for span in spans))]
    )
    bounds = permissions.read
    asked = [rng.choice(spans) for _ in range(2_000)]
    points = [start + b"pod" for start, _ in asked]
    # Half of the ranges reach past the end of what is granted.
    ranges: list[tuple[bytes, bytes | None]] = [
        (start, end if number % 2 else end + b"\0") for number, (start, end) in enumerate(asked)
    ]
    starts = [start for start, _ in asked]
    can_read, can_read_range = permissions.can_read, permissions.can_read_range

    def ask_points() -> None:
        for key in points:
            can_read(key)

    def ask_ranges() -> None:
        for start, end in ranges:
            can_read_range(start, end)

    def bisect_points() -> None:
        for key in points:
            bisect_right(bounds, key)

    def bisect_starts() -> None:
        for start in starts:
            bisect_right(bounds, start)

    found = []
    for kind, ask, bare in (
        ("point", ask_points, bisect_points),
        ("range", ask_ranges, bisect_starts),
    ):
        _pair(ask, bare, len(asked))  # Warms up.
        pairs = [_pair(ask, bare, len(asked)) for _ in range(rounds)]
        found.append(
            cost_row(
                f"{kind} question, {grants:,} grants",
                _QUESTION_CEILING,
                (f"can_read{'_range' if kind == 'range' else ''}", [p.ours for p in pairs]),
                ("bare bisect_right", [p.bare for p in pairs]),
                "ns",
            )
        )
    return found


def _pair(ours: Callable[[], None], bare: Callable[[], None], count: int) -> _Pair:
    def loop() -> None:
        for _ in range(count):
            pass

    empty = min(seconds_of(loop) for _ in range(3))
    # The best of three: other work on the machine only makes it slower.
    taken = (min(seconds_of(work) for _ in range(3)) - empty for work in (ours, bare))
    return _Pair(*(seconds / count * 1e9 for seconds in taken))


def _changes(folder: Path, rounds: int) -> list[Row]:
    stores = {users: _filled(folder / f"{users}.db", users) for users in (_FEW_USERS, _MANY_USERS)}
    commits: dict[int, list[float]] = {users: [] for users in stores}
    touched: dict[int, list[float]] = {users: [] for users in stores}
    untouched: dict[int, list[float]] = {users: [] for users in stores}
    for number in range(rounds + 3):
        for users, store in stores.items():
            key, end = namespace_span(_PERMISSIONS + number)
            permission = Permission(key, end, PermissionType.READ)
            commit = seconds_of(store.change, changes.grant_permission, _HOT, permission)
            span = Range(key, key + b"\0")
            first = seconds_of(_ask, store, "user0", span, expected=True)
            other = seconds_of(_ask, store, f"user{_HOLDERS}", span, expected=False)
            store.change(changes.revoke_permission, _HOT, key, end)
            _ask(store, "user0", span, expected=False)
            if number >= 3:
                commits[users].append(commit * 1e3)
                touched[users].append(first * 1e3)
                untouched[users].append(other * 1e6)
    for store in stores.values():
        store.close()
    named = f"{_MANY_USERS:,} users"
    few = f"{_FEW_USERS} users"
    return [
        limit_row(
            f"grant to a role of {_HOLDERS} in {named}, {_PERMISSIONS:,} permissions",
            ("commit", commits[_MANY_USERS]),
            _COMMIT_MS,
            "ms",
        ),
        limit_row(
            "next question of a user it touches", ("first", touched[_MANY_USERS]), _TOUCHED_MS, "ms"
        ),
        limit_row(
            "next question of a user it does not touch",
            ("first", untouched[_MANY_USERS]),
            _UNTOUCHED_US,
            "us",
        ),
        cost_row(
            "grant, by number of users",
            _GROWTH_CEILING,
            (named, commits[_MANY_USERS]),
            (few, commits[_FEW_USERS]),
            "ms",
        ),
        cost_row(
            "next question of a user it touches, by number of users",
            _GROWTH_CEILING,
            (named, touched[_MANY_USERS]),
            (few, touched[_FEW_USERS]),
            "ms",
        ),
    ]


def _filled(path: Path, users: int) -> AuthStore:
    """Create a store whose first users have the role that is changed; every user asks once."""
    others = [f"role{number}" for number in range(_ROLE_SETS - 1)]
    grants = [
        Permission(*namespace_span(number), PermissionType.READ) for number in range(_PERMISSIONS)
    ]
    records = [role_record(role) for role in (_HOT, *others)]
    records += [permission_record(_HOT, permission) for permission in grants]
    for number, role in enumerate(others):
        records += [
            permission_record(role, permission) for permission in grants[number::_ROLE_SETS]
        ]
    for number in range(users):
        roles = (_HOT,) if number < _HOLDERS else _role_set(number, others)
        records.append(user_record(User(f"user{number}", b"$2b$10$" + b"x" * 53, roles, 1)))
    store = AuthStore.loaded(SQLiteBackend(path))
    store.change(lambda _: records)
    ask_all(store)
    return store


def _role_set(number: int, others: Sequence[str]) -> tuple[str, ...]:
    place = number % len(others)
    return tuple(sorted({others[place], others[place - 1], others[place - 2]}))


def ask_all(store: AuthStore, span: Range = _NOTHING, *, expected: bool = False) -> None:
    """Let every user ask to read a range. Raises RuntimeError for an unexpected answer."""
    for user in store.state.users:
        _ask(store, user, span, expected=expected)


def _ask(store: AuthStore, user: str, span: Range, *, expected: bool) -> None:
    if is_key_permitted(store.state, user, (), PermissionType.READ, span.start) is not expected:
        raise RuntimeError(f"a wrong answer for {user}")


def _memory(folder: Path) -> Row:
    claim = f"{_MANY_USERS:,} users in {_ROLE_SETS} role sets, resident above an empty store"
    if not Path("/proc/self/statm").exists():
        return Row(claim, skipped="there is no /proc/self/statm here")
    path = folder / "memory.db"
    _filled(path, _MANY_USERS).close()
    empty, full = (_resident_of(file) for file in (folder / "empty.db", path))
    return limit_row(claim, ("resident", [full - empty]), _RESIDENT_MB, "MB")


def _resident_of(path: Path) -> float:
    command = [sys.executable, "-m", "benchmarks.rbac", str(path)]
    root = Path(__file__).parents[1]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout
    return float(output)


def _resident_mb(path: Path) -> float:
    """Open a store, let every user ask, and return the memory of this process (10**6 bytes)."""
    store = AuthStore.loaded(SQLiteBackend(path))
    ask_all(store)
    status = Path("/proc/self/status").read_text("ascii")
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    store.close()
    return int(kilobytes) * 1024 / 1e6


def namespace_span(number: int) -> tuple[bytes, bytes]:
    """Return the keys of a namespace's Pods as a key and a range end; no two of them touch."""
    prefix = b"/registry/pods/namespace-%07d" % number
    return prefix + b"/", prefix + b"0"


def seconds_of(work: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    work(*args, **kwargs)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.stdout.write(f"{_resident_mb(Path(sys.argv[1]))}\n")
