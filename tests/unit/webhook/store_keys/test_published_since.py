"""Since when a key counts as published: never before replicas can list it, but for minutes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from keys.jws import SigningKey
from keys.keyring import KeyState
from keys.pem import generate_signing_key
from keys.rotation import MARK_SECONDS, StepKind
from tests.memory_backend import MemoryBackend
from tests.unit.webhook.store_keys.replicas_world import (
    BY_HAND,
    DAY,
    POLICY,
    PUBLISH,
    T,
    World,
    states,
)
from webhook.rbac.records import ConflictError, Record
from webhook.store_keys import changes
from webhook.store_keys.changes import Caution, accept, advance, retire, rotate

TRUSTING = Caution(lambda _version: 1000 * DAY, None, is_followed=True)
DUE = POLICY.rotate_every - PUBLISH
HOUR = 3600


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class Slow:
    """A backend in which something happens before the first commit arrives."""

    def __init__(self, backend: MemoryBackend, first: Callable[[], None]) -> None:
        self._backend = backend
        self._first = [first]

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        if self._first:
            self._first.pop()()
        return self._backend.commit(expected, records)


def make_key_after_a_conflict(world: World, _patch: pytest.MonkeyPatch) -> None:
    def lose() -> None:
        world.true += HOUR
        raise ConflictError

    world.backend_of_replicas = Slow(world.backend, lose)


def make_key_slowly(world: World, patch: pytest.MonkeyPatch) -> None:
    real = generate_signing_key

    def slow(algorithm: str) -> SigningKey:
        world.true += HOUR
        return real(algorithm)

    patch.setattr(changes, "generate_signing_key", slow)


@pytest.mark.bad_input(70)
@pytest.mark.parametrize("delay", [make_key_after_a_conflict, make_key_slowly])
def test_a_key_is_published_when_its_making_was_decided_at_last(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    delay: Callable[[World, pytest.MonkeyPatch], None],
) -> None:
    world.true += DUE
    delay(world, monkeypatch)
    taken = advance(world.keys("a"), POLICY, lambda: int(world.true), TRUSTING)
    assert [step.kind for step in taken.steps] == [StepKind.PUBLISH]
    assert world.true == T + DUE + HOUR
    assert world.keyring().keys[-1].since == world.true


@pytest.mark.bad_input(70)
@pytest.mark.parametrize("uptime", [20, MARK_SECONDS + 20], ids=["just-started", "for-long"])
def test_a_commit_that_arrives_an_hour_late_publishes_nothing(world: World, uptime: int) -> None:
    """Meanwhile others answered clients without that key, so they have written something too."""
    world.skip(DUE - MARK_SECONDS - 20)
    world.true = T + DUE - uptime
    other = world.add("b")
    world.pass_time(uptime - 20)
    world.true = T + DUE
    listed: list[float] = []

    def stand_still() -> None:
        while world.true < T + DUE + HOUR:
            world.pass_time(20)
            if len(other.watcher.keyring.published_keys()) > 1 and not listed:
                listed.append(world.true)

    world.backend_of_replicas = Slow(world.backend, stand_still)
    taken = advance(world.keys("slow"), POLICY, lambda: int(world.true), TRUSTING)
    assert taken.steps == []
    (pending,) = (key for key in world.keyring().keys if key.state is KeyState.PENDING)
    assert [pending.since] == listed


@pytest.mark.bad_input(70)
def test_a_pending_key_of_a_backup_waits_again(world: World) -> None:
    """Nobody listed it from when it was retired until the backup was accepted."""
    keys = world.keys("a")
    pending = rotate(keys, BY_HAND, T).steps[0].kid
    backup = keys.store.state.copy().sealed
    retire(keys, pending, BY_HAND, T)
    keys.seen.record("memory", keys.present())
    world.skip(POLICY.rotate_every - 10 * DAY)
    restored = [Record(kind, record_id, value) for (kind, record_id), value in backup.items()]
    keys.store.change(lambda _state: restored)
    accept(keys, int(world.true))
    accepted = world.true
    assert states(world.keyring()) == [KeyState.ACTIVE, KeyState.PENDING]
    assert world.keyring().key(pending).since == accepted
    assert advance(keys, POLICY, lambda: int(accepted) + 11 * DAY, TRUSTING).steps
    assert world.state(pending) is KeyState.ACTIVE
