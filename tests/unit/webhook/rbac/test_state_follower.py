"""What an event loop and threads see of one store, whose backend hesitates or is cut off.

No test judges a time: a step of the backend is held, and what must go on meanwhile does, or hangs.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Event, Thread, get_ident

import pytest

from tests.feed_backend import FeedBackend, Log
from tests.unit.webhook.rbac.follower_parts import Clock, Held, Server, held, refreshed
from tests.unit.webhook.rbac.store_model import Scratch, assert_same
from webhook.rbac import changes, revocations
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import (
    NotInitialisedError,
    StoreError,
    StoreLockedError,
    StoreUnavailableError,
)
from webhook.rbac.records import BasisLostError, Record, ReplacedError
from webhook.rbac.revocations import Lifetimes
from webhook.rbac.state import AuthState

LIFETIMES = Lifetimes(3600.0)


def revoke(jti: str) -> Callable[[AuthStore], None]:
    return lambda store: store.change(revocations.revoke_jti, jti, LIFETIMES, 0.0)


# The event loop waits for nothing.


@pytest.mark.parametrize("step", ["changes", "commit", "committed"])
def test_a_revocation_counts_while_a_change_hesitates(
    store: AuthStore, backend: FeedBackend, theirs: AuthStore, step: str
) -> None:
    with held(backend, step, partial(store.change, changes.add_role, "slow")):
        for i in range(5):
            revoke(f"jti{i}")(theirs)
            # In the very next answer.
            assert f"jti{i}" in store.basis().state.revoked_jtis
    assert store.role_names() == ["slow"]
    refreshed(theirs)
    assert_same(store, Scratch(backend))
    assert_same(theirs, Scratch(backend))


def test_answers_are_given_while_a_change_hesitates(store: AuthStore, backend: FeedBackend) -> None:
    """Ten thousand of them, on an event loop that turns after each."""

    async def answer() -> int:
        taken = 0
        for _ in range(10_000):
            store.confirm(store.basis())
            taken += 1
            await asyncio.sleep(0)
        return taken

    with held(backend, "commit", partial(store.change, changes.add_role, "slow")):
        assert asyncio.run(answer()) == 10_000
        assert store.role_names() == []
    assert store.role_names() == ["slow"]


def test_loading_everything_is_no_business_of_the_event_loop(
    store: AuthStore, backend: FeedBackend, theirs: AuthStore, log: Log
) -> None:
    theirs.change(changes.add_role, "r")
    backend.reaches_back_to = log.head
    hook = backend.hooks["load"] = Held()
    before = store.state
    for _ in range(3):
        with pytest.raises(StoreLockedError, match="is being read"):
            store.basis()
    hook.wait()
    for _ in range(3):
        with pytest.raises(StoreLockedError, match="is being read"):
            store.basis()
    assert (store.state, before.roles) == (before, {})
    hook.let_go()
    assert refreshed(store).roles.keys() == {"r"}


def test_everything_is_applied_on_the_event_loop(
    store: AuthStore, backend: FeedBackend, theirs: AuthStore, log: Log, server: Server
) -> None:
    backend.applied_by.clear()
    store.change(changes.add_role, "ours")  # a commit
    theirs.change(changes.add_role, "theirs")
    store.change(changes.add_role, "again")  # catching up, and a commit

    async def refresh() -> None:
        store.refresh()

    theirs.change(changes.add_role, "more")
    server.do(refresh())  # the feed
    theirs.change(changes.add_role, "last")
    store.basis()  # the feed, in a thread
    assert len(backend.applied_by) >= 5
    store.load()
    assert set(backend.applied_by) == {server.thread.ident} != {get_ident()}
    assert store.role_names() == ["again", "last", "more", "ours", "theirs"]


@pytest.mark.usefixtures("server")
def test_an_apply_waits_beside_the_event_loop_for_a_decision(
    store: AuthStore, backend: FeedBackend, theirs: AuthStore, server: Server
) -> None:
    """A load, of which the loop would have to wait for a thread that decides."""
    deciding, decided = Event(), Event()

    def decide(state: AuthState) -> list[Record]:
        deciding.set()
        assert decided.wait(10)
        return list(changes.add_role(state, "ours"))

    changing = Thread(target=store.change, args=(decide,))
    changing.start()
    assert deciding.wait(10)
    theirs.change(changes.add_role, "theirs")
    ticks = 0

    async def turn() -> None:
        nonlocal ticks
        for _ in range(20):
            with pytest.raises(StoreLockedError):
                store.refresh()
            ticks += 1
            await asyncio.sleep(0)

    server.do(turn())
    assert ticks == 20
    decided.set()
    changing.join()
    assert store.role_names() == ["ours", "theirs"]
    assert_same(store, Scratch(backend))


def test_a_part_of_what_another_worker_knows_is_not_answered_from(
    store: AuthStore, backend: FeedBackend, theirs: AuthStore, log: Log
) -> None:
    backend.is_live = False
    for role in ("1", "2"):
        theirs.change(changes.add_role, role)
    backend.known_to_others = log.head
    for delivered, roles in ((log.commits[-2][0], ["1"]), (log.head, ["1", "2"])):
        with pytest.raises(StoreLockedError, match="another worker knows a later change"):
            store.basis()
        backend.deliver(delivered)
        if delivered != log.head:
            with pytest.raises(StoreLockedError, match="another worker knows a later change"):
                store.basis()
        else:
            store.basis()
        assert store.role_names() == roles


# What is applied belongs to the state that it was asked for.


def test_what_was_found_is_not_applied_to_a_later_state(
    store: AuthStore, backend: FeedBackend, theirs: AuthStore
) -> None:
    """A thread found a change; the event loop applies that and a later one before it."""
    found = backend.changes

    def changed(after: int, *, wait: bool = True) -> tuple[int, list[Record]] | None:
        result = found(after, wait=wait)
        if wait:
            backend.changes = found  # type: ignore[method-assign]
            theirs.change(changes.delete_role, "1")
            assert store.basis().state.roles == {}
        return result

    theirs.change(changes.add_role, "1")

    backend.changes = changed  # type: ignore[method-assign]
    store.change(changes.add_role, "2")
    assert store.role_names() == ["2"]
    assert_same(store, Scratch(backend))


def test_what_was_found_is_completed_from_what_is_here(
    store: AuthStore, backend: FeedBackend, theirs: AuthStore
) -> None:
    """A thread found two changes; the event loop applies the first of them before it."""
    found = backend.changes
    calls = 0

    def changed(after: int, *, wait: bool = True) -> tuple[int, list[Record]] | None:
        nonlocal calls
        if wait:
            calls += 1
            assert "1" in store.basis().state.roles
            theirs.change(changes.add_role, "2")
        return found(after, wait=wait)

    theirs.change(changes.add_role, "1")
    backend.changes = changed  # type: ignore[method-assign]
    store.change(changes.add_role, "3")
    assert (calls, store.role_names()) == (1, ["1", "2", "3"])
    assert_same(store, Scratch(backend))


@pytest.mark.parametrize("way", ["feed", "replaced"])
def test_a_change_loads_what_it_cannot_follow(
    store: AuthStore, backend: FeedBackend, theirs: AuthStore, log: Log, way: str
) -> None:
    theirs.change(changes.add_role, "r")
    if way == "feed":
        backend.reaches_back_to = log.head
    else:
        backend.replaced = ReplacedError()
    with held(backend, "changes", partial(store.change, changes.delete_role, "r")):
        # A thread is to load it for the event loop, and waits for its turn.
        with pytest.raises(StoreLockedError):
            store.basis()
        before = backend.loads
    refreshed(store)
    assert (store.role_names(), backend.loads) == ([], before + 1)
    assert_same(store, Scratch(backend))


def test_an_own_commit_does_not_take_a_later_one_back(
    store: AuthStore, backend: FeedBackend, theirs: AuthStore
) -> None:
    """The feed delivers it, and what came after it, before ``commit`` returns."""
    with held(backend, "committed", partial(store.change, changes.add_user, "u", b"first")):
        theirs.change(changes.change_password, "u", b"second")
        assert store.basis().state.users["u"].password_hash == b"second"
    assert store.user("u").password_hash == b"second"
    assert_same(store, Scratch(backend))


def test_the_own_revision_is_that_of_the_own_change(
    store: AuthStore, backend: FeedBackend, theirs: AuthStore
) -> None:
    seen: list[int] = []

    def change() -> None:
        store.change(changes.add_user, "u", b"first")
        seen.append(store.own_revision)

    with held(backend, "committed", change):
        theirs.change(changes.change_password, "u", b"second")
        store.refresh()
    assert (seen, store.revision) == ([2], 3)
    # Of a change of nothing, it is that of the state it was decided on.
    store.change(lambda _: [])
    assert store.own_revision == 3


def test_nothing_is_applied_during_a_load(
    store: AuthStore, backend: FeedBackend, theirs: AuthStore
) -> None:
    with held(backend, "load", store.load):
        theirs.change(changes.add_role, "r")
        with pytest.raises(StoreLockedError):
            store.refresh()
        assert store.role_names() == []
    assert refreshed(store).roles.keys() == {"r"}


# There is a state only of what was read.


def test_there_is_no_state_before_the_first_load(log: Log, clock: Clock) -> None:
    backend = FeedBackend(log, clock)
    store = AuthStore(backend, clock)
    for ask in (
        lambda: store.state,
        lambda: store.enabled,
        lambda: store.user("u"),
        store.user_names,
        store.refresh,
        store.basis,
    ):
        hook = backend.hooks["load"] = Held()
        with pytest.raises(StoreLockedError, match="the store at the log is being read; try again"):
            ask()
        hook.let_go()
        del backend.hooks["load"]
        if ask in (store.refresh, store.basis):
            break
    assert refreshed(store) is store.state


@pytest.mark.bad_input(70)
def test_a_store_that_is_not_there_is_not_an_empty_one(clock: Clock) -> None:
    log = Log(is_initialised=False)
    store = AuthStore(FeedBackend(log, clock), clock)
    with pytest.raises(NotInitialisedError):
        store.load()
    with pytest.raises(NotInitialisedError):
        store.enabled  # noqa: B018
    with pytest.raises(NotInitialisedError):
        store.change(changes.add_role, "r")
    for _ in range(3):
        with pytest.raises(NotInitialisedError):
            refreshed(store)
        with pytest.raises(NotInitialisedError):
            store.enabled  # noqa: B018
    assert not log.commits
    log.append([])
    while True:
        try:
            store.refresh()
            break
        except StoreUnavailableError:
            Event().wait(0.001)
    assert store.user_names() == []


def attempt(store: AuthStore) -> None:
    """Have everything loaded beside, as soon as that is tried again."""
    while True:
        with suppress(StoreError, StoreUnavailableError):
            store.basis()
            return
        Event().wait(0.001)


def test_a_failed_load_is_said_until_one_succeeds(
    store: AuthStore, backend: FeedBackend, theirs: AuthStore, log: Log
) -> None:
    def fail() -> None:
        raise StoreError("it is damaged; restore it")

    theirs.change(changes.add_role, "r")
    backend.reaches_back_to = log.head
    backend.hooks["load"] = fail
    for _ in range(3):
        with pytest.raises(StoreError, match="it is damaged"):
            refreshed(store)
    # While the next attempt is made it may be good again, and is worth a moment.
    with (
        held(backend, "load", partial(attempt, store)),
        pytest.raises(StoreLockedError, match="before that: it is damaged") as caught,
    ):
        store.basis()
    assert isinstance(caught.value.__cause__, StoreError)
    while "r" not in store.state.roles:
        try:
            store.refresh()
        except (StoreError, StoreLockedError):
            Event().wait(0.001)
    assert_same(store, Scratch(backend))
    # That is over.
    theirs.change(changes.add_role, "s")
    backend.reaches_back_to = log.head
    with pytest.raises(StoreLockedError):
        store.basis()


@pytest.mark.parametrize("way", ["feed", "own change", "load"])
def test_a_state_that_was_not_wholly_applied_is_not_used(
    store: AuthStore, backend: FeedBackend, log: Log, way: str
) -> None:
    basis = store.basis()
    unknown = [Record("role", b"r", b""), Record("quota", b"q", b""), Record("role", b"s", b"")]
    if way == "own change":
        # It is stored, whatever becomes of this process.
        store.change(lambda _: unknown)
    else:
        log.append(unknown)
    if way == "load":
        with pytest.raises(StoreError, match="'quota', which this version does not know"):
            store.load()
    for _ in range(3):
        with pytest.raises(StoreError, match="'quota', which this version does not know"):
            refreshed(store)
    with pytest.raises(StoreError, match="'quota'"):
        store.change(changes.add_role, "t")
    if way != "load":
        with pytest.raises(BasisLostError):
            store.confirm_unchanged(basis)
    # The newer version takes it back.
    log.append([Record("quota", b"q", None)])
    log.commits[:] = [(at, [r for r in rs if r.kind != "quota"]) for at, rs in log.commits]
    while True:
        try:
            store.refresh()
            break
        except (StoreError, StoreLockedError):
            Event().wait(0.001)
    assert store.role_names() == ["r", "s"]


def test_a_lost_history_is_loaded_and_reported(
    store: AuthStore, backend: FeedBackend, log: Log
) -> None:
    seen: list[tuple[AuthState, AuthState]] = []
    store.on_replaced = lambda before, after: seen.append((before, after))
    store.change(changes.add_role, "lost")
    before = store.state
    log.commits[-1:] = [(log.head, [])]
    backend.replaced = ReplacedError()
    assert refreshed(store).roles == {}
    assert seen == [(before, store.state)]
    log.commits[-1:] = [(log.head, [])]
    backend.replaced = ReplacedError()
    store.change(changes.add_role, "new")
    assert len(seen) == 2
    assert store.role_names() == ["new"]
