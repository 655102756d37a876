"""A folder whose keys have moved to a store: it verifies, and signs nothing."""

import json
import logging
from pathlib import Path

import pytest

import keys.folder_changes
from keys.errors import KeyScheduleError
from keys.folder import SCHEDULE_FILE, load_keyring
from keys.folder_changes import KeyFolder, generate_key, locked_folder, retire, rotate
from keys.folder_watch import KeyFolderWatcher
from keys.keyring import Keyring
from keys.rotation import RotationPolicy

DAY = 86400
T = 1_800_000_000
POLICY = RotationPolicy(jwks_max_age=3600, token_seconds=DAY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with an active and a pending key."""
    generate_key(tmp_path, "ES256", T)
    rotate(tmp_path, POLICY, T)
    return tmp_path


def private_files(folder: Path) -> int:
    return sum(b"PRIVATE" in path.read_bytes() for path in folder.glob("*.pem"))


def move_away(folder: Path) -> Keyring:
    with locked_folder(folder, T) as opened:
        before = opened.keyring
        opened.move_away("etcd")
    return before


def move_back(folder: Path, keyring: Keyring) -> None:
    with locked_folder(folder, T) as opened:
        opened.copy_back(keyring)
        opened.move_back(keyring)


def test_keys_that_have_moved_sign_nothing_and_verify(folder: Path) -> None:
    before = move_away(folder)
    after = load_keyring(folder)
    with pytest.raises(
        KeyScheduleError, match=r"moved to the etcd store.*keys\.store: etcd"
    ) as why:
        after.signing_key()
    assert "leeway keys move --to folder" in str(why.value)
    assert [key.kid for key in after.verification_keys()] == [
        key.kid for key in before.verification_keys()
    ]
    assert private_files(folder) == 0
    assert json.loads((folder / SCHEDULE_FILE).read_bytes())["movedTo"] == "etcd"


def test_nothing_is_changed_where_the_keys_have_moved(folder: Path) -> None:
    move_away(folder)
    kid = load_keyring(folder).keys[1].kid
    for change in (
        lambda: generate_key(folder, "ES256", T),
        lambda: rotate(folder, POLICY, T, force=True),
        lambda: retire(folder, kid, POLICY, T, force=True),
    ):
        with pytest.raises(KeyScheduleError, match="have moved to the etcd store"):
            change()


def test_a_server_stops_signing_when_the_keys_move(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = [float(T)]
    watcher = KeyFolderWatcher(folder, POLICY, clock=lambda: now[0], steady=lambda: now[0])
    assert watcher.keyring.signing_key()
    move_away(folder)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            now[0] += DAY
            watcher.poll()
    assert "have moved" in watcher.keyring.refusal
    assert watcher.problem() == ""
    assert watcher.step_problem() == ""
    assert watcher.keyring.verification_keys()


def test_keys_come_back_with_their_states(folder: Path) -> None:
    before = move_away(folder)
    move_back(folder, before)
    after = load_keyring(folder)
    assert after.content() == before.content()
    assert private_files(folder) == 2
    assert rotate(folder, POLICY, T + POLICY.publish_seconds).steps


def test_keys_come_to_another_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = move_away(folder)
    other = tmp_path_factory.mktemp("other")
    move_back(other, before)
    assert load_keyring(other).content() == before.content()


def test_a_key_that_was_forgotten_in_the_store_is_forgotten_here(folder: Path) -> None:
    before = move_away(folder)
    left = Keyring(before.keys[:1], before.clock)
    move_back(folder, left)
    assert [key.kid for key in load_keyring(folder).keys] == [before.keys[0].kid]


def test_keys_of_two_places_are_not_mixed(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    generate_key(other, "ES256", T)
    before = move_away(folder)
    with pytest.raises(KeyScheduleError, match="that have not moved"):
        move_back(other, before)


def test_a_move_back_that_was_interrupted(folder: Path) -> None:
    before = move_away(folder)
    with locked_folder(folder, T) as opened:
        opened.copy_back(before)
    # Opened by others meanwhile, which change nothing.
    assert load_keyring(folder).refusal
    assert private_files(folder) == 2
    with pytest.raises(KeyScheduleError):
        rotate(folder, POLICY, T)
    assert private_files(folder) == 2
    move_back(folder, before)
    assert load_keyring(folder).signing_key()


def test_a_move_that_was_interrupted_before_the_private_halves_were_dropped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_folder: KeyFolder, _key: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(keys.folder_changes.KeyFolder, "_drop_private_half", interrupted)
        with pytest.raises(KeyboardInterrupt):
            move_away(folder)
    assert load_keyring(folder).refusal
    move_away(folder)
    assert private_files(folder) == 0
