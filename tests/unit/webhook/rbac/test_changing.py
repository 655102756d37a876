"""A change through a backend that hesitates, refuses, or loses the answer."""

from collections.abc import Callable
from functools import partial

import pytest

from tests.feed_backend import FeedBackend
from tests.unit.webhook.rbac.follower_parts import Clock, held, refreshed
from tests.unit.webhook.rbac.store_model import Scratch, assert_same
from webhook.rbac import changes, state_follower
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import (
    OutcomeUnknownError,
    StoreLockedError,
    StoreStaleError,
    StoreUnavailableError,
    UserAlreadyExistsError,
)
from webhook.rbac.records import Record
from webhook.rbac.state import AuthState


def test_a_change_is_decided_on_everything_that_was_acknowledged(
    store: AuthStore, backend: FeedBackend, theirs: AuthStore
) -> None:
    """Also one that comes to nothing, or is refused."""
    backend.is_live = False
    theirs.change(changes.add_user, "u", b"hash")
    with pytest.raises(UserAlreadyExistsError):
        store.change(changes.add_user, "u", b"other")
    theirs.change(changes.add_role, "r")
    theirs.change(changes.grant_role, "u", "r")
    before = len(backend.log.commits)
    store.change(changes.grant_role, "u", "r")
    assert len(backend.log.commits) == before
    assert store.user("u").roles == ("r",)


def test_after_a_conflict_it_is_decided_on_what_refused(
    store: AuthStore, backend: FeedBackend, theirs: AuthStore
) -> None:
    backend.is_live = False
    seen: list[set[str]] = []

    def decide(state: AuthState) -> list[Record]:
        seen.append(set(state.roles))
        return list(changes.add_role(state, "ours"))

    def be_faster() -> None:
        if len(seen) < 4:
            theirs.change(changes.add_role, f"{len(seen)}")

    backend.hooks["commit"] = be_faster
    store.change(decide)
    assert seen == [set(), {"1"}, {"1", "2"}, {"1", "2", "3"}]


def test_others_that_are_always_faster(
    store: AuthStore, backend: FeedBackend, theirs: AuthStore
) -> None:
    backend.hooks["commit"] = lambda: theirs.change(lambda _: [Record("role", b"r", b"")])
    with pytest.raises(StoreUnavailableError, match="other processes change the store all the"):
        store.change(changes.add_role, "ours")


@pytest.mark.parametrize("is_made", [True, False], ids=["made", "not made"])
def test_of_a_change_whose_outcome_is_unknown_the_feed_tells(
    store: AuthStore, backend: FeedBackend, is_made: bool
) -> None:
    backend.is_live = False

    def lose() -> None:
        raise OutcomeUnknownError("it is not known; look before you repeat it")

    backend.hooks["committed" if is_made else "commit"] = lose
    with pytest.raises(OutcomeUnknownError):
        store.change(changes.add_role, "r")
    assert store.role_names() == []
    backend.is_live = True
    assert ("r" in refreshed(store).roles) is is_made
    assert_same(store, Scratch(backend))


def test_a_change_that_is_made_is_acknowledged_however_old_the_proof_is(
    store: AuthStore, backend: FeedBackend, clock: Clock
) -> None:
    def freeze() -> None:
        backend.is_reading = False
        clock.now += 100.0

    backend.hooks["commit"] = freeze
    store.change(changes.add_role, "r")
    assert store.role_names() == ["r"]
    with pytest.raises(StoreStaleError):
        store.basis()


def test_a_change_that_is_made_is_acknowledged_though_it_cannot_be_applied(
    store: AuthStore, backend: FeedBackend
) -> None:
    def refuse(_apply: Callable[[], None]) -> None:
        raise RuntimeError("the loop is closed")

    run_apply, store.run_apply = store.run_apply, refuse
    store.change(changes.add_role, "r")
    store.run_apply = run_apply
    assert refreshed(store).roles.keys() == {"r"}


def test_a_change_does_not_wait_for_others_of_its_process_for_ever(
    store: AuthStore, backend: FeedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_follower, "_TURN_SECONDS", 0.01)
    with (
        held(backend, "commit", partial(store.change, changes.add_role, "slow")),
        pytest.raises(StoreLockedError, match=r"have taken more than 0\.01 s; try again"),
    ):
        store.change(changes.add_role, "r")
    assert store.role_names() == ["slow"]
