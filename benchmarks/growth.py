"""Claim: the cost of an answer or a change does not depend on the amount of state.

In one process, one number grows at a time: users, roles, grants of one role, keys of one
issuer, trusted issuers, revocations. Each size has its own store on SQLite and its own
authenticator; all sizes are measured in turn in every round. A row compares the largest with the
smallest, and its notes have all of them. Two costs grow with the grants of one role, and have no
limit: a question is a ``bisect`` over them, so it grows with their logarithm; the first question
after a change of the role merges them again.

A review is ``authenticate`` and the groups of the subject's roles. Tokens are RS256; the other
keys are ES256, which are made faster.
"""

import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.rbac import ask_all, namespace_span, seconds_of
from benchmarks.report import Figure, Row, cost_row
from benchmarks.tokens import make_tokens
from benchmarks.verification import AUDIENCES, ISSUER, POLICY
from keys.keyring import Keyring
from keys.pem import generate_signing_key
from webhook.backends.sqlite import SQLiteBackend
from webhook.rbac import changes, revocations
from webhook.rbac.access import granting_roles, role_groups
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.batches import batch, fits
from webhook.rbac.model import Group, Permission, PermissionType, User
from webhook.rbac.ranges import Range
from webhook.rbac.records import (
    REVOKED_JTI,
    Record,
    Revocation,
    group_record,
    permission_record,
    revocation_record,
    role_record,
    user_record,
)
from webhook.rbac.revocations import Lifetimes
from webhook.rbac.state import AuthState
from webhook.token.authenticator import Authenticator, TrustedIssuer
from webhook.token.claims import ClockLeeway
from webhook.token.outcome import Refused

CEILING: Final = 1.5
_HOT: Final = "hot"
_USER: Final = "user0"
_GROUP: Final = "system:serviceaccounts:shop"
_TOKENS: Final = 200
_REPEATS: Final = 2_000
_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """The number of each thing; the default while another one grows."""

    users: int = 100
    roles: int = 50
    grants: int = 100
    keys: int = 1
    issuers: int = 1
    revocations: int = 1


_REVIEWS: Final = ("review, token seen before", "review, token not seen before")
_QUESTIONS: Final = ("question", "grant", "question after it")
# The measurements of each quantity; those in _GROWS have no limit.
_MEASURED: Final[dict[str, tuple[str, ...]]] = {
    "users": (_REVIEWS[0], *_QUESTIONS),
    "roles": (_REVIEWS[0], *_QUESTIONS),
    "grants": (_REVIEWS[0], *_QUESTIONS),
    "keys": _REVIEWS,
    "issuers": _REVIEWS,
    "revocations": (*_REVIEWS, "grant", "revocation"),
}
_GROWS: Final = {("grants", "question"), ("grants", "question after it")}


def run(*, quick: bool) -> list[Row]:
    """Measure each thing in its sizes."""
    counts, rounds = ((10, 1_000), 7) if quick else ((10, 100, 1_000, 10_000), 25)
    tokens = _Tokens.signed()
    rows = []
    for thing, kinds in _MEASURED.items():
        more = (100_000,) if thing == "revocations" and not quick else ()
        rows += _measure(thing, kinds, (*counts, *more), rounds, tokens)
    return rows


@dataclass(frozen=True, slots=True)
class _Tokens:
    keyring: Keyring
    texts: list[str]

    @staticmethod
    def signed() -> "_Tokens":
        keyring = Keyring().with_new_key(generate_signing_key("RS256"), int(time.time()))
        return _Tokens(keyring, make_tokens(keyring, POLICY, _TOKENS))


def measure_users(
    counts: Sequence[int], rounds: int, open_store: Callable[[str], AuthStore], store: str
) -> list[Row]:
    """Measure a question, a change and the question after it by users, on stores of any kind."""
    rows = _measure("users", _QUESTIONS, counts, rounds, _Tokens.signed(), open_store)
    return [replace(row, claim=f"{row.claim}, {store}") for row in rows]


def _measure(
    thing: str,
    kinds: Sequence[str],
    counts: Sequence[int],
    rounds: int,
    tokens: _Tokens,
    open_store: Callable[[str], AuthStore] | None = None,
) -> list[Row]:
    points: dict[str, dict[int, list[float]]] = {kind: {n: [] for n in counts} for kind in kinds}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="leeway-bench-")))
        worlds = {}
        for count in counts:
            sizes = replace(Sizes(), **{thing: count})
            store = (
                AuthStore.loaded(SQLiteBackend(folder / f"{count}.db"))
                if open_store is None
                else open_store(str(count))
            )
            worlds[count] = stack.enter_context(_world(store, sizes, tokens))
        for number in range(rounds + 1):
            for count, world in worlds.items():
                for kind in kinds:
                    microseconds = world.measure(kind, number)
                    if number:  # The first round warms up.
                        points[kind][count].append(microseconds)
    return [
        growth_row(thing, kind, points[kind], 0.0 if (thing, kind) in _GROWS else CEILING)
        for kind in kinds
    ]


def growth_row(thing: str, kind: str, points: dict[int, list[float]], ceiling: float) -> Row:
    """Compare the largest count with the smallest; ``points`` are microseconds by count."""
    small, large = min(points), max(points)
    table = "; ".join(str(Figure(f"{n:,}:", median(us), "us")) for n, us in points.items())
    return cost_row(
        f"{kind}, by {thing}",
        ceiling,
        (f"{large:,} {thing}", points[large]),
        (f"{small:,} {thing}", points[small]),
        "us",
        [table],
    )


class _World:
    """A store and an authenticator of these sizes."""

    def __init__(self, store: AuthStore, issuers: Sequence[TrustedIssuer], tokens: _Tokens) -> None:
        self._store = store
        self._issuers = issuers
        self._tokens = tokens.texts
        self._seen = self._authenticator()
        self._works: dict[str, Callable[[int], float]] = {
            _REVIEWS[0]: self._review_seen,
            _REVIEWS[1]: self._review_unseen,
            "question": self._ask,
            "grant": self._grant,
            "question after it": self._ask_anew,
            "revocation": self._revoke,
        }

    def measure(self, kind: str, number: int) -> float:
        """Return the microseconds that one of a kind takes, in the round of that number."""
        return self._works[kind](number) * 1e6

    def _authenticator(self) -> Authenticator:
        return Authenticator(self._issuers, ClockLeeway(60, 60, 60))

    def _review_seen(self, _: int) -> float:
        self._review(self._seen)
        return min(self._review(self._seen) for _ in range(3))

    def _review_unseen(self, _: int) -> float:
        return self._review(self._authenticator())

    def _review(self, authenticator: Authenticator) -> float:
        state, now = self._store.state, time.time()
        started = time.perf_counter()
        for token in self._tokens:
            outcome = authenticator.authenticate(token, AUDIENCES, now, revocations=state)
            role_groups(outcome, state, "leeway:role:")
        seconds = time.perf_counter() - started
        if isinstance(outcome, Refused):
            raise RuntimeError("a token was refused")
        return seconds / len(self._tokens)

    def _ask(self, _: int) -> float:
        span = Range(*namespace_span(0))
        self._ask_once(span)

        def ask_often() -> None:
            for _ in range(_REPEATS):
                granting_roles(self._store.state, _USER, (), (PermissionType.READ,), span)

        return min(seconds_of(ask_often) for _ in range(3)) / _REPEATS

    def _grant(self, number: int) -> float:
        permission = Permission(*_visited(number), PermissionType.READ)
        return seconds_of(self._store.change, changes.grant_permission, _HOT, permission)

    def _ask_anew(self, number: int) -> float:
        span = _visited(number)
        seconds = seconds_of(self._ask_once, Range(*span))
        self._store.change(changes.revoke_permission, _HOT, *span)
        return seconds

    def _ask_once(self, span: Range) -> None:
        if not granting_roles(self._store.state, _USER, (), (PermissionType.READ,), span):
            raise RuntimeError("a wrong answer")

    def _revoke(self, _: int) -> float:
        lifetimes = Lifetimes(_DAY, 0.0)
        return seconds_of(
            self._store.change, revocations.revoke_jti, str(uuid.uuid4()), lifetimes, time.time()
        )


def _visited(number: int) -> tuple[bytes, bytes]:
    return namespace_span(1_000_000 + number)


@contextmanager
def _world(store: AuthStore, sizes: Sizes, tokens: _Tokens) -> Iterator[_World]:
    try:
        fill(store, _records(sizes))
        ask_all(store)
        yield _World(store, _issuers(sizes, tokens), tokens)
    finally:
        store.close()


def fill(store: AuthStore, records: Iterable[Record]) -> None:
    """Write records, in as many transactions as they need."""
    left = list(records)
    while left:
        part = list(left) if fits(left, store.max_records) else batch(left)
        store.change(_as_they_are, part)
        del left[: len(part)]


def _as_they_are(_: AuthState, records: list[Record]) -> list[Record]:
    return records


def _issuers(sizes: Sizes, tokens: _Tokens) -> list[TrustedIssuer]:
    keys = tokens.keyring.verification_keys()
    others = [generate_signing_key("ES256").verification_key for _ in range(sizes.keys - 1)]
    issuers = [TrustedIssuer(ISSUER, AUDIENCES, [*others, *keys])]
    return issuers + [
        TrustedIssuer(f"https://cluster-{number}.example", AUDIENCES, keys)
        for number in range(sizes.issuers - 1)
    ]


def _records(sizes: Sizes) -> list[Record]:
    """Return users, one of them with the role that is changed, and the revocations."""
    records = [role_record(_HOT), group_record(Group(_GROUP, (_HOT,)))]
    for number in range(sizes.grants):
        granted = Permission(*namespace_span(number), PermissionType.READ)
        records.append(permission_record(_HOT, granted))
    others = [f"role{number}" for number in range(sizes.roles)]
    for number, role in enumerate(others):
        granted = Permission(*namespace_span(2_000_000 + number), PermissionType.READ)
        records += [role_record(role), permission_record(role, granted)]
    for number in range(sizes.users):
        roles = (_HOT,) if number == 0 else (others[number % len(others)],)
        records.append(user_record(User(f"user{number}", b"", roles, 1)))
    revocation = Revocation(int(time.time()), time.time() + _DAY)
    for _ in range(sizes.revocations):
        records.append(revocation_record(REVOKED_JTI, str(uuid.uuid4()), revocation))
    return records
