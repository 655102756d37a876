"""What a server answers from a store in etcd, as ``AuthStore`` sees it."""

import threading
from collections.abc import Callable, Iterator

import pytest

from tests.fake_etcd import Deliver, FakeClient, FakeEtcd, away
from tests.support import wait_until
from webhook.backends.etcd import EtcdBackend, boottime
from webhook.etcd.values import TxnAnswer
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import (
    NotInitialisedError,
    OutcomeUnknownError,
    StoreError,
    StoreStaleError,
    StoreUnavailableError,
)
from webhook.rbac.records import AuthMeta, meta_record
from webhook.rbac.state import AuthState


class Replicas:
    """Stores of several servers on one prefix of an etcd in memory."""

    def __init__(self) -> None:
        self.etcd = FakeEtcd()
        self._opened: list[AuthStore] = []

    def initialise(self) -> None:
        backend = EtcdBackend(self.etcd.client(), "/leeway", follow=False, writer="init/1")
        assert backend.initialise([meta_record(AuthMeta(enabled=True))])

    def open(self, *, max_staleness: float = 3.0) -> tuple[AuthStore, FakeClient]:
        client = self.etcd.client()
        backend = EtcdBackend(
            client, "/leeway", follow=True, writer="a/1", max_staleness=max_staleness
        )
        self._opened.append(AuthStore(backend, boottime))
        return self._opened[-1], client

    def close(self) -> None:
        for store in self._opened:
            store.close()


@pytest.fixture
def replicas() -> Iterator[Replicas]:
    replicas = Replicas()
    yield replicas
    replicas.close()


def answers(store: AuthStore) -> AuthState | None:
    """Return the state that an answer rests on now, None if there is no answer."""
    try:
        return store.basis().state
    except (StoreUnavailableError, StoreError):
        return None


def refused(store: AuthStore) -> Exception:
    """Return why there is no answer, once it is known."""
    found: list[Exception] = []

    def is_known() -> bool:
        try:
            store.basis()
        except (StoreUnavailableError, StoreError) as error:
            found[:] = [error]
        return bool(found) and "is being read" not in str(found[0])

    wait_until(is_known)
    return found[0]


def test_an_empty_prefix_is_never_answered_from(replicas: Replicas) -> None:
    store, _ = replicas.open()
    assert isinstance(refused(store), NotInitialisedError)
    with pytest.raises(NotInitialisedError):
        _ = store.state
    with pytest.raises(NotInitialisedError):
        store.change(changes.add_user, "ann")
    # It becomes ready by itself.
    replicas.initialise()
    wait_until(lambda: answers(store) is not None)
    assert store.state.meta.enabled


@pytest.mark.parametrize("what", ["head", "prefix", "another"])
def test_a_store_that_is_gone_is_never_answered_from(replicas: Replicas, what: str) -> None:
    replicas.initialise()
    store, _ = replicas.open()
    store.load()
    assert answers(store) is not None
    if what == "head":
        replicas.etcd.delete(b"/leeway/v1/head")
    else:
        replicas.etcd.delete(b"/leeway/", b"/leeway0")
    if what == "another":
        replicas.initialise()
    wait_until(lambda: answers(store) is None)
    for _ in range(20):
        assert answers(store) is None
    assert "start this process again" in str(refused(store))
    with pytest.raises(StoreUnavailableError, match="start this process again"):
        store.change(changes.add_user, "ann")


def test_what_cannot_be_proven_is_not_answered(replicas: Replicas) -> None:
    replicas.initialise()
    store, client = replicas.open(max_staleness=0.5)
    store.load()
    assert answers(store) is not None
    client.is_away = True
    wait_until(lambda: answers(store) is None)
    error = refused(store)
    assert isinstance(error, StoreStaleError)
    assert "/leeway/ in etcd at http://one, http://two" in str(error)
    client.is_away = False
    wait_until(lambda: answers(store) is not None)


def test_a_strict_answer_rests_on_a_read_that_was_sent_after_its_request(
    replicas: Replicas,
) -> None:
    replicas.initialise()
    store, _ = replicas.open()
    store.load()
    other, _ = replicas.open()
    other.load()
    for number in range(10):
        other.change(changes.add_user, f"user{number}")
        since = store.now()
        found: list[AuthState] = []

        def is_there(since: float = since, found: list[AuthState] = found) -> bool:
            try:
                found[:] = [store.basis(since).state]
            except StoreUnavailableError:
                return False
            return True

        wait_until(is_there)
        assert f"user{number}" in found[0].users


def hesitating(started: threading.Event, go_on: threading.Event) -> Callable[[Deliver], TxnAnswer]:
    def fault(deliver: Deliver) -> TxnAnswer:
        started.set()
        assert go_on.wait(20)
        return deliver()

    return fault


def test_a_commit_that_hesitates_holds_up_no_news(replicas: Replicas) -> None:
    replicas.initialise()
    store, client = replicas.open()
    other, _ = replicas.open()
    store.load()
    other.load()
    started, go_on = threading.Event(), threading.Event()
    client.faults.append(hesitating(started, go_on))
    writer = threading.Thread(target=lambda: store.change(changes.add_user, "ann"))
    writer.start()
    assert started.wait(20)
    other.change(changes.add_user, "bob")
    wait_until(lambda: "bob" in (answers(store) or AuthState()).users)
    assert "ann" not in store.state.users
    go_on.set()
    writer.join()
    # It was decided again on what had come first.
    wait_until(lambda: {"ann", "bob"} <= set((answers(store) or AuthState()).users))
    assert store.state.meta.revision == 3


def test_a_change_whose_outcome_is_unknown_is_not_applied(replicas: Replicas) -> None:
    replicas.initialise()
    store, client = replicas.open()
    store.load()
    revision = store.state.revision

    def never(_deliver: Deliver) -> TxnAnswer:
        raise away()

    client.faults.extend([never] * 1000)
    with pytest.raises(OutcomeUnknownError):
        store.change(changes.add_user, "ann")
    assert (store.state.revision, dict(store.state.users)) == (revision, {})
    client.faults.clear()
    store.change(changes.add_user, "ann")
    assert list(store.state.users) == ["ann"]


def test_a_lost_history_is_taken_over_loudly(replicas: Replicas) -> None:
    replicas.initialise()
    store, client = replicas.open()
    other, _ = replicas.open()
    store.load()
    other.load()
    told: list[tuple[AuthState, AuthState]] = []
    store.on_replaced = lambda before, after: told.append((before, after))
    copy = replicas.etcd.copy()
    other.change(changes.add_user, "lost")
    wait_until(lambda: "lost" in (answers(store) or AuthState()).users)
    client.is_away = True
    for watch in client.watches:
        watch.error = away()
    replicas.etcd.put_back(copy)
    third, _ = replicas.open()
    third.change(changes.add_user, "new")  # It has the revision of the lost one.
    client.is_away = False
    wait_until(lambda: "new" in (answers(store) or AuthState()).users)
    assert "lost" not in store.state.users
    assert [("lost" in before.users, "lost" in after.users) for before, after in told] == [
        (True, False)
    ]
    backend = store.backend
    assert isinstance(backend, EtcdBackend)
    assert backend.lost_history(boottime())
