"""``leeway init`` by several processes at once, and killed anywhere."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

from tests.unit.webhook.cli.cli_support import LEEWAY, run_process
from webhook.backends.sqlite import SQLiteBackend
from webhook.rbac.auth_store import AuthStore

KILLS = int(os.environ.get("TEST_INIT_KILLS", "20"))
SEED = int(os.environ.get("TEST_KILL_SEED", "0")) or random.SystemRandom().getrandbits(32)
# A warm process forks those to be killed, so that most of them are killed while they write.
SCRIPT = """
import os, sys, time
from pathlib import Path
from webhook.setup.init import InitOptions, initialise
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        initialise(Path(line.strip()), InitOptions(algorithm="ES256"), time.time())
        os._exit(0)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


def is_filled(data_dir: Path) -> bool:
    """Return whether the store is complete; assert that otherwise there is none."""
    if not (data_dir / "auth.db").exists():
        return False
    with closing(AuthStore.loaded(SQLiteBackend(data_dir / "auth.db", create=False))) as store:
        assert store.state.meta.enabled
        assert store.state.users.keys() == {"root", "kube-apiserver"}
        assert store.state.users["root"].has_root_role
        assert len(store.state.roles["kube-apiserver"].permissions) == 2
    return True


def test_eight_at_once(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    processes = [
        subprocess.Popen(
            [LEEWAY, "init", "--algorithm", "ES256", "--data-dir", str(data_dir)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, outputs
    created = [out.count("created ") for out, _ in outputs]
    assert sorted(created)[:7] == [0] * 7
    complete = f"{data_dir} is complete; nothing was changed\n"
    assert [out for out, _ in outputs].count(complete) == 7
    assert is_filled(data_dir)
    assert not list(data_dir.glob(".*"))


def test_killed_anywhere(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    outcomes = {True: 0, False: 0}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as warm:
        assert warm.stdin is not None
        assert warm.stdout is not None
        for kill in range(KILLS):
            data_dir = tmp_path / f"{kill}"
            warm.stdin.write(f"{data_dir}\n")
            warm.stdin.flush()
            pid = int(warm.stdout.readline())
            time.sleep(rng.uniform(0, 0.1))
            # It is reaped by the warm process, which says so afterwards.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            warm.stdout.readline()
            outcomes[is_filled(data_dir)] += 1
        warm.stdin.close()
    print(f"TEST_KILL_SEED={SEED}: filled or not: {outcomes}")
    assert outcomes[False], f"TEST_KILL_SEED={SEED}"


def test_a_second_run_completes_what_was_killed_before_the_store(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    run_process("init", "--algorithm", "ES256", "--data-dir", data_dir).assert_done()
    (data_dir / "auth.db").unlink()
    (data_dir / ".auth.db.unfinished").write_bytes(b"half of it")
    assert "auth.db" in run_process("init", "--data-dir", data_dir).assert_done()
    assert is_filled(data_dir)
    assert not list(data_dir.glob(".*"))
