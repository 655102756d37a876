"""Four processes rotate the keys of one folder and are killed at random moments, one or all.

TEST_KILLS sets how often (200 are three years), TEST_KILL_SEED repeats the delays of a run.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from keys import jws
from keys.folder import load_keyring, read_folder
from keys.folder_changes import generate_key
from keys.keyring import Keyring, KeyState
from keys.rotation import due_step
from tests.integration.rotation_worker import DAY, MAX_AGE, POLICY, Shared

KILLS = int(os.environ.get("TEST_KILLS", "15"))
SEED = int(os.environ.get("TEST_KILL_SEED", "0")) or random.SystemRandom().getrandbits(32)
START = 1_800_000_000
SECONDS_PER_KILL = 3 * 365 * DAY // 200
WORKERS = 4
# A change is read at the second poll that sees it.
LOOKS = 3
LONGEST_SECONDS = 0.008
PATIENCE_SECONDS = 120.0
SCRIPT = Path(__file__).with_name("rotation_worker.py")


class Workers:
    """The warm process and its workers."""

    def __init__(self, process: subprocess.Popen[bytes], shared: Shared) -> None:
        self._process = process
        self._shared = shared
        self._pids = [self._fork(slot) for slot in range(WORKERS)]

    def _fork(self, slot: int) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"%d\n" % slot)
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def kill(self, slots: Iterable[int]) -> None:
        for slot in slots:
            os.kill(self._pids[slot], signal.SIGKILL)

    def replace(self, slots: Iterable[int]) -> None:
        for slot in slots:
            self._pids[slot] = self._fork(slot)

    def wait(self) -> None:
        """Wait until every worker has seen the clock, and what the others did then."""
        wanted = [self._shared.looks(slot) + LOOKS for slot in range(WORKERS)]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(self._shared.looks(slot) < wanted[slot] for slot in range(WORKERS)):
            assert time.monotonic() < deadline, "a worker stands still"
            time.sleep(0.001)


@contextmanager
def running(keys: Path, shared_file: Path, tokens: Path) -> Iterator[tuple[Workers, Shared]]:
    shared_file.write_bytes(bytes(8 * (1 + WORKERS)))
    shared = Shared(shared_file)
    shared.set_clock(START)
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), str(keys), str(shared_file), str(tokens)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        workers = Workers(process, shared)
        try:
            yield workers, shared
        finally:
            workers.kill(range(WORKERS))
            assert process.stdin is not None
            process.stdin.close()
    assert process.returncode == 0


class Observer:
    """What clients see of the keys: when each was published, and the last token of each."""

    def __init__(self, tokens: Path) -> None:
        self._tokens = tokens
        self._offset = 0
        self.signed = 0
        self.published: dict[str, int] = {}
        self._last: dict[str, tuple[int, jws.CompactJWS]] = {}

    def see(self, keyring: Keyring, now: int) -> None:
        """Note what every worker publishes at ``now``."""
        for key in keyring.published_keys():
            self.published.setdefault(key.kid, now)

    def read_tokens(self) -> None:
        with self._tokens.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        end = data.rfind(b"\n") + 1
        self._offset += end
        for line in data[:end].decode().splitlines():
            now, _, rest = line.partition(" ")
            text, _, whole = rest.partition(" ")
            if whole != "whole":
                continue
            token = jws.parse(text)
            kid = jws.header(token).kid
            assert kid is not None
            assert int(now) - self.published[kid] >= MAX_AGE, "signed by a key published too short"
            dies = msgspec.json.decode(token.unverified_payload)["exp"]
            if dies >= self._last.get(kid, (0,))[0]:
                self._last[kid] = (dies, token)
            self.signed += 1

    def check(self, keyring: Keyring, now: int) -> None:
        """Check that one key is active and that every live token verifies."""
        active = [key for key in keyring.keys if key.state is KeyState.ACTIVE]
        assert len(active) == 1
        keys = {key.kid: key for key in keyring.verification_keys()}
        for kid, (dies, token) in self._last.items():
            if now <= dies:
                assert jws.verify(token, keys[kid])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in memory, if possible: a killed process loses nothing there."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="leeway-keys-", dir=memory) as name:
        yield Path(name)


@pytest.mark.bad_input(48)
def test_a_killed_rotation_leaves_one_active_key(folder: Path) -> None:
    keys, tokens = folder / "keys", folder / "tokens"
    keys.mkdir()
    first = generate_key(keys, "ES256", START)
    observer = Observer(tokens)
    # Only the very first key signs at once.
    observer.published[first.kid] = START - MAX_AGE
    rng = random.Random(SEED)
    interrupted = 0
    with running(keys, folder / "shared", tokens) as (workers, shared):
        now = START
        for kill in range(KILLS):
            where = f"TEST_KILL_SEED={SEED}, kill {kill}"
            kill_at, wants_step = now + rng.randrange(SECONDS_PER_KILL), rng.random() < 0.5
            ends, killed = now + SECONDS_PER_KILL, False
            while now < ends or not killed:
                now += rng.randrange(600, DAY)
                before = load_keyring(keys)
                due = due_step(before, POLICY, now) is not None
                shared.set_clock(now)
                if not killed and now >= kill_at and (due or not wants_step):
                    killed, slots = True, rng.sample(range(WORKERS), rng.choice([1, WORKERS]))
                    time.sleep(rng.uniform(0, LONGEST_SECONDS))
                    workers.kill(slots)
                    found = read_folder(keys)
                    interrupted += bool(found.making)
                    observer.check(found.keyring, now)
                    workers.replace(slots)
                workers.wait()
                keyring = load_keyring(keys)
                observer.see(keyring, now)
                observer.read_tokens()
                observer.check(keyring, now)
                assert due_step(keyring, POLICY, now) is None, where
    print(
        f"TEST_KILL_SEED={SEED}: {KILLS} kills in {(now - START) / DAY / 365:.1f} years, "
        f"{len(observer.published)} keys, {observer.signed} tokens, "
        f"{interrupted} keys left half made"
    )
    assert len(observer.published) >= (now - START) // POLICY.rotate_every * 9 // 10
    final = read_folder(keys)
    assert final.making == ""
    for key in final.keyring.keys:
        signs = key.state in (KeyState.ACTIVE, KeyState.PENDING)
        assert (key.signing_key is not None) is signs, "a private half that nobody needs"
    named = {*final.files.values(), "schedule.json"}
    assert {path.name for path in keys.iterdir() if not path.name.startswith(".")} == named
