"""How long a simple token lives where replicas share the store, each with a clock of its own.

In each row a token is made at second 0 and used at A at some seconds; then somebody else logs in at
B, which may delete it, and it is tried at A and B. L is 300 s; A writes its uses after each of its
own, as if every flush came at once, or not at all.
"""

from collections.abc import Sequence

import pytest

from tests.memory_backend import MemoryBackend
from tests.support import NOW
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import InvalidAuthTokenError
from webhook.rbac.records import Record
from webhook.rbac.simple_tokens import (
    RESOLUTION_SECONDS,
    SHARED_INTERVAL_SECONDS,
    SimpleTokens,
    TokenUses,
)

L = 300.0
LIMIT = 4032
KEPT = 1.5 * L + 60 + L / 10


class Backend(MemoryBackend):
    """Shared by replicas; before the next commit another replica writes, ``races`` times."""

    def __init__(self, max_records: int | None = LIMIT) -> None:
        super().__init__(max_records)
        self.races = 0
        self.refused = 0
        self.written: list[int] = []

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        if self.races:
            self.races -= 1
            self.refused += 1
            super().commit(self._revision, [])
        revision = super().commit(expected, records)
        self.written.append(len(records))
        return revision


class Replica:
    """One worker of a replica."""

    def __init__(self, backend: Backend, ahead: float = 0.0) -> None:
        self.store = AuthStore.loaded(backend)
        self.uses = TokenUses(self.store)
        self.tokens = SimpleTokens(self.store, self.uses, L)
        self.ahead = ahead

    def log_in(self, name: str, second: float) -> str:
        self.store.refresh()
        return self.tokens.assign(self.store.user(name), NOW + second + self.ahead)

    def accepts(self, token: str, second: float) -> bool:
        self.store.refresh()
        try:
            return self.tokens.resolve(token, NOW + second + self.ahead) == "a"
        except InvalidAuthTokenError:
            return False


def started() -> Backend:
    backend = Backend()
    store = AuthStore.loaded(backend)
    for name in "ab":
        store.change(changes.add_user, name, b"hash")
    return backend


# uses at A; whether they are flushed; the log-in at B; the check; accepted at A and at B
LIVES: list[tuple[str, Sequence[float], bool, float, float, bool, bool]] = [
    ("not-used", (), True, 0, L, True, True),
    ("not-used-and-over", (), True, 0, L + 1, False, False),
    # u - r <= L/2: nothing is written, and it dies elsewhere at r + L.
    ("used-early", (100,), True, 0, 299, True, True),
    ("used-early-elsewhere-over", (100,), True, 0, 301, True, False),
    ("used-early-here-to-the-end", (100,), True, 0, 400, True, False),
    ("used-early-here-over", (100,), True, 0, 401, False, False),
    ("used-just-before-half", (149,), True, 0, 449, True, False),
    # At least L/2 after its last use, in the worst case.
    ("idle-for-half", (149,), True, 0, 149 + 150, True, True),
    # u - r >= L/2: written, and it counts everywhere.
    ("used-late", (151,), True, 0, 451, True, True),
    ("used-late-and-over", (151,), True, 0, 452, False, False),
    ("used-twice", (151, 299), True, 0, 451, True, True),
    ("used-twice-elsewhere-over", (151, 299), True, 0, 452, True, False),
    ("used-again-after-half", (151, 302), True, 0, 602, True, True),
    ("used-late-not-flushed", (151,), False, 0, 451, True, False),
    ("used-late-not-flushed-yet-alive", (299,), False, 0, 300, True, True),
    # A log-in elsewhere deletes what no replica accepts any more, and nothing else.
    ("log-in-elsewhere", (149,), True, 361, 400, True, False),
    ("log-in-elsewhere-late", (149,), True, 448, 449, True, False),
    ("used-late-log-in-elsewhere", (151,), True, 450, 451, True, True),
    ("log-in-at-the-end", (149, 298), True, 600, 598, True, True),
]


@pytest.mark.parametrize(
    ("uses", "is_flushed", "log_in", "check", "here_accepts", "there_accepts"),
    [row[1:] for row in LIVES],
    ids=[row[0] for row in LIVES],
)
def test_lives(
    uses: Sequence[float],
    is_flushed: bool,
    log_in: float,
    check: float,
    here_accepts: bool,
    there_accepts: bool,
) -> None:
    backend = started()
    here, there = Replica(backend), Replica(backend)
    token = here.log_in("a", 0)
    for second in uses:
        assert here.accepts(token, second)
        if is_flushed:
            here.uses.write()
    there.log_in("b", log_in)
    assert here.accepts(token, check) is here_accepts
    assert there.accepts(token, check) is there_accepts


def test_a_use_that_was_not_written_in_time_counts_again_once_it_is() -> None:
    backend = started()
    here, there = Replica(backend), Replica(backend)
    token = here.log_in("a", 0)
    assert here.accepts(token, 299)
    assert not there.accepts(token, 305)
    here.uses.write()
    assert there.accepts(token, 305)


@pytest.mark.parametrize(
    ("ahead", "difference", "is_kept"),
    [
        (0, 0.0, True),
        # Refused by s > L/10, but never deleted.
        (-40, 0.0, True),
        (-400, 0.0, True),
        (361, 361.0, True),
        (361, -361.0, True),
        (4, 4.0, True),
        (31_536_000, 31_536_000.0, True),
    ],
)
def test_no_clock_of_one_replica_deletes_the_tokens_of_others(
    ahead: float, difference: float, is_kept: bool
) -> None:
    backend = started()
    here, there = Replica(backend), Replica(backend, ahead)
    tokens = [here.log_in("a", second) for second in range(5)]
    backend.clock_difference = difference
    there.log_in("b", 10)
    assert [here.accepts(token, 20) for token in tokens] == [is_kept] * 5


DELETED = [
    ("kept", KEPT - 1, 0.0, False),
    ("over", KEPT + 1, 0.0, True),
    # The newest wall time that was seen counts.
    ("others-are-ahead", KEPT - 1, 4.0, True),
    ("others-are-behind", KEPT + 1, -4.0, True),
    ("clocks-differ", KEPT + 1000, 5.1, False),
    ("clocks-differ-the-other-way", KEPT + 1000, -5.1, False),
]


@pytest.mark.parametrize(
    ("log_in", "difference", "is_deleted"),
    [row[1:] for row in DELETED],
    ids=[row[0] for row in DELETED],
)
def test_what_a_log_in_deletes(log_in: float, difference: float, is_deleted: bool) -> None:
    backend = started()
    here = Replica(backend)
    here.log_in("a", 0)
    backend.clock_difference = difference
    here.log_in("b", log_in)
    assert len(here.store.state.tokens) == (1 if is_deleted else 2)


def test_uses_are_written_less_often() -> None:
    backend = started()
    replica = Replica(backend)
    assert replica.uses.interval == SHARED_INTERVAL_SECONDS
    backend.max_records = None
    assert replica.uses.interval == RESOLUTION_SECONDS
    backend.max_records = LIMIT
    token = replica.log_in("a", 0)
    backend.written.clear()
    for second in range(0, 3000, 10):
        assert replica.accepts(token, second)
        replica.uses.write()
    # Every half of its life, instead of 300 times.
    assert backend.written == [1] * 19


def test_uses_give_way_to_a_change() -> None:
    backend = started()
    replica = Replica(backend)
    token = replica.log_in("a", 0)
    assert replica.accepts(token, 200)
    backend.races = 5
    backend.written.clear()
    replica.uses.write()
    # One attempt in a round.
    assert backend.refused == 1
    assert not backend.written
    assert len(replica.uses) == 1
    backend.races = 0
    replica.uses.write()
    assert backend.written == [1]
    assert not replica.uses
