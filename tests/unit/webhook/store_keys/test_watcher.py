"""A watcher follows the keys of a store, takes steps that are due, and refuses what is wrong."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from keys.errors import KeyScheduleError
from keys.keyring import Keyring, KeyState
from keys.rotation import MARK_SECONDS, StepKind
from tests.memory_backend import MemoryBackend
from tests.unit.webhook.store_keys.replicas_world import (
    A_FIRST,
    B_FIRST,
    BY_HAND,
    DAY,
    KEEP,
    ONLY_A,
    ONLY_B,
    POLICY,
    PUBLISH,
    A,
    B,
    T,
    World,
    states,
)
from webhook.rbac.errors import StoreStaleError, StoreUnavailableError
from webhook.rbac.records import KEY, REPLICA, SCHEDULE, Record
from webhook.store_keys.changes import accept, generate_key, reencrypt, rotate, sealed_of
from webhook.store_keys.contents import SCHEDULE_ID
from webhook.store_keys.replicas import HEARTBEAT_SECONDS, LIVE_SECONDS, replicas_of
from webhook.store_keys.seen import SEEN_FILE, SeenFile


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def verifying(keyring: Keyring) -> list[str]:
    return [key.kid for key in keyring.verification_keys()]


def test_a_step_of_another_replica_is_seen(world: World) -> None:
    taken: list[Keyring] = []
    a = world.add("a", policy=BY_HAND, on_change=taken.append)
    first = a.active
    rotate(world.keys("b"), BY_HAND, T)
    assert states(a.watcher.keyring) == [KeyState.ACTIVE]
    a.watcher.poll()
    assert states(a.watcher.keyring) == [KeyState.ACTIVE, KeyState.PENDING]
    rotate(world.keys("b"), BY_HAND, T, force=True)
    a.watcher.poll()
    assert a.active != first
    assert [states(keyring) for keyring in taken] == [
        [KeyState.ACTIVE, KeyState.PENDING],
        [KeyState.VERIFY_ONLY, KeyState.ACTIVE],
    ]


def test_a_token_with_a_new_key_is_waited_for(world: World) -> None:
    a = world.add("a", policy=BY_HAND)
    key = rotate(world.keys("b"), BY_HAND, T).steps[0].kid
    a.keys.store.refresh()
    a.watcher.catch_up()
    assert key in {key.kid for key in a.watcher.keyring.published_keys()}


def test_steps_are_taken_and_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    a, b = world.add("a"), world.add("b")
    first = a.active
    with caplog.at_level(logging.INFO, "leeway"):
        world.pass_time(MARK_SECONDS)
        world.skip(POLICY.rotate_every - PUBLISH - 700)
        caplog.clear()
        world.pass_time(PUBLISH + 700)
    audited = [r.__dict__["fields"] for r in caplog.records if r.name == "leeway.audit"]
    assert [(line["action"], line["step"], line["outcome"]) for line in audited] == [
        ("keys.rotate", "publish", "done"),
        ("keys.rotate", "activate", "done"),
    ]
    assert a.active == b.active != first
    assert not a.watcher.step_problem()
    # Each restart finds the same, and takes no step.
    assert world.add("c").active == a.active


def test_the_times_are_recorded(world: World) -> None:
    a = world.add("a", policy=BY_HAND)
    before = world.keys().present()
    assert before.keyring.keys[0].until == T + KEEP
    world.pass_time(7200)
    after = world.keys().present()
    assert world.true - after.keyring.clock <= MARK_SECONDS + 20
    until = after.keyring.keys[0].until
    assert until is not None
    assert world.true + KEEP - until <= MARK_SECONDS + 20
    # Once in ten minutes, not with each poll.
    assert after.version - before.version <= 7200 // MARK_SECONDS + 1
    longer = replace(BY_HAND, token_seconds=30 * DAY)
    a.watcher.use(longer)
    assert world.keyring().keys[0].until == int(world.true) + longer.keep_seconds


def test_a_replica_writes_its_record(world: World) -> None:
    a = world.add("a")
    own = a.keys.seen.replica.encode()
    before = a.keys.store.state.sealed[REPLICA, own]
    world.pass_time(HEARTBEAT_SECONDS - 20)
    assert a.keys.store.state.sealed[REPLICA, own] == before
    world.pass_time(40)
    assert a.keys.store.state.sealed[REPLICA, own] != before
    # One that is gone is forgotten.
    world.replicas.clear()
    b = world.add("b")
    world.pass_time(LIVE_SECONDS + HEARTBEAT_SECONDS + 40)
    assert (REPLICA, own) not in b.keys.store.state.sealed


class Tampered:
    """A world in which somebody writes to the store without Leeway."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.store = world.keys("attacker").store

    def value(self, kind: str, record_id: bytes) -> bytes:
        self.store.refresh()
        return self.store.state.sealed[kind, record_id]

    def put(self, kind: str, record_id: bytes, value: bytes | None) -> None:
        self.store.change(lambda _state: [Record(kind, record_id, value)])

    def flip(self, kind: str, record_id: bytes) -> None:
        value = bytearray(self.value(kind, record_id))
        value[len(value) // 2] ^= 1
        self.put(kind, record_id, bytes(value))

    def swap(self, one: bytes, other: bytes) -> None:
        first, second = self.value(KEY, one), self.value(KEY, other)
        self.put(KEY, one, second)
        self.put(KEY, other, first)


@pytest.mark.bad_input(70)
@pytest.mark.parametrize("what", ["flipped", "gone", "empty", "old", "set-back"])
def test_a_schedule_that_cannot_be_checked_changes_nothing_and_stops_signing(
    world: World, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    a, tampered = world.add("a", policy=BY_HAND), Tampered(world)
    old = tampered.value(SCHEDULE, SCHEDULE_ID)
    first = a.active
    rotate(world.keys("b"), BY_HAND, T)
    rotate(world.keys("b"), BY_HAND, T, force=True)
    a.watcher.poll()
    before, signing = a.watcher.keyring, a.active
    assert signing != first
    match what:
        case "flipped":
            tampered.flip(SCHEDULE, SCHEDULE_ID)
        case "gone":
            tampered.put(SCHEDULE, SCHEDULE_ID, None)
        case "empty":
            tampered.put(SCHEDULE, SCHEDULE_ID, b"")
        case _:
            tampered.put(SCHEDULE, SCHEDULE_ID, old)
    with caplog.at_level(logging.ERROR, "leeway"):
        a.watcher.poll()
        a.watcher.poll()
    assert "nothing is signed" in caplog.text
    assert len(caplog.records) == 1
    assert a.watcher.problem() == a.watcher.keyring.refusal != ""
    with pytest.raises(KeyScheduleError):
        a.watcher.keyring.signing_key()
    # A token with another key may be good, so it is not refused.
    with pytest.raises(StoreUnavailableError):
        a.watcher.catch_up()
    # What could be checked last still verifies.
    assert verifying(a.watcher.keyring) == verifying(before)
    # A restart remembers the version, but has no keys that it could check.
    again = world.add("a", policy=BY_HAND)
    assert again.watcher.keyring.verification_keys() == ()
    assert again.watcher.proof() == -inf


@pytest.mark.bad_input(70)
def test_a_watcher_recovers_when_the_schedule_is_restored(world: World) -> None:
    a, tampered = world.add("a", policy=BY_HAND), Tampered(world)
    right = tampered.value(SCHEDULE, SCHEDULE_ID)
    tampered.flip(SCHEDULE, SCHEDULE_ID)
    a.watcher.poll()
    assert a.watcher.problem()
    tampered.put(SCHEDULE, SCHEDULE_ID, right)
    a.watcher.poll()
    assert a.watcher.problem() == ""
    assert a.active


@pytest.mark.bad_input(70)
@pytest.mark.parametrize("what", ["flipped", "gone", "swapped"])
def test_a_private_key_that_cannot_be_opened_signs_nothing_and_is_named(
    world: World, what: str
) -> None:
    a, tampered = world.add("a"), Tampered(world)
    active = a.active
    pending = rotate(world.keys("b"), BY_HAND, T).steps[0].kid
    match what:
        case "flipped":
            tampered.flip(KEY, active.encode())
        case "gone":
            tampered.put(KEY, active.encode(), None)
        case "swapped":
            tampered.swap(active.encode(), pending.encode())
    a.watcher.poll()
    refusal = a.watcher.keyring.refusal
    assert "nothing is signed" in refusal
    assert active in refusal
    assert active in {key.kid for key in a.watcher.keyring.verification_keys()}
    # No step is taken on it, automatically; by hand another key takes over.
    a.watcher.use(replace(POLICY, rotate_every=PUBLISH))
    world.pass_time(PUBLISH + 2 * MARK_SECONDS)
    assert len(a.watcher.keyring.keys) == 2
    assert active in a.watcher.step_problem()
    (step,) = rotate(world.keys("b"), BY_HAND, int(world.true)).steps
    assert step.kind is (StepKind.PUBLISH if what == "swapped" else StepKind.ACTIVATE)


@pytest.mark.bad_input(70)
def test_a_private_key_that_nobody_listed_is_reported(world: World) -> None:
    a, tampered = world.add("a"), Tampered(world)
    tampered.put(KEY, b"stranger", tampered.value(KEY, a.active.encode()))
    a.watcher.poll()
    assert "does not list (stranger)" in a.watcher.step_problem()
    assert a.watcher.keyring.signing_key()
    assert "stranger" not in {key.kid for key in a.watcher.keyring.keys}


@pytest.mark.bad_input(70)
@pytest.mark.parametrize(
    ("encryption", "signs"),
    [
        pytest.param(ONLY_A, True, id="right"),
        pytest.param(B_FIRST, True, id="as-second"),
        pytest.param(ONLY_B, False, id="wrong"),
    ],
)
def test_a_replica_that_starts_with_an_encryption_key(
    world: World, encryption: object, signs: bool
) -> None:
    a = world.add("a", encryption=encryption)
    if signs:
        assert a.active
    else:
        assert a.watcher.problem() == a.watcher.keyring.refusal
        assert f"needs the encryption key {A.id}" in a.watcher.problem()
        assert B.id in a.watcher.problem()
        assert a.watcher.proof() == -inf


@pytest.mark.bad_input(70)
def test_a_replica_whose_encryption_key_was_rotated_away(world: World) -> None:
    a = world.add("a", policy=BY_HAND)
    before = a.watcher.keyring
    world.pass_time(LIVE_SECONDS)
    proof = a.watcher.proof()
    reencrypt(world.keys("b", B_FIRST), int(world.true), force=True)
    world.pass_time(100)
    assert B.id in a.watcher.problem()
    with pytest.raises(KeyScheduleError, match=B.id):
        a.watcher.keyring.signing_key()
    assert verifying(a.watcher.keyring) == verifying(before)
    assert a.watcher.proof() == proof
    # With it, all is well again.
    assert world.add("a", encryption=A_FIRST).active


def test_the_rollout_of_an_encryption_key(world: World) -> None:
    """Second everywhere, first everywhere, reencrypt, remove: every replica signs all the time."""
    a, b = world.add("a"), world.add("b")
    for encryption in (A_FIRST, B_FIRST):
        for name in ("a", "b"):
            world.replicas.pop(0)
            world.add(name, encryption=encryption)
            world.pass_time(HEARTBEAT_SECONDS)
            assert all(replica.watcher.keyring.signing_key() for replica in world.replicas)
    reencrypt(world.keys("command", B_FIRST), int(world.true))
    world.pass_time(60)
    assert all(replica.watcher.keyring.signing_key() for replica in world.replicas)
    for name in ("a", "b"):
        world.replicas.pop(0)
        world.add(name, encryption=ONLY_B)
    for replica in world.replicas:
        replica.watcher.use(replace(POLICY, rotate_every=PUBLISH))
    world.pass_time(PUBLISH + 2 * MARK_SECONDS)
    assert {replica.active for replica in world.replicas}.isdisjoint({a.active, b.active})


@pytest.mark.bad_input(70)
def test_a_key_that_waits_for_a_replica(world: World) -> None:
    world.skip(POLICY.rotate_every - PUBLISH - 60)
    a = world.add("a", encryption=B_FIRST)
    b = world.add("b", encryption=ONLY_A, policy=BY_HAND)
    world.pass_time(2 * MARK_SECONDS)
    assert "publish waits: 1 replica" in a.watcher.step_problem()
    assert states(b.watcher.keyring) == [KeyState.ACTIVE]
    assert a.active == b.active
    # It is gone for good.
    world.replicas.remove(b)
    world.pass_time(LIVE_SECONDS + 120)
    assert a.watcher.step_problem() == ""
    assert states(a.watcher.keyring) == [KeyState.ACTIVE, KeyState.PENDING]


def test_refused_keys(world: World) -> None:
    a = world.add("a", policy=BY_HAND)
    first = a.active
    a.watcher.use(replace(BY_HAND, refused=frozenset({first})))
    with pytest.raises(KeyScheduleError, match=rf"{first} is active, and keys\.refused"):
        a.watcher.keyring.signing_key()
    assert a.watcher.keyring.verification_keys() == ()
    assert a.watcher.problem() == ""
    rotate(world.keys("b"), BY_HAND, T)
    rotate(world.keys("b"), BY_HAND, T, force=True)
    a.watcher.poll()
    assert a.active != first
    assert first not in {key.kid for key in a.watcher.keyring.published_keys()}
    a.watcher.use(BY_HAND)
    assert first in {key.kid for key in a.watcher.keyring.published_keys()}


def test_a_store_without_keys(tmp_path: Path) -> None:
    world = World(tmp_path, with_key=False)
    a = world.add("a")
    with pytest.raises(KeyScheduleError, match="leeway keys generate"):
        a.watcher.keyring.signing_key()
    generate_key(world.keys("b"), "ES256", POLICY, T)
    a.watcher.poll()
    assert a.active


def test_a_store_that_cannot_be_read_yet(world: World, caplog: pytest.LogCaptureFixture) -> None:
    a = world.add("a", is_loaded=False)
    assert "the signing keys cannot be read" in a.watcher.problem()
    assert caplog.records == []  # The first load takes a moment.
    world.pass_time(20)
    assert "the signing keys cannot be read" in caplog.text
    assert a.watcher.proof() == -inf
    assert len(a.watcher.keyring.keys) == 0
    a.keys.store.load()
    a.watcher.poll()
    assert a.watcher.problem() == ""
    assert a.active


def test_the_proof_is_that_of_the_store(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    proven = [5.0]
    monkeypatch.setattr(world.backend, "proven", lambda _revision: proven[0], raising=False)
    a = world.add("a", policy=BY_HAND)
    assert a.watcher.proof() == 5.0
    proven[0] = 9.0
    assert a.watcher.proof() == 9.0
    # The keys have changed, and the watcher has not looked yet.
    rotate(world.keys("b"), BY_HAND, T)
    with pytest.raises(StoreStaleError):
        a.keys.store.refresh()
    proven[0] = 11.0
    assert a.watcher.proof() == 9.0
    a.watcher.poll()
    assert a.watcher.proof() == 11.0


def test_an_accepted_schedule_is_used_by_a_running_server(world: World) -> None:
    a = world.add("a", policy=BY_HAND)
    world.replicas.clear()
    world.true += KEEP + 1
    # It has followed the schedule, so it was not restored.
    a.watcher.poll()
    assert a.active
    world.replicas.clear()
    world.true += KEEP + 1
    b = world.add("b", policy=BY_HAND)
    with pytest.raises(KeyScheduleError, match="leeway keys accept --restored"):
        b.watcher.keyring.signing_key()
    assert b.watcher.keyring.verification_keys()
    accept(world.keys("command"), int(world.true))
    b.watcher.poll()
    assert b.active
    a.watcher.poll()
    assert a.active == b.active


class Full(MemoryBackend):
    """A backend that takes no change while it is full."""

    is_full = False
    commits = 0

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        self.commits += 1
        if self.is_full:
            raise StoreUnavailableError("the store is full")
        return super().commit(expected, records)


def test_a_store_that_takes_nothing_is_asked_once_a_minute(tmp_path: Path) -> None:
    world = World(tmp_path, with_key=False)
    backend = world.backend = world.backend_of_replicas = Full()
    generate_key(world.keys(), "ES256", POLICY, T)
    backend.is_full = True
    world.add("a")
    before = backend.commits
    world.pass_time(300, 0.25)
    assert backend.commits - before <= 2 * 300 / 60  # the record, and the time
    backend.is_full = False
    world.pass_time(61)
    assert len(replicas_of(sealed_of(world.keys().store.state))) == 1


def test_what_was_seen_is_remembered(world: World, tmp_path: Path) -> None:
    a = world.add("a", policy=BY_HAND)
    rotate(world.keys("b"), BY_HAND, T)
    a.watcher.poll()
    again = SeenFile(tmp_path / "a")
    assert again.seen == a.keys.seen.seen
    assert again.seen.version == world.keys("b").present().version
    assert (tmp_path / "a" / SEEN_FILE).stat().st_mode & 0o777 == 0o600


def test_a_data_directory_that_cannot_be_written(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(*_args: object, **_options: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("webhook.store_keys.seen.write_own_file", read_only)
    a = world.add("a", policy=BY_HAND)
    rotate(world.keys("b"), BY_HAND, T)
    a.watcher.poll()
    assert a.keys.seen.seen.version == world.keys("b").present().version > 1
    assert caplog.text.count("remembered in memory only") >= 1
    assert not (tmp_path / "a" / SEEN_FILE).exists()


def test_a_copy_of_a_data_directory_is_another_replica(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first = SeenFile(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert SeenFile(tmp_path / "a").replica == first.replica
    assert SeenFile(tmp_path / "b").replica != first.replica


def test_a_file_that_could_not_be_written_takes_nothing_back(world: World, tmp_path: Path) -> None:
    a, tampered = world.add("a", policy=BY_HAND), Tampered(world)
    old, before = tampered.value(SCHEDULE, SCHEDULE_ID), (tmp_path / "a" / SEEN_FILE).read_bytes()
    rotate(world.keys("b"), BY_HAND, T)
    a.watcher.poll()
    (tmp_path / "a" / SEEN_FILE).write_bytes(before)
    tampered.put(SCHEDULE, SCHEDULE_ID, old)
    for _ in range(3):
        a.watcher.poll()
    assert "was set back" in a.watcher.problem()


@pytest.mark.parametrize("text", [b"{", b'{"replica": 1}', b"[]"])
def test_a_file_of_what_was_seen_that_is_damaged(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / SEEN_FILE
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(Exception, match=rf"{SEEN_FILE} cannot be used"):
        SeenFile(tmp_path)


def test_keys_that_have_moved_to_the_folder_sign_nothing_here(world: World) -> None:
    from webhook.store_keys.contents import changed_records

    keys = world.keys("b")
    stored = keys.present()
    moved = changed_records(
        stored.keyring, stored, sealed_of(keys.store.state), keys.vault(), moved_to="folder"
    )
    keys.store.change(lambda _state: moved)
    a = world.add("a")
    with pytest.raises(KeyScheduleError, match=r"moved from the store to the folder.*keys\.store"):
        a.watcher.keyring.signing_key()
    assert a.watcher.keyring.verification_keys()
    with pytest.raises(KeyScheduleError, match="have moved"):
        rotate(keys, BY_HAND, T, force=True)
