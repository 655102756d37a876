"""How long a simple token lives after its last use in any worker, and how often that is written."""

from collections.abc import Callable, Iterable, Sequence
from typing import Concatenate, ParamSpec

import pytest

from tests.memory_backend import MemoryBackend
from tests.support import NOW
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import InvalidAuthTokenError, StoreUnavailableError
from webhook.rbac.records import Record, TokenRecord
from webhook.rbac.simple_tokens import SimpleTokens, TokenUses
from webhook.rbac.state import AuthState

TTL = 300.0
P = ParamSpec("P")


class Backend(MemoryBackend):
    """Counts writes, and can be locked by another process."""

    def __init__(self) -> None:
        super().__init__()
        self.is_locked = False
        self.written: list[Sequence[Record]] = []

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        if self.is_locked:
            raise StoreUnavailableError("locked; try again")
        revision = super().commit(expected, records)
        self.written.append(records)
        return revision


class Worker:
    """A store on a backend that others share, and its tokens."""

    def __init__(self, backend: Backend) -> None:
        self.store = AuthStore.loaded(backend)
        self.uses = TokenUses(self.store)
        self.tokens = SimpleTokens(self.store, self.uses, TTL)

    def log_in(self, name: str, now: float) -> str:
        return self.tokens.assign(self.store.user(name), now)

    def accepts(self, token: str, now: float) -> bool:
        self.store.refresh()
        try:
            return self.tokens.resolve(token, now) == "a"
        except InvalidAuthTokenError:
            return False


@pytest.fixture
def backend() -> Backend:
    made = Backend()
    store = AuthStore.loaded(made)
    store.change(changes.add_user, "a", b"hash")
    store.change(changes.add_user, "b", b"hash")
    return made


@pytest.fixture
def workers(backend: Backend) -> tuple[Worker, Worker]:
    return Worker(backend), Worker(backend)


@pytest.mark.parametrize("used", [1, 2, 28, 29.5, 272, 299, 300])
def test_the_last_use_counts_in_every_worker(workers: tuple[Worker, Worker], used: float) -> None:
    here, there = workers
    token = here.log_in("a", NOW)
    assert here.accepts(token, NOW + used)
    here.uses.write()
    assert there.accepts(token, NOW + used + TTL)
    assert not there.accepts(token, NOW + used + 2 * TTL + 0.1)
    assert not here.accepts(token, NOW + used + TTL + 0.1)


@pytest.mark.parametrize("others", [0, 1])
def test_no_worker_undoes_a_later_use_of_another(
    backend: Backend, workers: tuple[Worker, Worker], others: int
) -> None:
    here, there = workers
    token, *more = (here.log_in("a", NOW) for _ in range(1 + others))
    assert here.accepts(token, NOW + 10)
    assert there.accepts(token, NOW + 20)
    there.uses.write()
    backend.written.clear()
    assert all(here.accepts(other, NOW + 20) for other in more)
    here.uses.write()
    assert [len(records) for records in backend.written] == [1] * others
    assert not here.uses
    assert here.accepts(token, NOW + 20 + TTL)


def test_all_uses_are_one_transaction(backend: Backend, workers: tuple[Worker, Worker]) -> None:
    here, there = workers
    tokens = [here.log_in("a", NOW) for _ in range(50)]
    backend.written.clear()
    for second in range(1, 6):
        for part in (0.0, 0.3, 0.6):
            assert all(here.accepts(token, NOW + second + part) for token in tokens)
        assert len(backend.written) == second - 1
        here.uses.write()
        assert [len(records) for records in backend.written] == [50] * second
    assert not here.uses
    assert all(there.accepts(token, NOW + 5.6 + TTL) for token in tokens)


def test_a_use_that_is_less_than_a_second_later_is_no_reason_to_write(
    backend: Backend, workers: tuple[Worker, Worker]
) -> None:
    here, there = workers
    first, second = here.log_in("a", NOW), here.log_in("a", NOW)
    backend.written.clear()
    assert here.accepts(first, NOW + 0.9)
    here.uses.write()
    assert not backend.written
    # It still counts here.
    assert here.accepts(first, NOW + 0.9 + TTL)
    assert here.accepts(second, NOW + 0.9)
    here.uses.write()
    assert [len(records) for records in backend.written] == [1]
    assert there.accepts(second, NOW + TTL)


def test_a_locked_store_loses_nothing(backend: Backend, workers: tuple[Worker, Worker]) -> None:
    here, there = workers
    token = here.log_in("a", NOW)
    backend.is_locked = True
    for second in (10, 11, 12):
        assert here.accepts(token, NOW + second)
        with pytest.raises(StoreUnavailableError):
            here.uses.write()
    assert len(here.uses) == 1
    backend.is_locked = False
    here.uses.write()
    assert there.accepts(token, NOW + 12 + TTL)


def test_a_use_while_others_are_written_is_not_lost(backend: Backend) -> None:
    worker, token = Worker(backend), ""

    class Busy(AuthStore):
        def change(
            self,
            decide: Callable[Concatenate[AuthState, P], Iterable[Record]],
            *args: P.args,
            **kwargs: P.kwargs,
        ) -> None:
            super().change(decide, *args, **kwargs)
            if token:
                assert worker.accepts(token, NOW + 6)

    worker.store = Busy.loaded(backend)
    worker.uses = TokenUses(worker.store)
    worker.tokens = SimpleTokens(worker.store, worker.uses, TTL)
    token = worker.log_in("a", NOW)
    assert worker.accepts(token, NOW + 5)
    worker.uses.write()
    assert len(worker.uses) == 1
    worker.uses.write()
    assert Worker(backend).accepts(token, NOW + 6 + TTL)


@pytest.mark.parametrize("end", ["user", "password", "auth", "expired"])
@pytest.mark.parametrize("is_here", [True, False])
def test_a_use_restores_no_token(
    backend: Backend, workers: tuple[Worker, Worker], end: str, is_here: bool
) -> None:
    here, there = workers
    token = here.log_in("a", NOW)
    assert here.accepts(token, NOW + 5)
    store = here.store if is_here else there.store
    if end == "user":
        store.change(changes.delete_user, "a")
    elif end == "password":
        store.change(changes.change_password, "a", b"other")
    elif end == "auth":
        store.change(changes.add_role, "root")
        store.change(changes.add_user, "root")
        store.change(changes.grant_role, "root", "root")
        store.change(changes.enable)
        store.change(changes.disable)
    else:
        (here if is_here else there).log_in("b", NOW + 5 + 2 * TTL)
    here.uses.write()
    assert not here.uses
    for worker in (here, there, Worker(backend)):
        assert not worker.accepts(token, NOW + 6)


@pytest.mark.bad_input(54)
def test_a_use_before_the_clock_was_set_back(
    workers: tuple[Worker, Worker],
) -> None:
    here, there = workers
    token = here.log_in("a", NOW)
    assert here.accepts(token, NOW + TTL)
    assert not here.accepts(token, NOW)
    here.uses.write()
    for worker in workers:
        assert not worker.accepts(token, NOW + 1)
    there.log_in("b", NOW + 1)
    for worker in workers:
        assert not worker.accepts(token, NOW + TTL)


def test_an_earlier_use_does_not_replace_a_later_one(workers: tuple[Worker, Worker]) -> None:
    here, there = workers
    token = here.log_in("a", NOW)
    assert here.accepts(token, NOW + 10)
    assert here.accepts(token, NOW + 5)
    here.uses.write()
    assert there.accepts(token, NOW + 10 + TTL)


def test_uses_of_deleted_tokens_are_forgotten_even_if_the_store_is_locked(
    backend: Backend, workers: tuple[Worker, Worker]
) -> None:
    here, there = workers
    for number in range(50):
        now = NOW + number * 3 * TTL
        token = there.log_in("a", now)
        assert here.accepts(token, now + 5)
    assert len(here.uses) == 50
    backend.is_locked = True
    with pytest.raises(StoreUnavailableError):
        here.uses.write()
    assert len(here.uses) == 1


def test_a_token_stays_valid_while_its_use_is_written(backend: Backend) -> None:
    """A request in another thread may look between any two steps."""

    class Watched(dict[bytes, TokenRecord]):
        def pop(self, *arguments: object) -> TokenRecord:
            raise AssertionError(arguments)

        __delitem__ = pop  # type: ignore[assignment]

    worker, elsewhere = Worker(backend), Worker(backend)
    token = worker.log_in("a", NOW)
    elsewhere.store.refresh()
    state: AuthState = elsewhere.store.state
    state.tokens = Watched(state.tokens)
    assert worker.accepts(token, NOW + 5)
    worker.uses.write()
    elsewhere.store.refresh()
    assert [record.used for record in state.tokens.values()] == [NOW + 5]
