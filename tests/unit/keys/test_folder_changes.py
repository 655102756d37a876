"""Steps in the folder of keys: by hand, automatic, and interrupted anywhere."""

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import keys.folder
import keys.folder_changes
from keys.errors import KeyFileError, KeyScheduleError, UnsafeStepError
from keys.folder import folder_stamp, load_keyring, read_folder
from keys.folder_changes import advance, generate_key, retire, rotate
from keys.keyring import KeyState
from keys.pem import parse_public_keys, private_key_pem
from keys.rotation import FORGET_SECONDS, MARK_SECONDS, KeyChange, RotationPolicy, Step, StepKind
from tests.support import as_json, signing_key

DAY = 86400
T = 1_800_000_000
POLICY = RotationPolicy(jwks_max_age=3600, token_seconds=DAY, rotate_every=30 * DAY)
BY_HAND = replace(POLICY, rotate_every=0)
PUBLISH, KEEP = POLICY.publish_seconds, POLICY.keep_seconds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with one active key."""
    generate_key(tmp_path, "ES256", T)
    return tmp_path


def states(folder: Path) -> list[KeyState]:
    return [key.state for key in load_keyring(folder).keys]


def private_files(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.pem") if b"PRIVATE" in path.read_bytes()}


def test_the_life_of_a_key_by_hand(folder: Path) -> None:
    (first,) = load_keyring(folder).keys
    made = rotate(folder, BY_HAND, T + 10)
    second = made.steps[0].kid
    assert made.steps == (Step(StepKind.PUBLISH, second),)
    assert states(folder) == [KeyState.ACTIVE, KeyState.PENDING]
    assert made.keyring.key(second).verification_key.algorithm == "ES256"
    with pytest.raises(UnsafeStepError):
        rotate(folder, BY_HAND, T + 10 + PUBLISH - 1)
    taken = T + 10 + PUBLISH
    assert rotate(folder, BY_HAND, taken).steps == (Step(StepKind.ACTIVATE, second),)
    keyring = load_keyring(folder)
    assert keyring.key(first.kid).state is KeyState.VERIFY_ONLY
    assert keyring.key(first.kid).until == taken + KEEP
    assert keyring.signing_key().verification_key.kid == second
    assert private_files(folder) == {second}
    with pytest.raises(UnsafeStepError):
        retire(folder, first.kid, BY_HAND, taken + KEEP - 1)
    gone = retire(folder, first.kid, BY_HAND, taken + KEEP)
    assert gone.steps == (Step(StepKind.RETIRE, first.kid),)
    assert retire(folder, first.kid, BY_HAND, taken + KEEP).steps == ()
    assert {key.kid for key in load_keyring(folder).verification_keys()} == {second}
    assert advance(folder, BY_HAND, taken + 1000 * DAY).steps == ()


@pytest.mark.parametrize(
    ("act", "broken"),
    [
        (lambda folder, kid: rotate(folder, POLICY, T + 1, force=True), "may refuse the tokens"),
        (lambda folder, kid: retire(folder, kid, POLICY, T + 1, force=True), ""),
    ],
    ids=["activate-early", "retire-pending"],
)
def test_a_forced_step_says_what_it_breaks(
    folder: Path, act: Callable[[Path, str], KeyChange], broken: str
) -> None:
    kid = rotate(folder, POLICY, T).steps[0].kid
    changed = act(folder, kid)
    assert changed.steps[0].kid == kid
    assert broken in changed.broken
    assert bool(broken) is bool(changed.broken)


def test_a_key_retired_by_force_verifies_nothing(folder: Path) -> None:
    (first,) = load_keyring(folder).keys
    rotate(folder, POLICY, T)
    rotate(folder, POLICY, T + PUBLISH)
    changed = retire(folder, first.kid, POLICY, T + PUBLISH, force=True)
    assert "are refused from now on" in changed.broken
    keyring = load_keyring(folder)
    assert keyring.key(first.kid).state is KeyState.RETIRED
    assert first.kid not in {key.kid for key in keyring.published_keys()}
    # The public half stays, so that the step can be taken back.
    assert parse_public_keys((folder / f"{first.kid}.pem").read_bytes(), "")[0].kid == first.kid


def test_automatic_steps_are_taken_when_due(folder: Path) -> None:
    (first,) = load_keyring(folder).keys
    due = T + POLICY.rotate_every
    assert advance(folder, POLICY, due - PUBLISH - 1).steps == ()
    second = advance(folder, POLICY, due - PUBLISH).steps[0].kid
    assert advance(folder, POLICY, due - 1).steps == ()
    assert advance(folder, POLICY, due).steps == (Step(StepKind.ACTIVATE, second),)
    assert advance(folder, POLICY, due).steps == ()
    retired = advance(folder, POLICY, due + KEEP + MARK_SECONDS)
    assert retired.steps == (Step(StepKind.RETIRE, first.kid),)
    forgotten = advance(folder, BY_HAND, due + KEEP + 2 * FORGET_SECONDS)
    assert forgotten.steps == ()
    later = replace(POLICY, rotate_every=10 * FORGET_SECONDS)
    assert advance(folder, later, due + KEEP + 2 * FORGET_SECONDS).steps == (
        Step(StepKind.FORGET, first.kid),
    )
    assert {path.name for path in folder.iterdir()} == {f"{second}.pem", "schedule.json"}


@pytest.mark.parametrize(
    ("algorithm", "expected"), [("", "ES256"), ("RS256", "RS256"), ("EdDSA", "EdDSA")]
)
def test_the_algorithm_of_new_keys(folder: Path, algorithm: str, expected: str) -> None:
    changed = rotate(folder, replace(POLICY, algorithm=algorithm), T)
    assert changed.keyring.key(changed.steps[0].kid).verification_key.algorithm == expected


@pytest.mark.parametrize("algorithm", ["", "EdDSA"])
def test_no_key_is_made_that_must_not_sign(tmp_path: Path, algorithm: str) -> None:
    kid = generate_key(tmp_path, "EdDSA", T).kid
    policy = replace(POLICY, algorithm=algorithm, algorithms=("RS256", "ES256"))
    before = (tmp_path / "schedule.json").read_bytes()
    with pytest.raises(KeyScheduleError, match=r"EdDSA cannot sign here.*RS256, ES256 are allowed"):
        rotate(tmp_path, policy, T, force=True)
    assert (tmp_path / "schedule.json").read_bytes() == before
    assert [key.kid for key in load_keyring(tmp_path).keys] == [kid]


def write_private(path: Path, data: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(data)


def test_a_schedule_of_leeway_0_1_is_read(tmp_path: Path) -> None:
    entries = []
    for name, state in (("a", "active"), ("b", "verify-only"), ("c", "retired")):
        key = signing_key("ES256", name)
        kid = key.verification_key.kid
        write_private(tmp_path / f"{name}.pem", private_key_pem(key.private_key))
        entries.append({"kid": kid, "file": f"{name}.pem", "state": state, "since": T - DAY})
    write_private(tmp_path / "schedule.json", as_json({"keys": entries}))
    (tmp_path / "c.pem").unlink()
    assert [key.until for key in load_keyring(tmp_path).keys] == [None, None]
    keyring = advance(tmp_path, POLICY, T).keyring
    assert keyring.signing_key().verification_key.kid == entries[0]["kid"]
    assert keyring.key(str(entries[0]["kid"])).until == T + KEEP
    # It is unknown what `b` has signed: it is retired by force only, and its file is kept.
    with pytest.raises(UnsafeStepError, match="not known"):
        retire(tmp_path, str(entries[1]["kid"]), POLICY, T + 100 * 365 * DAY)
    assert private_files(tmp_path) >= {"a", "b"}
    # `c` is still known: its file would have no effect if it were restored.
    write_private(tmp_path / "c.pem", private_key_pem(signing_key("ES256", "c").private_key))
    assert load_keyring(tmp_path).key(str(entries[2]["kid"])).state is KeyState.RETIRED


def test_a_step_during_reading_is_seen_completely_or_not_at_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = rotate(folder, POLICY, T).steps[0].kid
    real = keys.folder.load_key
    waiting = [lambda: rotate(folder, POLICY, T + PUBLISH)]

    def load_key(path: Path) -> object:
        if waiting:
            # The schedule has been read, and no key yet.
            waiting.pop()()
        return real(path)

    monkeypatch.setattr(keys.folder, "load_key", load_key)
    keyring = load_keyring(folder)
    assert waiting == []
    assert keyring.signing_key().verification_key.kid == second


class Killed(BaseException):
    """Raised where the process ends."""


WRITES = ("create_file", "replace_file")


@pytest.mark.bad_input(48)
@pytest.mark.parametrize("after", [False, True], ids=["before-the-write", "after-the-write"])
@pytest.mark.parametrize("write", range(8))
def test_a_process_may_end_at_any_write(
    folder: Path, monkeypatch: pytest.MonkeyPatch, write: int, after: bool
) -> None:
    """From the first mark to the first retirement there are eight writes."""
    (first,) = load_keyring(folder).keys
    left = [write]

    def dying(name: str) -> Callable[..., object]:
        real = getattr(keys.folder_changes, name)

        def run(path: Path, *arguments: object) -> object:
            left[0] -= 1
            if left[0] < 0 and not after:
                raise Killed
            result = real(path, *arguments)
            if left[0] < 0:
                raise Killed
            return result

        return run

    due = T + POLICY.rotate_every
    moments = [due - PUBLISH, due, due + KEEP + MARK_SECONDS]
    killed = 0
    published: dict[str, int] = {}
    for now in moments:
        with monkeypatch.context() as patch:
            for name in WRITES:
                patch.setattr(keys.folder_changes, name, dying(name))
            try:
                advance(folder, POLICY, now)
            except Killed:
                killed += 1
                left[0] = 1000
        for attempt in range(2):
            keyring = load_keyring(folder)
            assert sum(key.state is KeyState.ACTIVE for key in keyring.keys) == 1
            signer = keyring.signing_key().verification_key.kid
            assert signer == first.kid or now - published[signer] >= POLICY.jwks_max_age
            assert now > due or first.kid in {key.kid for key in keyring.verification_keys()}
            if not attempt:
                advance(folder, POLICY, now)
        for key in load_keyring(folder).published_keys():
            published.setdefault(key.kid, now)
    assert killed == 1
    keyring = load_keyring(folder)
    assert [key.state for key in keyring.keys] == [KeyState.ACTIVE, KeyState.RETIRED]
    assert private_files(folder) == {keyring.signing_key().verification_key.kid}
    found = read_folder(folder)
    assert found.making == ""
    assert {path.name for path in folder.iterdir()} == {*found.files.values(), "schedule.json"}


def test_files_half_written_by_a_killed_process_are_removed(folder: Path) -> None:
    left = folder / f".{'k' * 43}.pem.123.0a1b2c3d"
    write_private(left, b"-----BEGIN PRIVATE KEY-----")
    advance(folder, POLICY, T)
    assert not left.exists()


def test_a_file_that_is_not_the_key_being_made_is_refused(folder: Path) -> None:
    schedule = folder / "schedule.json"
    text = json.loads(schedule.read_bytes())
    schedule.write_bytes(as_json(text | {"making": "other"}))
    write_private(folder / "other.pem", private_key_pem(signing_key("ES256").private_key))
    assert len(load_keyring(folder).keys) == 1
    with pytest.raises(KeyScheduleError, match=r"other\.pem"):
        advance(folder, POLICY, T + DAY)


def test_a_schedule_changed_without_the_lock_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = folder / "schedule.json"
    theirs = schedule.read_bytes() + b"\n"

    def slow(algorithm: str) -> object:
        schedule.write_bytes(theirs)
        return signing_key(algorithm)

    monkeypatch.setattr(keys.folder_changes, "generate_signing_key", slow)
    with pytest.raises(KeyScheduleError, match="try again"):
        rotate(folder, POLICY, T)
    assert schedule.read_bytes() == theirs


def test_a_folder_that_stays_locked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys.folder_changes, "_LOCK_SECONDS", 0.05)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(KeyFileError, match="locked by another process"):
            advance(folder, POLICY, T + DAY)
    finally:
        os.close(descriptor)
    advance(folder, POLICY, T + DAY)


CHANGES: list[Callable[[Path], object]] = [
    lambda folder: generate_key(folder, "ES256", T),
    lambda folder: advance(folder, POLICY, T + DAY),
    lambda folder: (folder / "schedule.json").chmod(0o640),
    lambda folder: (folder / "schedule.json").unlink(),
    lambda folder: write_private(folder / "new.pem", b"text"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_stamp_shows_every_change(folder: Path, change: Callable[[Path], object]) -> None:
    before = folder_stamp(folder)
    assert before is not None
    assert folder_stamp(folder) == before
    change(folder)
    assert folder_stamp(folder) != before


def test_a_missing_folder_has_no_stamp(tmp_path: Path) -> None:
    assert folder_stamp(tmp_path / "nothing") is None
