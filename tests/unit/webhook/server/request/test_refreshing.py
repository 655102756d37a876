"""Waiting for a store beside the event loop, with proofs by a clock that the test sets."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import pytest

from tests.support import until
from tests.unit.webhook.server.aging_store import AgingBackend, AgingStore, Clock
from tests.unit.webhook.server.caller_parts import request_of
from webhook.rbac.auth_tokens import NopTokens
from webhook.rbac.basis import Basis
from webhook.rbac.errors import StoreLockedError, StoreStaleError
from webhook.server.request.caller import Callers
from webhook.server.request.message import settled
from webhook.server.request.refreshing import Refreshing, basis_in_thread, reached
from webhook.server.request.verifier import TokenVerifier
from webhook.token.authenticator import Authenticator
from webhook.token.claims import ClockLeeway


@dataclass
class Strict:
    """A store of which a read is wanted, and callers that wait for it."""

    backend: AgingBackend = field(default_factory=lambda: AgingBackend(Clock()))

    def __post_init__(self) -> None:
        self.store = AgingStore(self.backend)
        self.store.load()
        verifier = TokenVerifier(Authenticator([], ClockLeeway(0, 0, 0)), lambda: 0.0)
        self.callers = Callers(
            self.store, NopTokens(), verifier, "i", (), lambda: 0.0, is_strict=True
        )


def test_with_strict_consistency_a_request_waits_for_a_proof_that_is_younger_than_it() -> None:
    strict = Strict()
    backend = strict.backend
    backend.proof = backend.clock.now - 0.1

    async def run() -> list[Basis | None]:
        requests = [request_of() for _ in range(10)]
        tasks = []
        for request in requests:
            tasks.append(asyncio.create_task(settled(strict.callers.find(request))))
            backend.clock.now += 0.01
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in tasks)
        # A read that was sent between the fifth and the sixth request.
        backend.proof = backend.clock.now - 0.055
        await until(lambda: sum(task.done() for task in tasks) == 5)
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in tasks[5:])
        # One read serves all that wait.
        backend.proof = backend.clock.now
        await asyncio.gather(*tasks)
        return [request.basis for request in requests]

    found = asyncio.run(run())
    assert [basis and basis.state for basis in found] == [strict.store.state] * 10


def test_a_strict_request_is_refused_where_no_proof_comes() -> None:
    strict = Strict()
    strict.backend.proof = strict.backend.clock.now - 0.1
    with pytest.raises(StoreLockedError, match="not known yet"):
        asyncio.run(settled(strict.callers.find(request_of())))


class Looks(AgingBackend):
    """Counts who finds that there is no proof yet."""

    def __init__(self) -> None:
        super().__init__(Clock())
        self.by_task: Counter[asyncio.Task[object] | None] = Counter()

    def wanted(self) -> None:
        self.by_task[asyncio.current_task()] += 1


def test_one_of_all_requests_that_wait_for_a_proof_looks_for_it() -> None:
    backend = Looks()
    strict = Strict(backend)
    backend.proof = backend.clock.now - 0.1

    async def run() -> None:
        tasks = []
        for _ in range(50):
            tasks.append(asyncio.create_task(settled(strict.callers.find(request_of()))))
            backend.clock.now += 0.001
        await until(lambda: backend.by_task.total() >= 200)
        looks = [backend.by_task[task] for task in tasks]
        backend.proof = backend.clock.now
        await asyncio.gather(*tasks)
        assert set(looks) == {0}

    asyncio.run(run())


def test_what_gets_too_old_while_a_request_waits_is_not_waited_for() -> None:
    strict = Strict()
    strict.backend.proof = strict.backend.clock.now - 1

    async def run() -> None:
        waiting = asyncio.create_task(settled(strict.callers.find(request_of())))
        await asyncio.sleep(0.005)
        strict.backend.clock.now += 10
        with pytest.raises(StoreStaleError):
            await waiting

    asyncio.run(run())


@dataclass
class Locked:
    """A backend that is locked for so many looks."""

    times: int

    def __call__(self, _number: int) -> None:
        self.times -= 1
        if self.times >= 0:
            raise StoreLockedError("the store is locked")


def test_a_thread_waits_for_a_basis_as_a_request_does() -> None:
    store = Strict().store
    store.in_between = Locked(5)
    assert basis_in_thread(store).state is store.state
    store.in_between = Locked(10**9)
    with pytest.raises(StoreLockedError):
        basis_in_thread(store)


def test_a_position_is_waited_for_over_a_locked_store() -> None:
    looks = iter([False, False, False, True])
    locked = Locked(2)
    assert asyncio.run(reached(lambda: next(looks), lambda: locked(0)))
    assert locked.times == -1


def test_one_task_looks_for_all() -> None:
    store = Strict().store
    refreshing, locked = Refreshing(store), StoreLockedError("the store is locked")

    async def run() -> list[Basis]:
        return await asyncio.gather(*[refreshing.wait(locked) for _ in range(100)])

    assert len({id(basis.state) for basis in asyncio.run(run())}) == 1
