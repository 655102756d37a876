"""Imports into an etcd that are killed between their transactions, and repeated.

TEST_IMPORT_KILLS sets how often, TEST_KILL_SEED repeats the delays of a run.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from tests.etcd_cluster import EtcdCluster
from tests.integration.test_init_etcd import make_directory
from tests.integration.test_store_import import SCRIPT, SEED, document, has_ended
from tests.unit.webhook.cli.cli_support import run_process
from webhook.assembly import etcd_backend_of
from webhook.config.load import load_configuration
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.document import document_of
from webhook.rbac.state import AuthState

KILLS = int(os.environ.get("TEST_IMPORT_KILLS", "6"))
USERS = 6000


def state_of(data_dir: Path) -> AuthState:
    section = load_configuration(data_dir, {}, {}).store.etcd
    assert section is not None
    with closing(AuthStore.loaded(etcd_backend_of(data_dir, section))) as store:
        return store.state


def content(state: AuthState) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(msgspec.json.encode(document_of(state)))
    del members["metadata"]
    return members


def prefixes(state: AuthState, name: str) -> set[bytes]:
    """Return the keys that a user has permissions on."""
    user = state.users.get(name)
    roles = [state.roles[role] for role in user.roles if role != "root"] if user else []
    return {permission.key for role in roles for permission in role.permissions}


def assert_between(state: AuthState, old: AuthState, new: AuthState) -> None:
    """Assert that nobody is allowed what neither of two states allows, and what stays revoked."""
    assert state.meta.enabled
    for name in state.users:
        assert prefixes(state, name) <= prefixes(old, name) | prefixes(new, name)
    revoked: Mapping[str, object] = state.revoked_jtis
    assert old.revoked_jtis.keys() <= revoked.keys() or new.revoked_jtis.keys() <= revoked.keys()


def test_killed_imports_are_repeated(tmp_path: Path, etcd: EtcdCluster, etcd_prefix: str) -> None:
    rng = random.Random(SEED)
    data_dir = make_directory(tmp_path / "data", etcd, etcd_prefix)
    run_process("init", "--algorithm", "ES256", "--data-dir", data_dir).assert_done()
    documents = tmp_path / "red.json", tmp_path / "blue.json"
    states = []
    for path in documents:
        path.write_text(json.dumps(document(path.stem, USERS)))
        options = ("--prune", "--prune-revocations", "--data-dir", data_dir)
        out = run_process("store", "import", path, *options).assert_done()
        assert " transactions are needed; if it is interrupted, repeat it\n" in out
        states.append(state_of(data_dir))
    red, blue = states
    outcomes = {"old": 0, "between": 0, "new": 0}
    with subprocess.Popen(
        [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as warm:
        assert warm.stdin is not None
        assert warm.stdout is not None
        for kill in range(KILLS):
            where = f"TEST_KILL_SEED={SEED}, kill {kill}"
            start = state_of(data_dir)
            warm.stdin.write(f"{data_dir} {documents[0]}\n".encode())
            warm.stdin.flush()
            pid = int(warm.stdout.readline().split()[1])
            deadline = time.monotonic() + 60
            # Until its first transaction is written.
            while time.monotonic() < deadline and not has_ended(warm.stdout):
                if state_of(data_dir).revision != start.revision:
                    break
            time.sleep(rng.uniform(0, 0.2))
            if not has_ended(warm.stdout):
                os.kill(pid, signal.SIGKILL)
            assert warm.stdout.readline() in (b"dead 9\n", b"dead 0\n"), where
            found = state_of(data_dir)
            assert_between(found, blue, red)
            is_new = content(found) == content(red)
            is_old = content(found) == content(blue)
            outcomes["new" if is_new else "old" if is_old else "between"] += 1
            # The repetition ends in the state of one that was not killed.
            for path, wanted in zip(documents, states, strict=True):
                run_process("store", "import", path, *options).assert_done()
                assert content(state_of(data_dir)) == content(wanted), where
        warm.stdin.close()
    print(f"TEST_KILL_SEED={SEED}: {outcomes}")
    assert outcomes["between"], outcomes
