"""Moves between a folder and the store, also those that are interrupted anywhere."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from keys.errors import KeyScheduleError
from keys.folder import load_keyring
from keys.folder_changes import KeyFolder, generate_key, rotate
from keys.keyring import KeyState
from tests.memory_backend import MemoryBackend
from tests.unit.webhook.store_keys.replicas_world import BY_HAND, PUBLISH, T, World, states
from webhook.rbac.errors import StoreUnavailableError
from webhook.rbac.records import KEY
from webhook.store_keys import changes
from webhook.store_keys.changes import KeyStore
from webhook.store_keys.moving import move_to_folder, move_to_store

pytestmark = pytest.mark.bad_input(70)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, with_key=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with an active and a pending key."""
    path = tmp_path / "keys"
    path.mkdir()
    generate_key(path, "ES256", T)
    rotate(path, BY_HAND, T)
    return path


def private_files(folder: Path) -> int:
    return sum(b"PRIVATE" in path.read_bytes() for path in folder.glob("*.pem"))


def private_records(world: World) -> int:
    return sum(kind == KEY for kind, _ in world.keys().store.state.sealed)


def signers(world: World, folder: Path) -> list[str]:
    """Return which of the two places sign."""
    found = []
    if not load_keyring(folder).refusal:
        found.append("folder")
    stored = world.keys().read(world.keys().store.state.sealed)
    if stored is not None and not stored.keyring.refusal:
        found.append("store")
    return found


def test_there_and_back(world: World, folder: Path) -> None:
    before = load_keyring(folder)
    assert move_to_store(world.keys(), folder, BY_HAND, T)
    assert signers(world, folder) == ["store"]
    assert world.keyring().content() == before.content()
    assert world.keyring().keys[0].until == T + BY_HAND.keep_seconds
    assert (private_files(folder), private_records(world)) == (0, 2)
    assert not move_to_store(world.keys(), folder, BY_HAND, T)

    changes.rotate(world.keys(), BY_HAND, T + PUBLISH, force=True)
    assert move_to_folder(world.keys(), folder, T)
    assert signers(world, folder) == ["folder"]
    assert states(load_keyring(folder)) == [KeyState.VERIFY_ONLY, KeyState.ACTIVE]
    assert (private_files(folder), private_records(world)) == (1, 0)
    assert not move_to_folder(world.keys(), folder, T)

    assert move_to_store(world.keys(), folder, BY_HAND, T)
    assert signers(world, folder) == ["store"]
    assert world.keyring().signing_key()


def test_to_another_folder(world: World, folder: Path, tmp_path: Path) -> None:
    before = load_keyring(folder)
    move_to_store(world.keys(), folder, BY_HAND, T)
    other = tmp_path / "other"
    other.mkdir()
    assert move_to_folder(world.keys(), other, T)
    assert load_keyring(other).content() == before.content()
    third = tmp_path / "third"
    third.mkdir()
    generate_key(third, "ES256", T)
    with pytest.raises(KeyScheduleError, match="which is not"):
        move_to_folder(world.keys(), third, T)


def test_keys_of_two_places_are_not_mixed(world: World, folder: Path, tmp_path: Path) -> None:
    changes.generate_key(world.keys(), "ES256", BY_HAND, T)
    with pytest.raises(KeyScheduleError, match="they would be mixed"):
        move_to_store(world.keys(), folder, BY_HAND, T)
    with pytest.raises(KeyScheduleError, match="have not moved"):
        move_to_folder(world.keys(), folder, T)
    assert signers(world, folder) == ["folder", "store"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(KeyScheduleError, match="no active signing key"):
        move_to_store(world.keys(), empty, BY_HAND, T)


def test_a_folder_whose_keys_are_in_no_store(world: World, folder: Path, tmp_path: Path) -> None:
    move_to_store(world.keys(), folder, BY_HAND, T)
    (tmp_path / "another").mkdir()
    another = World(tmp_path / "another", with_key=False)
    with pytest.raises(KeyScheduleError, match="have moved to the etcd store"):
        move_to_store(another.keys(), folder, BY_HAND, T)


class Interrupted(BaseException):
    """The process ends here."""


class Counting:
    """A backend, and a folder, that end the process at their n-th write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ends_at: int, *, after: bool) -> None:
        self.count = 0

        def counted(act: Callable[..., object]) -> Callable[..., object]:
            def write(*arguments: object) -> object:
                self.count += 1
                if self.count == ends_at and not after:
                    raise Interrupted
                result = act(*arguments)
                if self.count == ends_at:
                    raise Interrupted
                return result

            return write

        for kind, name in (
            (MemoryBackend, "commit"),
            (KeyFolder, "write"),
            (KeyFolder, "_drop_private_half"),
        ):
            monkeypatch.setattr(kind, name, counted(getattr(kind, name)))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("ends_at", range(1, 7))
@pytest.mark.parametrize("to", ["etcd", "folder"])
def test_a_move_that_was_interrupted_is_completed(
    world: World, folder: Path, to: str, ends_at: int, after: bool
) -> None:
    before = load_keyring(folder)

    def move(keys: KeyStore) -> bool:
        if to == "etcd":
            return move_to_store(keys, folder, BY_HAND, T)
        return move_to_folder(keys, folder, T)

    if to == "folder":
        move_to_store(world.keys(), folder, BY_HAND, T)
    with pytest.MonkeyPatch.context() as patched:
        Counting(patched, ends_at, after=after)
        with suppress(Interrupted):
            move(world.keys())
    # The key is somewhere, whatever happened; and the same command completes the move.
    assert private_files(folder) + private_records(world) >= 2
    move(world.keys())
    assert signers(world, folder) == ["store" if to == "etcd" else "folder"]
    keyring = world.keyring() if to == "etcd" else load_keyring(folder)
    assert keyring.content() == before.content()
    assert keyring.signing_key()
    assert (private_files(folder), private_records(world)) == ((0, 2) if to == "etcd" else (2, 0))


def test_a_store_that_fails_changes_nothing(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(*_arguments: object) -> int:
        raise StoreUnavailableError("no endpoint answers")

    keys = world.keys()
    monkeypatch.setattr(MemoryBackend, "commit", unavailable)
    with pytest.raises(StoreUnavailableError):
        move_to_store(keys, folder, BY_HAND, T)
    assert load_keyring(folder).signing_key()
    assert private_files(folder) == 2
