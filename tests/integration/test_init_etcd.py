"""``leeway init`` on an etcd: by several replicas at once, and killed anywhere."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.etcd_cluster import EtcdCluster
from tests.integration.test_init_at_once import KILLS, SEED
from tests.unit.webhook.cli.cli_support import LEEWAY, run_process
from webhook.assembly import etcd_backend_of
from webhook.config.load import load_configuration
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import NotInitialisedError
from webhook.rbac.state import AuthState

CONFIGURATION = """\
apiVersion: leeway.dev/v1
kind: LeewayConfiguration
store: {{etcd: {{endpoints: [{endpoints}], prefix: {prefix}}}}}
keys: {keys}
"""
SCRIPT = """
import os, sys
from webhook.cli.main import main
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["leeway", "init", "--data-dir", line.strip()]
        try:
            main()
        except SystemExit as stop:
            os._exit(int(str(stop.code or 0)))
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


def make_directory(folder: Path, etcd: EtcdCluster, prefix: str, keys: str = "{}") -> Path:
    folder.mkdir(mode=0o700)
    text = CONFIGURATION.format(endpoints=", ".join(etcd.endpoints), prefix=prefix, keys=keys)
    (folder / "leeway.yaml").write_text(text)
    return folder


def state_of(data_dir: Path) -> AuthState | None:
    """Return what the store contains, None if nothing was ever written to it."""
    section = load_configuration(data_dir, {}, {}).store.etcd
    assert section is not None
    try:
        with closing(AuthStore.loaded(etcd_backend_of(data_dir, section))) as store:
            return store.state
    except NotInitialisedError:
        return None


def assert_complete(state: AuthState | None) -> None:
    assert state is not None
    assert state.meta.enabled
    assert state.users.keys() == {"root", "kube-apiserver"}
    assert state.users["root"].has_root_role
    assert len(state.roles["kube-apiserver"].permissions) == 2


@pytest.mark.parametrize("keys", ["folder", "etcd"])
def test_eight_replicas_at_once(
    tmp_path: Path, etcd: EtcdCluster, etcd_prefix: str, keys: str
) -> None:
    secret = tmp_path / "encryption.key"
    run_process("keys", "encryption-key", secret).assert_done()
    section = f"{{store: etcd, encryptionKeyFiles: [{secret}]}}" if keys == "etcd" else "{}"
    folders = [
        make_directory(tmp_path / f"{number}", etcd, etcd_prefix, section) for number in range(8)
    ]
    processes = [
        subprocess.Popen(
            [LEEWAY, "init", "--algorithm", "ES256", "--data-dir", str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, outputs
    assert sum("filled the store " in out for out, _ in outputs) == 1
    assert sum(" as it is\n" in out for out, _ in outputs) == 7
    state = state_of(folders[0])
    assert_complete(state)
    assert state is not None
    kinds = sorted(kind for kind, _ in state.sealed)
    assert kinds == (["key", "schedule"] if keys == "etcd" else [])
    made = [len(list((folder / "keys").iterdir())) for folder in folders]
    assert all(made) is (keys == "folder")
    assert any(made) is (keys == "folder")


def test_killed_anywhere(tmp_path: Path, etcd: EtcdCluster, etcd_prefix: str) -> None:
    rng = random.Random(SEED)
    outcomes = {True: 0, False: 0}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as warm:
        assert warm.stdin is not None
        assert warm.stdout is not None
        for kill in range(KILLS):
            folder = make_directory(tmp_path / f"{kill}", etcd, f"{etcd_prefix}-{kill}")
            warm.stdin.write(f"{folder}\n")
            warm.stdin.flush()
            pid = int(warm.stdout.readline())
            time.sleep(rng.uniform(0, 1.5))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            warm.stdout.readline()
            state = state_of(folder)
            outcomes[state is not None] += 1
            if state is not None:
                assert_complete(state)
        warm.stdin.close()
    # The last one is repeated, and ends.
    run_process("init", "--data-dir", folder).assert_done()
    assert_complete(state_of(folder))
    print(f"TEST_KILL_SEED={SEED}: filled or not: {outcomes}")


def test_files_that_are_made_are_named_although_etcd_is_away(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    text = CONFIGURATION.format(endpoints="http://127.0.0.1:1", prefix="/leeway", keys="{}")
    (folder / "leeway.yaml").write_text(text)
    ran = run_process("init", "--algorithm", "ES256", "--data-dir", folder)
    assert ran.code == 3
    assert "http://127.0.0.1:1" in ran.err
    assert ran.out.count("created ") == len([f for f in folder.rglob("*") if f.is_file()]) - 1
