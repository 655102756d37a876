"""A watcher follows the folder, takes the steps that are due, and keeps what it has."""

import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from keys.errors import KeyFileError
from keys.folder import load_keyring
from keys.folder_changes import generate_key, rotate
from keys.folder_watch import KeyFolderWatcher
from keys.keyring import Keyring, KeyState
from keys.rotation import MARK_SECONDS, RotationPolicy

DAY = 86400
T = 1_800_000_000
POLICY = RotationPolicy(jwks_max_age=3600, token_seconds=DAY, rotate_every=30 * DAY)
BY_HAND = replace(POLICY, rotate_every=0)
PUBLISH = POLICY.publish_seconds
# Seconds that the leeways of `iat` and `exp` can add to a token's life.
LEEWAY = 300
ROOT = Path(__file__).parents[3]


class Clock:
    """A clock that is set by hand, and a monotonic one."""

    def __init__(self) -> None:
        self.now = float(T)
        self.steady = 0.0

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.steady += seconds


class Watched:
    """A watcher of a folder, and the keyrings that it has reported."""

    def __init__(self, folder: Path, policy: RotationPolicy = POLICY) -> None:
        self.folder = folder
        self.clock = Clock()
        self.taken: list[Keyring] = []
        self.watcher = self.another(policy, self.taken.append)
        # As at its start.
        self.watcher.poll()
        self.taken.clear()

    def another(
        self, policy: RotationPolicy, on_change: Callable[[Keyring], None]
    ) -> KeyFolderWatcher:
        return KeyFolderWatcher(
            self.folder,
            policy,
            on_change,
            clock=lambda: self.clock.now,
            steady=lambda: self.clock.steady,
        )

    def look_after(self, seconds: float, looks: int = 1) -> None:
        self.clock.advance(seconds)
        for _ in range(looks):
            self.watcher.poll()


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    generate_key(tmp_path, "ES256", T)
    return Watched(tmp_path)


def active(keyring: Keyring) -> str:
    return keyring.signing_key().verification_key.kid


def test_keys_rotate_automatically(watched: Watched) -> None:
    first = active(watched.watcher.keyring)
    watched.look_after(POLICY.rotate_every - PUBLISH)
    assert [len(keyring.published_keys()) for keyring in watched.taken] == [2]
    watched.look_after(PUBLISH)
    assert len(watched.taken) == 2
    second = active(watched.taken[-1])
    assert second != first
    assert active(watched.watcher.keyring) == second
    assert watched.taken[-1].key(first).state is KeyState.VERIFY_ONLY


@pytest.mark.fault(22)
def test_a_due_step_is_taken_at_the_start_and_not_before(watched: Watched) -> None:
    watched.clock.advance(POLICY.rotate_every - PUBLISH)
    before = {path: path.read_bytes() for path in watched.folder.iterdir()}
    handed: list[Keyring] = []
    watcher = watched.another(POLICY, handed.append)
    assert {path: path.read_bytes() for path in watched.folder.iterdir()} == before
    assert len(watcher.keyring.keys) == 1
    watcher.start()
    watcher.close()
    assert handed == [watcher.keyring]
    assert len(watcher.keyring.keys) == 2


def test_a_recorded_clock_alone_is_not_reported(watched: Watched) -> None:
    before = load_keyring(watched.folder).clock
    watched.look_after(MARK_SECONDS)
    assert load_keyring(watched.folder).clock == before + MARK_SECONDS
    assert watched.taken == []


def test_a_step_of_another_process_is_read_at_the_second_poll(watched: Watched) -> None:
    rotate(watched.folder, POLICY, T)
    watched.look_after(1)
    assert watched.taken == []
    watched.look_after(1)
    assert [len(keyring.keys) for keyring in watched.taken] == [2]
    watched.look_after(1)
    assert len(watched.taken) == 1


def test_without_rotation_the_end_of_tokens_is_still_recorded(tmp_path: Path) -> None:
    generate_key(tmp_path, "ES256", T)
    watched = Watched(tmp_path, BY_HAND)
    (key,) = load_keyring(tmp_path).keys
    assert key.until == T + POLICY.keep_seconds
    watched.look_after(10 * 365 * DAY, looks=3)
    assert len(load_keyring(tmp_path).keys) == 1


def test_longer_lifetimes_are_recorded_before_the_first_token(watched: Watched) -> None:
    year = replace(POLICY, token_seconds=365 * DAY)
    watched.watcher.use(year)
    (key,) = load_keyring(watched.folder).keys
    assert key.until == T + year.keep_seconds


@pytest.mark.parametrize("jump", [0, 2 * 3600, 365 * DAY])
def test_tokens_of_earlier_settings_count(watched: Watched, jump: int) -> None:
    watched.clock.now += jump
    watched.watcher.use(replace(POLICY, token_seconds=600))
    (key,) = load_keyring(watched.folder).keys
    assert key.until == T + jump + POLICY.keep_seconds


def test_a_folder_that_cannot_be_read_changes_nothing(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    first = active(watched.watcher.keyring)
    schedule = watched.folder / "schedule.json"
    good = schedule.read_bytes()
    schedule.write_bytes(b"{")
    watched.look_after(1, looks=5)
    assert "not a key schedule" in watched.watcher.problem()
    assert "stay in use" in watched.watcher.problem()
    assert active(watched.watcher.keyring) == first
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    # It is never overwritten, however long it takes.
    watched.look_after(60 * DAY)
    assert schedule.read_bytes() == b"{"
    schedule.write_bytes(good)
    watched.look_after(1, looks=2)
    assert watched.watcher.problem() == ""
    assert watched.taken[-1].key(first).state in (KeyState.ACTIVE, KeyState.VERIFY_ONLY)


@pytest.mark.parametrize("mount_point", [False, True], ids=["gone", "empty"])
def test_a_folder_that_is_missing_for_a_while(watched: Watched, mount_point: bool) -> None:
    first = active(watched.watcher.keyring)
    away = watched.folder.with_name("away")
    watched.folder.rename(away)
    if mount_point:
        watched.folder.mkdir()
    watched.look_after(1, looks=3)
    assert watched.watcher.problem()
    assert active(watched.watcher.keyring) == first
    # No key is made in the folder below.
    watched.look_after(60 * DAY)
    if mount_point:
        assert list(watched.folder.iterdir()) == []
        watched.folder.rmdir()
    away.rename(watched.folder)
    watched.look_after(1, looks=2)
    assert watched.watcher.problem() == ""
    assert [len(keyring.published_keys()) for keyring in watched.taken] == [2]


def test_a_folder_that_cannot_be_used_from_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.pem").touch(0o600)
    with pytest.raises(KeyFileError, match="empty"):
        Watched(tmp_path)


@pytest.mark.bad_input(54)
@pytest.mark.parametrize("jump", [365 * DAY, -365 * DAY, 2 * 3600])
def test_a_clock_that_jumps_takes_no_step(
    watched: Watched, caplog: pytest.LogCaptureFixture, jump: int
) -> None:
    watched.look_after(POLICY.rotate_every - PUBLISH)
    assert len(watched.taken) == 1
    watched.clock.now += jump
    watched.look_after(PUBLISH - 1, looks=3)
    assert len(watched.taken) == 1
    assert [record.levelno for record in caplog.records if "jumped" in record.message] == [
        logging.WARNING
    ]
    held = load_keyring(watched.folder)
    assert held.clock == T + POLICY.rotate_every - PUBLISH
    # The active key signs meanwhile, and its tokens outlive a server with other settings.
    assert held.active is not None
    assert (held.active.until or 0) > watched.clock.now + POLICY.token_seconds + LEEWAY
    if jump < 0:
        watched.look_after(PUBLISH)
        assert len(watched.taken) == 1
        watched.clock.now -= jump
        watched.look_after(1)
    watched.look_after(PUBLISH)
    assert len(watched.taken) == 2


def test_a_failed_reload_is_tried_again(watched: Watched) -> None:
    calls = []

    def fail_once(keyring: Keyring) -> None:
        calls.append(keyring)
        if len(calls) == 1:
            raise RuntimeError

    watcher = watched.another(POLICY, fail_once)
    rotate(watched.folder, POLICY, T)
    watcher.poll()
    with pytest.raises(RuntimeError):
        watcher.poll()
    assert len(watcher.keyring.keys) == 1
    watcher.poll()
    assert len(calls) == 2
    assert len(watcher.keyring.keys) == 2


def test_a_thread_follows_the_folder(tmp_path: Path) -> None:
    generate_key(tmp_path, "ES256", T)
    changed = threading.Event()
    watcher = KeyFolderWatcher(
        tmp_path, BY_HAND, lambda _keyring: changed.set(), clock=lambda: T, poll_seconds=0.01
    )
    watcher.start()
    try:
        rotate(tmp_path, BY_HAND, T)
        assert changed.wait(10)
    finally:
        watcher.close()
    assert "leeway-keys" not in {thread.name for thread in threading.enumerate()}


READ_ONLY = """
import logging, os, sys
from pathlib import Path
from keys.rotation import RotationPolicy
from keys.folder_watch import KeyFolderWatcher

logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
folder, user, start, every = sys.argv[1], *map(int, sys.argv[2:])
os.setuid(user)
times = iter(range(start, 2 * start, 86400))
now = next(times)
watcher = KeyFolderWatcher(
    Path(folder), RotationPolicy(3600, 86400, every), clock=lambda: now, steady=lambda: now
)
for _ in range(100):
    now = next(times)
    watcher.poll()
print(len(watcher.keyring.keys), repr(watcher.problem()), watcher.step_problem())
"""


@pytest.mark.parametrize(("every", "level"), [(30 * DAY, "WARNING"), (0, "INFO")])
def test_a_read_only_folder_is_reported_once(every: int, level: str) -> None:
    # Nothing is read-only for root, so another user tries.
    user = os.getuid() or 65534
    with tempfile.TemporaryDirectory(prefix="leeway-keys-") as name:
        folder = Path(name)
        generate_key(folder, "ES256", T)
        before = {path: path.read_bytes() for path in folder.iterdir()}
        for path in folder.iterdir():
            path.chmod(0o400)
            os.chown(path, user, -1)
        folder.chmod(0o500)
        os.chown(folder, user, -1)
        ran = subprocess.run(
            [sys.executable, "-c", READ_ONLY, name, str(user), str(T), str(every)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        folder.chmod(0o700)
        assert ran.stdout == "1 '' Permission denied\n"
        (line,) = ran.stderr.splitlines()
        assert line.startswith(f"{level} the schedule of the signing keys in {name}")
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
