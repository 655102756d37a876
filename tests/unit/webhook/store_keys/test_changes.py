"""Steps of the keys in a store: by hand, automatic, at once by two."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from keys.errors import (
    InvalidKeyError,
    KeyScheduleError,
    MissingEncryptionKeyError,
    RestoredScheduleError,
    UnsafeStepError,
)
from keys.keyring import KeyState
from keys.rotation import MARK_SECONDS, Step, StepKind
from tests.support import signing_key
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
from webhook.rbac.records import KEY, REPLICA, SCHEDULE, Record
from webhook.rbac.state import AuthState
from webhook.store_keys import changes
from webhook.store_keys.changes import (
    CLOCK_AHEAD_SECONDS,
    RESTORED_VERSIONS,
    Caution,
    accept,
    advance,
    first_key_records,
    generate_key,
    reencrypt,
    retire,
    rotate,
    sealed_of,
)
from webhook.store_keys.contents import Vault, changed_records, read_keys
from webhook.store_keys.replicas import Replica, replica_record, replicas_of

TRUSTING = Caution(lambda _version: 1000 * DAY, None, is_followed=True)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def stored_private_keys(world: World) -> set[str]:
    state = world.keys().store.state
    return {record_id.decode() for kind, record_id in state.sealed if kind == KEY}


def test_the_life_of_a_key_by_hand(world: World) -> None:
    keys = world.keys()
    (first,) = world.keyring().keys
    made = rotate(keys, BY_HAND, T + 10)
    second = made.steps[0].kid
    assert made.steps == (Step(StepKind.PUBLISH, second),)
    assert states(world.keyring()) == [KeyState.ACTIVE, KeyState.PENDING]
    assert world.keyring().key(second).verification_key.algorithm == "ES256"
    with pytest.raises(UnsafeStepError, match="wait, or use --force"):
        rotate(keys, BY_HAND, T + 20)
    world.add("a").world.pass_time(PUBLISH + 700, 60)
    taken = T + PUBLISH + 700
    assert rotate(keys, BY_HAND, taken).steps == (Step(StepKind.ACTIVATE, second),)
    assert world.state(first.kid) is KeyState.VERIFY_ONLY
    assert stored_private_keys(world) == {second}
    with pytest.raises(UnsafeStepError):
        retire(keys, first.kid, BY_HAND, taken)
    changed = retire(keys, first.kid, BY_HAND, taken, force=True)
    assert "are refused from now on" in changed.broken
    assert retire(keys, first.kid, BY_HAND, taken).steps == ()
    assert states(world.keyring()) == [KeyState.RETIRED, KeyState.ACTIVE]


def test_a_key_of_each_encryption_key_can_be_used(world: World) -> None:
    kid = generate_key(world.keys("b", B_FIRST), "EdDSA", POLICY, T).kid
    with_both = world.keys("c", A_FIRST).present()
    assert with_both.keyring.key(kid).signing_key
    assert with_both.key_id == A.id
    # A replica without it verifies, and knows why it cannot sign with it.
    found = world.keys("d", ONLY_A).present()
    assert found.keyring.key(kid).signing_key is None
    assert isinstance(found.unopened[kid], MissingEncryptionKeyError)
    assert B.id in str(found.unopened[kid])


@pytest.mark.bad_input(70)
def test_two_that_rotate_at_once_make_one_step(world: World) -> None:
    """The second decides on the state before the first has written, and then again."""
    late = T + POLICY.rotate_every - PUBLISH
    first, second = world.keys("a"), world.keys("b")
    made = advance(first, POLICY, lambda: late, TRUSTING)
    assert [step.kind for step in made.steps] == [StepKind.PUBLISH]
    assert len(stored_private_keys(world)) == 2
    assert advance(second, POLICY, lambda: late, TRUSTING).steps == []
    assert len(stored_private_keys(world)) == 2


@pytest.mark.bad_input(70)
def test_one_of_two_that_write_at_the_same_moment_decides_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = T + POLICY.rotate_every - PUBLISH
    winner, loser = world.keys("a"), world.keys("b")
    real, decided = changed_records, []

    def race(*args: object, **options: object) -> list[Record]:
        records = real(*args, **options)  # type: ignore[arg-type]
        decided.append(records)
        if len(decided) == 1:
            # Between the decision of the one and its commit the other commits.
            advance(winner, POLICY, lambda: late, TRUSTING)
        return records

    monkeypatch.setattr(changes, "changed_records", race)
    taken = advance(loser, POLICY, lambda: late, TRUSTING)
    assert taken.steps == []
    assert states(world.keyring()) == [KeyState.ACTIVE, KeyState.PENDING]
    # The key of the loser was never stored.
    lost = {r.id.decode() for r in decided[0] if r.kind == KEY}
    assert lost
    assert lost.isdisjoint(stored_private_keys(world))


@pytest.mark.bad_input(70)
def test_two_first_keys_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, with_key=False)
    a, b = world.keys("a"), world.keys("b")
    first = generate_key(a, "ES256", POLICY, T)
    second = generate_key(b, "ES256", POLICY, T)
    assert (first.state, second.state) == (KeyState.ACTIVE, KeyState.PENDING)
    assert states(world.keyring()) == [KeyState.ACTIVE, KeyState.PENDING]


def test_the_first_key_of_a_new_store() -> None:
    vault = Vault("5d1e", ONLY_A)
    records = first_key_records({}, vault, signing_key("ES256"), T)
    assert {record.kind for record in records} == {SCHEDULE, KEY}
    sealed = {(r.kind, r.id): r.value for r in records if r.value is not None}
    stored = read_keys(sealed, vault)
    assert stored is not None
    assert stored.keyring.signing_key()
    with pytest.raises(KeyScheduleError, match="has signing keys"):
        first_key_records(sealed, vault, signing_key("ES256"), T)


@pytest.mark.parametrize(
    ("seconds", "force", "allowed"),
    [
        pytest.param(CLOCK_AHEAD_SECONDS, False, True, id="as-far-as-notes-lag"),
        pytest.param(CLOCK_AHEAD_SECONDS + 1, False, False, id="ahead"),
        pytest.param(CLOCK_AHEAD_SECONDS + 1, True, True, id="ahead-by-force"),
        pytest.param(-10 * 365 * DAY, False, True, id="behind"),
    ],
)
def test_a_step_by_hand_on_a_machine_with_another_clock(
    world: World, seconds: int, force: bool, allowed: bool
) -> None:
    keys = world.keys()
    if allowed:
        (step,) = rotate(keys, BY_HAND, T + seconds, force=force).steps
        assert step.kind is StepKind.PUBLISH
        # A clock that is behind makes no wait shorter.
        assert world.keyring().key(step.kid).since >= T
    else:
        with pytest.raises(
            UnsafeStepError, match="this clock is wrong; if it is right, use --force"
        ):
            rotate(keys, BY_HAND, T + seconds)
        with pytest.raises(UnsafeStepError):
            generate_key(keys, "ES256", BY_HAND, T + seconds)
        assert len(world.keyring().keys) == 1


def test_force_for_the_clock_activates_no_key_too_early(world: World) -> None:
    keys = world.keys()
    rotate(keys, BY_HAND, T)
    with pytest.raises(UnsafeStepError, match="may sign from"):
        rotate(keys, BY_HAND, T + CLOCK_AHEAD_SECONDS + 1, force=True)
    assert states(world.keyring()) == [KeyState.ACTIVE, KeyState.PENDING]


@pytest.mark.bad_input(70)
def test_a_schedule_that_nobody_has_kept(world: World) -> None:
    keys, late = world.keys(), T + KEEP + 1
    for change in (
        lambda: rotate(keys, BY_HAND, late, force=True),
        lambda: advance(keys, POLICY, lambda: late, replace(TRUSTING, is_followed=False)),
        lambda: generate_key(keys, "ES256", BY_HAND, late, force=True),
    ):
        with pytest.raises(RestoredScheduleError, match="leeway keys accept --restored"):
            change()
    accept(keys, late)
    assert world.keyring().clock == late
    assert rotate(keys, BY_HAND, late).steps


@pytest.mark.bad_input(70)
def test_a_store_that_was_set_back(world: World) -> None:
    keys = world.keys("a")
    keys.seen.record("memory", keys.present())
    before = keys.store.state.copy().sealed
    pending = rotate(keys, BY_HAND, T).steps[0].kid
    keys.seen.record("memory", keys.present())
    # A backup is restored: the revisions go on.
    back = [Record(kind, record_id, value) for (kind, record_id), value in before.items()]
    gone = Record(KEY, pending.encode(), None)
    keys.store.change(lambda _state: [*back, gone])
    with pytest.raises(RestoredScheduleError, match=r"version 1.*version 2 was in use"):
        keys.present()
    # Also after a restart, and by a command on the same machine.
    with pytest.raises(RestoredScheduleError):
        rotate(world.keys("a"), BY_HAND, T)
    # Somebody writes the same version again.
    rotate(world.keys("another"), BY_HAND, T)
    keys.store.refresh()
    with pytest.raises(RestoredScheduleError, match="is not the one that was in use"):
        keys.present()
    accept(keys, T)
    assert rotate(world.keys("a"), BY_HAND, T + PUBLISH, force=True).steps
    # Every other replica takes it too, whatever it had seen.
    assert world.keys("another").present().version > 1 << 20


def test_a_schedule_that_is_gone(world: World) -> None:
    keys = world.keys("a")
    keys.seen.record("memory", keys.present())
    gone = [Record(kind, record_id, None) for kind, record_id in keys.store.state.sealed]
    keys.store.change(lambda _state: gone)
    with pytest.raises(RestoredScheduleError, match="is gone"):
        generate_key(keys, "ES256", POLICY, T)
    with pytest.raises(KeyScheduleError, match="no signing keys; make one"):
        world.keys("b").present()


@pytest.mark.bad_input(70)
def test_keys_of_another_store(world: World) -> None:
    keys = world.keys("a")
    keys.seen.record("memory", keys.present())
    copied = keys.store.state.copy().sealed
    world.backend.store_id = "another"
    with pytest.raises(InvalidKeyError, match="written for store 'memory', and this is store"):
        keys.present()
    # And a store that has keys of its own, where this machine has used others.
    own = first_key_records({}, Vault("another", ONLY_A), signing_key("ES256"), T)
    gone = [Record(kind, record_id, None) for kind, record_id in copied if kind == KEY]
    keys.store.change(lambda _state: [*gone, *own])
    with pytest.raises(RestoredScheduleError, match="used here so far are those of store 'memory'"):
        keys.present()
    assert world.keys("b").present()
    accept(keys, T)
    assert world.keys("a").present()


def test_reencrypting(world: World) -> None:
    generate_key(world.keys("a"), "ES256", POLICY, T)
    with_both = world.keys("b", B_FIRST)
    before = reencrypt(with_both, T)
    assert before.key_id == A.id
    with pytest.raises(MissingEncryptionKeyError, match=A.id):
        world.keys("c", ONLY_A).present()
    after = world.keys("d", ONLY_B).present()
    assert after.keyring.content() == before.keyring.content()
    assert after.unopened == {}
    version = after.version
    reencrypt(with_both, T)
    assert world.keys("d", ONLY_B).present().version == version


def with_replica(world: World, name: str, *keys: str, wall: int = T) -> None:
    record = replica_record(name, Replica(wall, keys, 1))
    world.keys().store.change(lambda _state: [record])


@pytest.mark.bad_input(70)
def test_steps_wait_for_a_replica_that_could_not_decrypt(world: World) -> None:
    keys, late = world.keys("b", B_FIRST), T + POLICY.rotate_every
    with_replica(world, "ab12", A.id)
    taken = advance(keys, POLICY, lambda: late, TRUSTING)
    assert taken.steps == []
    assert f"publish waits: 1 replica (ab12) cannot decrypt with the encryption key {B.id}" in (
        taken.waiting
    )
    with pytest.raises(UnsafeStepError, match=r"ab12.*--force"):
        rotate(keys, BY_HAND, T)
    with pytest.raises(UnsafeStepError, match=r"ab12.*--force"):
        reencrypt(keys, T)
    # It gets the key, or it is gone.
    assert advance(keys, POLICY, lambda: late, replace(TRUSTING, gone={"ab12"})).steps
    pending = world.keys("b", B_FIRST).present().keyring.keys[-1].kid
    blocked = advance(keys, POLICY, lambda: late + PUBLISH, TRUSTING)
    assert "activate waits" in blocked.waiting
    with_replica(world, "ab12", A.id, B.id)
    (step,) = advance(keys, POLICY, lambda: late + PUBLISH, TRUSTING).steps
    assert step == Step(StepKind.ACTIVATE, pending)


def test_a_replica_that_is_gone_holds_nothing_up_by_hand(world: World) -> None:
    with_replica(world, "ab12", A.id, wall=T - 3600)
    assert reencrypt(world.keys("b", B_FIRST), T).key_id == A.id


def test_a_retired_key_stays_listed_for_a_year(world: World) -> None:
    keys = world.keys()
    pending = rotate(keys, BY_HAND, T).steps[0].kid
    retire(keys, pending, BY_HAND, T)
    advance(keys, POLICY, lambda: T + 20 * DAY, TRUSTING)
    assert world.state(pending) is KeyState.RETIRED
    advance(keys, POLICY, lambda: T + 400 * DAY, TRUSTING)
    assert pending not in {key.kid for key in world.keyring().keys}


def test_how_far_a_note_moves_the_clock(world: World) -> None:
    keys, late = world.keys(), T + 10 * DAY
    caution = Caution(lambda _version: 1200, late, is_followed=True)
    taken = advance(keys, POLICY, lambda: late, caution)
    assert taken.keyring.clock == T + 1200
    assert taken.keyring.keys[0].until == late + KEEP
    assert taken.steps == []
    assert caution.is_late(taken.keyring, POLICY, late)
    assert not replace(caution, clock=None).is_late(taken.keyring, POLICY, late)
    assert MARK_SECONDS < 1200


@pytest.mark.bad_input(70)
@pytest.mark.parametrize("whose", ["record", "schedule"])
def test_private_keys_are_only_sealed(world: World, whose: str) -> None:
    from keys.pem import private_key_pem
    from tests.secret_search import Search, key_secrets, windows_of

    key = world.keys().present().keyring.signing_key()
    search = Search(windows_of(key_secrets(private_key_pem(key.private_key))))
    state: AuthState = world.keys().store.state
    for value in sealed_of(state).values():
        assert search.kinds_in(value) == set()
        assert b"PRIVATE" not in value


@pytest.mark.parametrize(
    ("name", "version"),
    [
        pytest.param(b"f" * 16, 2**64 - 1, id="a version after which there is none"),
        pytest.param(b"f" * 16, -1, id="a negative version"),
        pytest.param(b"\x1b[2J\n", 1, id="a name that does something to a terminal"),
        pytest.param(b"f" * 1000, 1, id="a long name"),
    ],
)
def test_a_record_of_a_replica_that_anybody_could_write_changes_no_version(
    world: World, name: bytes, version: int
) -> None:
    keys = world.keys()
    before = keys.present().version
    forged = Replica(T, ("0" * 16,), version)
    record = Record(REPLICA, name, msgspec.msgpack.encode(forged))
    keys.store.change(lambda _state: [record])
    assert replicas_of(sealed_of(keys.store.state)) == {}
    accept(keys, T)
    assert keys.present().version == before + RESTORED_VERSIONS
