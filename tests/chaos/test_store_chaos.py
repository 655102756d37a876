"""Several writers on one database, killed at random while others write and one follows.

TEST_KILLS sets how often (a fifth of it here), TEST_KILL_SEED repeats the delays of a run.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import refresh_as_requests_do
from webhook.backends.sqlite import SQLiteBackend
from webhook.rbac.auth_store import AuthStore

ROUNDS = max(5, int(os.environ.get("TEST_KILLS", "100")) // 5)
SEED = int(os.environ.get("TEST_KILL_SEED", "0")) or random.SystemRandom().getrandbits(32)
WRITERS = 3

# Forks writers from a warm process; each acknowledges a user when it has been added.
_PROGRAM = """
import os, sys
from itertools import count
from pathlib import Path
from webhook.backends.sqlite import SQLiteBackend
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreUnavailableError

for line in sys.stdin:
    prefix = line.strip()
    pid = os.fork()
    if not pid:
        try:
            store = AuthStore.loaded(SQLiteBackend(Path(sys.argv[1])))
            for number in count():
                try:
                    store.change(changes.add_user, f"{prefix}-{number}")
                except StoreUnavailableError:
                    continue
                os.write(1, b"done %s-%d %d\\n" % (prefix.encode(), number, store.revision))
        finally:
            os._exit(1)
    os.write(1, b"pid %d\\n" % pid)
    if prefix.endswith("last"):
        for _ in range(int(sys.argv[2])):
            _, status = os.wait()
            os.write(1, b"dead %d\\n" % status)
"""


@pytest.mark.bad_input(47)
def test_writers_killed_beside_one_another(tmp_path: Path) -> None:
    database = tmp_path / "store.db"
    follower = AuthStore.loaded(SQLiteBackend(database))
    rng = random.Random(SEED)
    acknowledged: set[str] = set()
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(database), str(WRITERS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as warm:
        assert warm.stdin is not None
        assert warm.stdout is not None
        for kills in range(ROUNDS):
            where = f"TEST_KILL_SEED={SEED}, round {kills}"
            names = [f"{kills}-{writer}" for writer in range(WRITERS - 1)] + [f"{kills}-last"]
            for name in names:
                warm.stdin.write(name + "\n")
            pids: list[int] = []
            dead, latest = 0, 0
            while dead < WRITERS:
                word, *values = warm.stdout.readline().split()
                if word == "pid":
                    pids.append(int(values[0]))
                    if len(pids) == WRITERS:
                        for pid in pids:
                            time.sleep(rng.uniform(0, 0.03))
                            os.kill(pid, signal.SIGKILL)
                            before = follower.revision
                            refresh_as_requests_do(follower)
                            assert follower.revision >= before, where
                elif word == "dead":
                    assert int(values[0]) == signal.SIGKILL, where
                    dead += 1
                else:
                    acknowledged.add(values[0])
                    latest = max(latest, int(values[1]))
            started = time.monotonic()
            store = AuthStore.loaded(SQLiteBackend(database))
            assert time.monotonic() - started < 3.0, where
            assert acknowledged <= store.state.users.keys(), where
            assert len(store.state.users) == store.revision - 1 >= latest - 1, where
            refresh_as_requests_do(follower)
            assert follower.state.users == store.state.users, where
            store.close()
        warm.stdin.close()
    follower.close()
    print(f"TEST_KILL_SEED={SEED}: {ROUNDS * WRITERS} kills, {len(acknowledged)} acknowledged")
    assert len(acknowledged) > ROUNDS
