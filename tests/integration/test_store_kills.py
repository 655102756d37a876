"""A writer killed at random moments: acknowledged writes are kept, and none is partial.

TEST_KILLS sets how often, TEST_KILL_SEED repeats the delays of a run.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.store_writer import operate
from tests.memory_backend import MemoryBackend
from tests.support import assert_within
from webhook.backends.sqlite import SQLiteBackend
from webhook.rbac.auth_store import AuthStore

KILLS = int(os.environ.get("TEST_KILLS", "100"))
SEED = int(os.environ.get("TEST_KILL_SEED", "0")) or random.SystemRandom().getrandbits(32)
LONGEST_SECONDS = 0.12
OPENS_WITHIN_SECONDS = 3.0
SCRIPT = Path(__file__).with_name("store_writer.py")


class Writers:
    """The warm process, and what its children have printed."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def kill_one(self, first: int, seconds: float) -> tuple[int, int]:
        """Start a writer with operation ``first`` and kill it after a time.

        Return the numbers of the operations that were begun last and done last.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"%d\n" % first)
        self._process.stdin.flush()
        said: list[bytes] = []
        while not said or not said[-1].startswith(b"pid"):
            said.append(self._process.stdout.readline())
            assert said[-1], "the warm process is gone"
        time.sleep(seconds)
        os.kill(int(said[-1].split()[1]), signal.SIGKILL)
        while not said[-1].startswith(b"dead"):
            said.append(self._process.stdout.readline())
            assert said[-1], "the warm process is gone"
        assert said[-1] == b"dead %d\n" % signal.SIGKILL, "the writer ended by itself"
        numbers = {b"begin": first - 1, b"done": first - 1}
        for word, number in (line.split() for line in said):
            if word in numbers:
                assert int(number) == numbers[word] + 1
                numbers[word] += 1
        return numbers[b"begin"], numbers[b"done"]


@contextmanager
def writers(database: Path) -> Iterator[Writers]:
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        yield Writers(process)
        assert process.stdin is not None
        process.stdin.close()
    assert process.returncode == 0


def contents(store: AuthStore) -> tuple[object, ...]:
    state = store.state
    return state.meta, state.users, state.roles, state.groups, state.tokens


@pytest.mark.bad_input(47)
def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    database = tmp_path / "store.db"
    follower = AuthStore.loaded(SQLiteBackend(database))
    model = AuthStore.loaded(MemoryBackend())
    rng = random.Random(SEED)
    done, revision, interrupted, kept, slowest = 0, 0, 0, 0, 0.0
    with writers(database) as warm:
        for kill in range(KILLS):
            where = f"TEST_KILL_SEED={SEED}, kill {kill}"
            # Half of them early, so that openings are hit too.
            longest = LONGEST_SECONDS / (10 if kill % 2 else 1)
            begun, acknowledged = warm.kill_one(done, rng.uniform(0, longest))
            started = time.monotonic()
            store = AuthStore.loaded(SQLiteBackend(database))
            slowest = max(slowest, time.monotonic() - started)
            assert_within(slowest, OPENS_WITHIN_SECONDS)
            for number in range(done, acknowledged + 1):
                operate(model, number)
            done = acknowledged + 1
            if begun > acknowledged:
                interrupted += 1
                if store.state.revision > model.state.revision:
                    kept += 1
                    operate(model, begun)
                    done = begun + 1
            assert store.state.revision == model.state.revision, where
            assert contents(store) == contents(model), where
            assert store.state.revision >= revision, where
            revision = store.state.revision
            follower.refresh()
            assert follower.state.revision == revision, where
            assert contents(follower) == contents(model), where
            store.close()
    follower.close()
    print(
        f"TEST_KILL_SEED={SEED}: {KILLS} kills, {done} operations, {interrupted} interrupted, "
        f"{kept} of them written all the same, opened within {slowest:.3f} s"
    )
    assert done > KILLS
    assert interrupted > KILLS // 10
