"""Rows 50 and 51, as seen by a client and an administrator."""

import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support import assert_within
from webhook.setup.init import InitOptions, initialise

from .auth import ROOT, as_root, call
from .harness import HOST, LEEWAY, RunningServer, free_port, start_server

LOCKED_SECONDS = 4.0
# More than 100 a second would be left out of the log, which adds another line.
BETWEEN_ASKS = 0.05


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(tmp_path_factory.mktemp("locked"))
    try:
        # No worker can start while the database is locked.
        running.both_workers()
        yield running
    finally:
        running.stop(expected_trouble="database is locked")


@pytest.mark.bad_input(50)
@pytest.mark.parametrize("lock", ["EXCLUSIVE", "IMMEDIATE"])
def test_reviews_go_on_beside_a_locked_database(server: RunningServer, lock: str) -> None:
    token = server.sign()
    database = server.data_dir / "auth.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute(f"BEGIN {lock}")
        until = time.monotonic() + LOCKED_SECONDS
        refused = 0
        while time.monotonic() < until:
            started = time.monotonic()
            answer = call(server, "role/add", {"name": lock}, ROOT)
            assert_within(time.monotonic() - started, 2.0)
            assert (answer.status, answer.json["code"]) == (503, 14), answer
            assert answer.headers["retry-after"]
            refused += 1
            assert server.post_review(token).json["status"]["authenticated"] is True
            time.sleep(BETWEEN_ASKS)
        other.execute("ROLLBACK")
    assert refused > 1
    as_root(server, ("role/add", {"name": lock}))


@pytest.mark.bad_input(51)
def test_a_server_does_not_start_on_a_damaged_database(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    initialise(data_dir, InitOptions(), time.time())
    database = data_dir / "auth.db"
    data = bytearray(database.read_bytes())
    data[data.rindex(b"kube-apiserver")] ^= 1
    database.write_bytes(data)
    done = subprocess.run(
        [LEEWAY, "serve", "--data-dir", data_dir, "--bind", f"{HOST}:{free_port()}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 3
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert f"{database} is damaged: " in line
    assert line.endswith("restore it from a backup")
