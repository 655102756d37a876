"""Replicas whose threads change, load and answer at once, through feeds that are cut and behind.

Each change grants a role to a user and takes away the one before in one transaction, so that a user
with any other number of roles was seen halfway. Its name is the number of the change.
"""

import asyncio
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from threading import Event, Thread

import pytest

from tests.feed_backend import FeedBackend, Log
from tests.unit.webhook.rbac.follower_parts import Clock, Server, refreshed
from tests.unit.webhook.rbac.store_model import Scratch, assert_same
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import OutcomeUnknownError, StoreUnavailableError
from webhook.rbac.model import User
from webhook.rbac.records import BasisLostError, Record, ReplacedError, user_record
from webhook.rbac.state import AuthState

REPLICAS, WRITERS, CHANGES = 3, 2, 40


@pytest.fixture(autouse=True)
def _switching_threads_all_the_time() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def name_of(state: AuthState) -> int:
    """Return the number that both users carry. Raises AssertionError if they differ."""
    first, second = state.users["a"].roles, state.users["b"].roles
    assert first == second, "half of a change"
    return int(first[0])


def count_up(state: AuthState) -> list[Record]:
    """Give both users the next number."""
    following = str(name_of(state) + 1)
    return [user_record(User(name, b"", (following,), 1)) for name in ("a", "b")]


class Replica:
    """A server with an event loop that answers, and threads that change."""

    def __init__(self, log: Log, clock: Clock, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = clock
        self.backend = FeedBackend(log, clock)
        self.store = AuthStore.loaded(self.backend, clock)
        self.server = Server(self.store)
        self.failures: list[BaseException] = []
        self.answers = 0
        self.made: list[int] = []
        self.unknown = 0
        self.newest = 0
        self.is_done = Event()
        self.backend.hooks = dict.fromkeys(("changes", "load", "commit", "committed"), self._rest)
        self.backend.hooks["committed"] = self._lose

    def _rest(self) -> None:
        if self.random.random() < 0.3:
            Event().wait(self.random.random() / 500)

    def _lose(self) -> None:
        self._rest()
        if self.random.random() < 0.1:
            raise OutcomeUnknownError("it is not known; look before you repeat it")

    def start(self) -> list[Thread]:
        threads = [Thread(target=self._guard, args=(self._write,)) for _ in range(WRITERS)]
        threads.append(Thread(target=self._guard, args=(self._ask_in_thread,)))
        threads.append(Thread(target=self._guard, args=(self._trouble,)))
        threads.append(Thread(target=self._guard, args=(self._answer_on_loop,)))
        for thread in threads:
            thread.start()
        return threads

    def _guard(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self.failures.append(error)
            self.is_done.set()

    def _write(self) -> None:
        for _ in range(CHANGES):
            if self.is_done.is_set():
                return
            decided: list[int] = []

            def decide(state: AuthState, decided: list[int] = decided) -> Iterable[Record]:
                decided.append(name_of(state) + 1)
                return count_up(state)

            try:
                self.store.change(decide)
            except OutcomeUnknownError:
                self.unknown += 1
            except StoreUnavailableError:
                continue
            else:
                self.made.append(decided[-1])
                # The own change is in the next answer, here and in every thread.
                with suppress(StoreUnavailableError):
                    state = self.store.basis().state
                    with state.lock:  # The loop may be applying a later one.
                        assert name_of(state) >= decided[-1]

    def _answer_on_loop(self) -> None:
        async def answer() -> None:
            while not self.is_done.is_set():
                for _ in range(20):
                    with suppress(StoreUnavailableError, BasisLostError):
                        basis = self.store.basis()
                        # Nothing is applied while the loop is busy here.
                        before, revision = name_of(basis.state), basis.state.revision
                        assert revision == basis.revision
                        assert before == name_of(basis.state)
                        self.store.confirm(basis)
                        assert before >= self.newest, "it went back"
                        self.newest = before
                        self.answers += 1
                await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(answer(), self.server.loop).result(120)

    def _ask_in_thread(self) -> None:
        while not self.is_done.is_set():
            with suppress(StoreUnavailableError, BasisLostError):
                basis = self.store.basis()
                first = basis.state.users["a"].roles
                second = basis.state.users["b"].roles
                self.store.confirm_unchanged(basis)
                assert first == second, "half of a change"

    def _trouble(self) -> None:
        while not self.is_done.is_set():
            Event().wait(self.random.random() / 100)
            match self.random.randrange(5):
                case 0:
                    self.backend.is_live = not self.backend.is_live
                case 1:
                    self.backend.reaches_back_to = self.backend.log.head
                case 2:
                    self.backend.replaced = ReplacedError()
                case 3:
                    self.clock.now += 1.0
                case 4:
                    with suppress(StoreUnavailableError):
                        self.store.load()

    def close(self) -> None:
        self.server.close()
        self.store.close()


@pytest.fixture
def replicas(log: Log, clock: Clock, seed: int) -> Iterator[list[Replica]]:
    log.append([*changes.add_role(AuthState(), "0"), *count_from_nothing()])
    found = [Replica(log, clock, seed * REPLICAS + number) for number in range(REPLICAS)]
    yield found
    for replica in found:
        replica.close()


@pytest.mark.parametrize("seed", range(2))
def test_replicas_under_stress(log: Log, replicas: list[Replica]) -> None:
    running = [replica.start() for replica in replicas]
    for threads in running:
        for writer in threads[:WRITERS]:
            writer.join()
    for replica, threads in zip(replicas, running, strict=True):
        replica.is_done.set()
        for thread in threads:
            thread.join()
    for replica in replicas:
        assert not replica.failures
        replica.backend.hooks.clear()
        replica.backend.is_live = True
        replica.store.change(lambda _: [])
        assert_same(replica.store, Scratch(replica.backend))
        assert replica.answers > 20
    made = [number for replica in replicas for number in replica.made]
    unknown = sum(replica.unknown for replica in replicas)
    # Every acknowledged change was made once, and each of the others once or never.
    assert len(set(made)) == len(made) > 50
    last = name_of(refreshed(replicas[0].store))
    assert len(made) + unknown >= last >= len(made)
    assert last == len(log.commits) - 2


def count_from_nothing() -> list[Record]:
    return [user_record(User(name, b"", ("0",), 1)) for name in ("a", "b")]
