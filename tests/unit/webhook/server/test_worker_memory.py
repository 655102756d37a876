"""10,000 users and 100,000 tokens that were seen before fit into the bound of the configuration."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from webhook.setup.init import InitOptions, initialise

USERS = 10_000
TOKENS = 100_000
PROGRAM = Path(__file__).with_name("memory_worker.py")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system has no /proc")
def test_worker_with_many_users_and_cached_tokens_stays_within_its_bound(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    # The algorithm that signs fastest; a cached token takes the same with each.
    initialise(data_dir, InitOptions(algorithm="ES256"), time.time())
    done = subprocess.run(
        [sys.executable, PROGRAM, data_dir, str(TOKENS), str(USERS)],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["bound"] == 384 * 1024 * 1024
    assert found["cached"] == TOKENS
    assert found["users"] >= USERS
    assert found["resident"] <= found["bound"]
