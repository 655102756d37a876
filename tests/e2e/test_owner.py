"""Commands run as root beside a server that runs as another user."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.other_user import (
    NOBODY,
    environment_of_nobody,
    folder_in_reach,
    program_of_nobody,
    run_as_nobody,
)

from .harness import LEEWAY, RunningServer, free_port, trouble_in, wait_until_ready


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Return a data directory owned by NOBODY, with a kubeconfig missing."""
    program_of_nobody()
    folder = folder_in_reach()
    data_dir = folder / "data"
    data_dir.mkdir(mode=0o700)
    os.chown(data_dir, NOBODY, NOBODY)
    done = run_as_nobody("init", "--data-dir", data_dir, "--algorithm", "ES256")
    assert done.returncode == 0, done
    (data_dir / "kubeconfig" / "root.yaml").unlink()
    yield data_dir
    shutil.rmtree(folder)


def modes(data_dir: Path) -> dict[str, int]:
    return {
        str(path.relative_to(data_dir)): stat.S_IMODE(path.stat().st_mode)
        for path in data_dir.rglob("*")
    }


def owners(data_dir: Path) -> dict[tuple[int, int], list[str]]:
    found: dict[tuple[int, int], list[str]] = {}
    for path in data_dir.rglob("*"):
        status = path.lstat()
        found.setdefault((status.st_uid, status.st_gid), []).append(path.name)
    return found


COMMANDS = [
    "token create a -n b",
    "keys generate --algorithm RS256",
    "keys rotate --force",
    "user add alice --no-password",
    "role add r",
    "revoke jti x",
    "revoke serviceaccount a/b",
    "auth disable",
    "auth enable",
    "cert create alice",
    "cert renew server",
    "cert revoke alice",
    "init",
]


@pytest.mark.fault(33)
def test_files_written_by_root_belong_to_the_owner_of_the_data_directory(data_dir: Path) -> None:
    (data_dir / "tls" / "server.crt").chmod(0o640)
    before = modes(data_dir)
    for line in COMMANDS:
        command = [LEEWAY, *line.split(), "--data-dir", str(data_dir)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done
        assert owners(data_dir).keys() == {(NOBODY, NOBODY)}, (line, owners(data_dir))
    after = modes(data_dir)
    assert {name: after[name] for name in before if name in after} == before
    # `keys rotate --force` may have taken a key off the list.
    assert all(name.startswith("keys/") for name in before.keys() - after.keys())
    assert {"audit.log", "kubeconfig/root.yaml"} <= after.keys()
    _serve_as_nobody(data_dir)


@pytest.mark.fault(33)
def test_a_store_belongs_to_the_owner_of_its_folder(data_dir: Path) -> None:
    folder = data_dir.parent / "alone"
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY, NOBODY)
    subprocess.run(
        [LEEWAY, "user", "add", "--create", "alice", "--no-password", "--data-dir", folder],
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert {"auth.db", "auth.db-journal"} <= {path.name for path in folder.iterdir()}
    assert owners(folder).keys() == {(NOBODY, NOBODY)}
    assert run_as_nobody("user", "list", "--data-dir", folder).stdout == "alice\n"


def _serve_as_nobody(data_dir: Path) -> None:
    port = free_port()
    log_file = data_dir.parent / "server.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*program_of_nobody(), "serve", "--data-dir", data_dir, "--bind", f"127.0.0.1:{port}"],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            env=environment_of_nobody(),
            cwd="/",
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = RunningServer(data_dir, port, log_file, process)
    try:
        wait_until_ready(server)
        token = server.sign()
        assert server.post_review(token).json["status"]["authenticated"] is True
        # Not `stop`: the folder is gone before it is searched for secrets.
        process.terminate()
        assert process.wait(30) == 0
        assert trouble_in(server.log()) == []
    finally:
        process.kill()
        process.wait()
