"""What an answer rests on, and whether it still counts when it is given."""

from collections.abc import Callable, Iterator
from math import inf
from threading import Thread

import pytest

from tests.feed_backend import FeedBackend, Log
from tests.unit.webhook.rbac.follower_parts import Clock
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import (
    ForeignPositionError,
    StoreLockedError,
    StoreStaleError,
)
from webhook.rbac.records import BasisLostError, Record


def test_what_is_not_proven_to_be_young_is_not_answered_from(
    store: AuthStore, backend: FeedBackend, clock: Clock
) -> None:
    first = store.basis()
    assert (first.state, first.revision, first.proof) == (store.state, 7, 1000.0)
    backend.is_reading = False
    clock.now += 3.0
    assert store.basis() == first
    clock.now += 0.01
    for ask in (store.basis, store.refresh):
        with pytest.raises(
            StoreStaleError,
            match=r"the store at the log was complete 3\.0 s ago, and at most 3 s are allowed; see",
        ):
            ask()
    backend.is_reading = True
    assert store.basis().proof == clock.now


def test_a_state_without_a_proof_is_stale(log: Log, clock: Clock) -> None:
    backend = FeedBackend(log, clock)
    backend.is_reading = False
    store = AuthStore.loaded(backend, clock)
    with pytest.raises(StoreStaleError, match="was never complete, and at most 3 s"):
        store.basis()


def test_without_a_clock_no_proof_is_young(log: Log, clock: Clock) -> None:
    store = AuthStore.loaded(FeedBackend(log, clock))
    with pytest.raises(StoreStaleError):
        store.basis()
    with pytest.raises(StoreStaleError):
        store.basis(since=inf)


def test_a_strict_answer_wants_a_proof_of_its_own_time(
    store: AuthStore, backend: FeedBackend, clock: Clock
) -> None:
    backend.is_reading = False
    clock.now += 1.0
    assert store.basis().proof == 1000.0
    assert store.now() == 1001.0
    with pytest.raises(StoreLockedError, match="not known yet whether the store at the log has ch"):
        store.basis(since=store.now())
    assert backend.asked == 1
    backend.is_reading = True
    clock.now += 1.0
    assert store.basis(since=1001.0).proof == 1002.0
    assert backend.asked == 1


def nothing(_store: AuthStore, _theirs: AuthStore) -> None:
    pass


def later(store: AuthStore, theirs: AuthStore) -> None:
    theirs.change(changes.add_role, "later")
    store.refresh()


def unseen(_store: AuthStore, theirs: AuthStore) -> None:
    theirs.change(changes.add_role, "unseen")


def reloaded(store: AuthStore, _theirs: AuthStore) -> None:
    store.load()


# What happens while an answer is made, its age at the end, whether heads can still be read, and
# whether the answer counts if it was made at once, and in a thread.
CONFIRMED: dict[str, tuple[Callable[[AuthStore, AuthStore], None], float, bool, bool, bool]] = {
    "at once": (nothing, 0.0, True, True, True),
    "as late as allowed": (nothing, 3.0, False, True, True),
    "later, but nothing has changed": (nothing, 9.0, True, True, True),
    "later, and nothing is proven": (nothing, 3.1, False, False, False),
    "changed": (later, 1.0, True, True, False),
    "changed, and later": (later, 9.0, True, False, False),
    "changed elsewhere": (unseen, 1.0, True, True, True),
    "changed elsewhere, and later": (unseen, 9.0, True, False, False),
    "loaded again": (reloaded, 1.0, True, True, False),
    "loaded again, and later": (reloaded, 9.0, True, False, False),
}


@pytest.mark.parametrize(
    ("meanwhile", "age", "is_reading", "counts", "counts_in_thread"),
    CONFIRMED.values(),
    ids=CONFIRMED,
)
def test_whether_an_answer_still_counts(
    store: AuthStore,
    backend: FeedBackend,
    theirs: AuthStore,
    clock: Clock,
    meanwhile: Callable[[AuthStore, AuthStore], None],
    age: float,
    is_reading: bool,
    counts: bool,
    counts_in_thread: bool,
) -> None:
    basis = store.basis()
    meanwhile(store, theirs)
    backend.is_reading = is_reading
    # What the feed does not deliver is not known here.
    backend.is_live = False
    clock.now += age
    for confirm, is_confirmed in (
        (store.confirm, counts),
        (store.confirm_unchanged, counts_in_thread),
    ):
        if is_confirmed:
            confirm(basis)
        else:
            with pytest.raises(BasisLostError):
                confirm(basis)


def test_an_answer_does_not_count_while_a_change_is_being_applied(
    store: AuthStore, backend: FeedBackend, theirs: AuthStore, log: Log
) -> None:
    """A thread has read the first of two records. It finds out, though the revision is the old."""
    basis = store.basis()
    confirmed: list[bool] = []

    def confirm() -> None:
        try:
            store.confirm_unchanged(basis)
            confirmed.append(True)
        except BasisLostError:
            confirmed.append(False)

    def records() -> Iterator[Record]:
        yield Record("role", b"1", b"")
        confirming.start()
        confirming.join(0.05)
        yield Record("role", b"2", b"")

    confirming = Thread(target=confirm)
    basis.state.apply(log.append([]), records())
    confirming.join()
    assert confirmed == [False]


def test_positions_are_those_of_the_backend(store: AuthStore) -> None:
    before = store.position
    store.change(changes.add_role, "r")
    assert store.position != before
    assert store.reaches(before)
    with pytest.raises(ForeignPositionError):
        store.reaches("elsewhere-1")
