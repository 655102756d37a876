"""Keyrings and their folder."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys.errors import InvalidKeyError, KeyFileError, KeyScheduleError, UnusableKeyError
from keys.files import create_file, replace_file
from keys.folder import load_keyring
from keys.folder_changes import generate_key
from keys.keyring import Keyring, KeyState, ScheduledKey
from keys.pem import private_key_pem
from tests.support import JSONObject, as_json, signing_key

STATES = list(KeyState)


def scheduled(name: str, state: KeyState, *, private: bool = True) -> ScheduledKey:
    key = signing_key("ES256", name)
    return ScheduledKey(key.verification_key, key if private else None, state, 0)


def test_states_decide_what_a_key_does() -> None:
    keyring = Keyring(tuple(scheduled(state.value, state) for state in STATES))
    kid = {state: signing_key("ES256", state.value).verification_key.kid for state in STATES}
    assert keyring.signing_key().verification_key.kid == kid[KeyState.ACTIVE]
    assert [key.kid for key in keyring.verification_keys()] == [
        kid[KeyState.ACTIVE], kid[KeyState.VERIFY_ONLY],
    ]  # fmt: skip
    assert [key.kid for key in keyring.published_keys()] == [
        kid[KeyState.ACTIVE], kid[KeyState.PENDING], kid[KeyState.VERIFY_ONLY],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        pytest.param(
            [scheduled("a", KeyState.ACTIVE), scheduled("a", KeyState.RETIRED)],
            "same kid",
            id="one-kid-twice",
        ),
        pytest.param(
            [scheduled("a", KeyState.ACTIVE), scheduled("b", KeyState.ACTIVE)],
            "2 signing keys are active",
            id="two-active",
        ),
        pytest.param(
            [scheduled("a", KeyState.ACTIVE, private=False)], "no private key", id="public-active"
        ),
    ],
)
def test_keys_that_cannot_be_together(keys: list[ScheduledKey], why: str) -> None:
    with pytest.raises(KeyScheduleError, match=why):
        Keyring(tuple(keys))


@pytest.mark.parametrize("state", [s for s in STATES if s is not KeyState.ACTIVE])
def test_only_an_active_key_signs(state: KeyState) -> None:
    with pytest.raises(KeyScheduleError, match="leeway keys generate"):
        Keyring((scheduled("a", state),)).signing_key()
    with pytest.raises(KeyScheduleError):
        Keyring().signing_key()


def test_a_new_key_is_active_only_without_another_active_key() -> None:
    first = Keyring().with_new_key(signing_key("ES256", "a"), 5)
    assert [(key.state, key.since) for key in first.keys] == [(KeyState.ACTIVE, 5)]
    second = first.with_new_key(signing_key("ES256", "b"), 6)
    assert [key.state for key in second.keys] == [KeyState.ACTIVE, KeyState.PENDING]
    assert len(first.keys) == 1


def test_generated_keys_are_found_again(tmp_path: Path) -> None:
    made = [generate_key(tmp_path, name, 100 + n) for n, name in enumerate(["RS256", "ES256"])]
    assert [key.state for key in made] == [KeyState.ACTIVE, KeyState.PENDING]
    keyring = load_keyring(tmp_path)
    assert [(key.kid, key.state, key.since) for key in keyring.keys] == [
        (key.kid, key.state, key.since) for key in made
    ]
    assert keyring.signing_key().verification_key.kid == made[0].kid
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted([f"{key.kid}.pem" for key in made] + ["schedule.json"])
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def pem_file(folder: Path, name: str, key: str) -> Path:
    path = folder / name
    path.touch(0o600)
    path.write_bytes(private_key_pem(signing_key("ES256", key).private_key))
    return path


def schedule(folder: Path, *entries: JSONObject) -> Path:
    path = folder / "schedule.json"
    path.touch(0o600)
    path.write_bytes(as_json({"keys": list(entries)}))
    return path


def entry(key: str, file: str, state: str = "active", since: object = 1) -> JSONObject:
    kid = signing_key("ES256", key).verification_key.kid
    return {"kid": kid, "file": file, "state": state, "since": since}


def test_one_file_without_schedule_is_active(tmp_path: Path) -> None:
    pem_file(tmp_path, "a.pem", "a")
    assert load_keyring(tmp_path).keys[0].state is KeyState.ACTIVE


def test_copied_key_only_verifies(tmp_path: Path) -> None:
    pem_file(tmp_path, "a.pem", "a")
    schedule(tmp_path, entry("a", "a.pem"))
    pem_file(tmp_path, "b.pem", "b")
    keyring = load_keyring(tmp_path)
    assert keyring.signing_key().verification_key.kid == entry("a", "")["kid"]
    assert {key.state for key in keyring.keys} == {KeyState.ACTIVE, KeyState.VERIFY_ONLY}


def test_several_files_without_schedule_are_refused(tmp_path: Path) -> None:
    # A retired key among them would verify again.
    for name in "ab":
        pem_file(tmp_path, f"{name}.pem", name)
    with pytest.raises(KeyScheduleError, match=r"schedule\.json is missing"):
        load_keyring(tmp_path)


def test_schedule_that_names_a_file_twice_is_refused(tmp_path: Path) -> None:
    pem_file(tmp_path, "a.pem", "a")
    schedule(tmp_path, entry("a", "a.pem", "retired"), entry("a", "a.pem"))
    with pytest.raises(KeyScheduleError, match="names a file twice"):
        load_keyring(tmp_path)


def test_public_key_alone_only_verifies(tmp_path: Path) -> None:
    key = signing_key("ES256").verification_key
    path = tmp_path / "public.pem"
    path.touch(0o600)
    path.write_bytes(key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (loaded,) = load_keyring(tmp_path).keys
    assert (loaded.kid, loaded.state, loaded.signing_key) == (key.kid, KeyState.VERIFY_ONLY, None)


def test_the_file_of_a_retired_key_can_be_missing(tmp_path: Path) -> None:
    pem_file(tmp_path, "a.pem", "a")
    schedule(tmp_path, entry("a", "a.pem"), entry("b", "b.pem", "retired"))
    assert len(load_keyring(tmp_path).keys) == 1


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        pytest.param([entry("a", "a.pem"), entry("b", "b.pem")], "b.pem is missing", id="missing"),
        pytest.param([entry("b", "a.pem")], "expects", id="another-key"),
        pytest.param([entry("a", "a.pem", "sleeping")], "not a key schedule", id="state"),
        pytest.param([entry("a", "a.pem", since="now")], "not a key schedule", id="since"),
        pytest.param([entry("a", "a.pem") | {"x": 1}], "not a key schedule", id="unknown-field"),
        pytest.param([{}], "not a key schedule", id="empty-entry"),
    ],
)
def test_schedule_that_contradicts_the_files(
    entries: list[JSONObject], why: str, tmp_path: Path
) -> None:
    pem_file(tmp_path, "a.pem", "a")
    schedule(tmp_path, *entries)
    with pytest.raises((KeyFileError, KeyScheduleError), match=why) as raised:
        load_keyring(tmp_path)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize("text", [b"{", b"[]", b"null", b'{"keys":[],"keys":[]}', b"   "])
def test_schedule_that_is_damaged(text: bytes, tmp_path: Path) -> None:
    pem_file(tmp_path, "a.pem", "a")
    path = schedule(tmp_path)
    path.write_bytes(text)
    with pytest.raises(InvalidKeyError) as raised:
        load_keyring(tmp_path)
    assert str(path) in str(raised.value)


def test_no_key_is_made_for_an_algorithm_not_served(tmp_path: Path) -> None:
    with pytest.raises(UnusableKeyError):
        generate_key(tmp_path, "HS256", 0)
    assert list(tmp_path.iterdir()) == []


def _generate(folder: Path) -> None:
    generate_key(folder, "ES256", 7)


def test_two_processes_make_keys_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_generate, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    states = sorted(key.state for key in load_keyring(tmp_path).keys)
    assert states == ["active", "pending", "pending"]
    assert len(json.loads((tmp_path / "schedule.json").read_bytes())["keys"]) == 3


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777], ids=oct)
def test_files_are_written_completely_and_private(umask: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    before = os.umask(umask)
    try:
        assert create_file(path, b"one")
        assert not create_file(path, b"two")
        assert path.read_bytes() == b"one"
        replace_file(path, b"three")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"three"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(path, b"data")
    assert not create_file(path, b"data")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
