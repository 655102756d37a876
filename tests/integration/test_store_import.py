"""Imports that are killed, and imports at once with other changes, in processes of their own.

TEST_KILLS sets how often, TEST_KILL_SEED repeats the delays of a run.
"""

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Any

import msgspec
import pytest

from tests.unit.webhook.cli.cli_support import LEEWAY, run_process
from webhook.backends.sqlite import SQLiteBackend
from webhook.backends.sqlite_journal import read_journal
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.document import document_of
from webhook.setup.init import InitOptions, initialise

KILLS = int(os.environ.get("TEST_KILLS", "100"))
SEED = int(os.environ.get("TEST_KILL_SEED", "0")) or random.SystemRandom().getrandbits(32)
SCRIPT = Path(__file__).with_name("import_writer.py")
LONG = "u" * 200
ROOT = {"name": "root", "noPassword": True, "roles": ["root"]}


def document(role: str, users: int) -> dict[str, Any]:
    """Return a document with a role and many users that have it."""
    named = [
        {"name": f"{role}-{LONG}-{number:05}", "noPassword": True, "roles": [role]}
        for number in range(users)
    ]
    return {
        "apiVersion": "leeway.dev/v1",
        "kind": "Store",
        "tokenLifetime": {"seconds": 31_536_000},
        "users": [*named, ROOT],
        "roles": [
            {"name": role, "permissions": [{"permission": "READ", "prefix": f"/{role}/"}]},
            {"name": "root", "permissions": []},
        ],
        "groups": [{"name": "devs", "roles": [role]}],
        "revocations": [
            {"jti": role, "before": "2026-11-30T14:25:49Z", "until": "2027-11-30T14:25:49Z"}
        ],
        "auth": {"enabled": True},
    }


def content(data_dir: Path) -> dict[str, Any]:
    """Return the document of a store, without what says where it is from."""
    with closing(AuthStore.loaded(SQLiteBackend(data_dir / "auth.db", create=False))) as store:
        members: dict[str, Any] = json.loads(msgspec.json.encode(document_of(store.state)))
    del members["metadata"]
    members["users"].sort(key=lambda user: user["name"])
    return members


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    initialise(folder, InitOptions(algorithm="ES256"), time.time())
    return folder


@pytest.fixture
def documents(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "red.json", tmp_path / "blue.json"
    for path in paths:
        path.write_text(json.dumps(document(path.stem, 1000)))
    return paths


def expected(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def has_ended(output: IO[bytes]) -> bool:
    """Return whether the warm process has printed that its child is dead."""
    return bool(select.select([output], [], [], 0)[0])


def test_a_killed_import_leaves_the_old_or_the_new_store(
    data_dir: Path, documents: tuple[Path, Path]
) -> None:
    rng = random.Random(SEED)
    red, blue = documents
    run_process("store", "import", red, "--prune", "--data-dir", data_dir).assert_done()
    outcomes = {"old": 0, "new": 0}
    with subprocess.Popen(
        [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as warm:
        assert warm.stdin is not None
        assert warm.stdout is not None
        for kill in range(KILLS // 2):
            where = f"TEST_KILL_SEED={SEED}, kill {kill}"
            warm.stdin.write(f"{data_dir} {blue}\n".encode())
            warm.stdin.flush()
            pid = int(warm.stdout.readline().split()[1])
            # Half of them as soon as the transaction is being written.
            at_commit = kill % 2 == 0
            deadline = time.monotonic() + (30 if at_commit else rng.uniform(0, 0.5))
            while time.monotonic() < deadline and not has_ended(warm.stdout):
                if at_commit and read_journal(data_dir / "auth.db"):
                    time.sleep(rng.uniform(0, 0.01))
                    break
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            assert warm.stdout.readline() in (b"dead 9\n", b"dead 0\n"), where
            found = content(data_dir)
            if found == expected(blue):
                outcomes["new"] += 1
                red, blue = blue, red
            else:
                assert found == expected(red), where
                outcomes["old"] += 1
        warm.stdin.close()
    assert outcomes["old"]
    print(f"TEST_KILL_SEED={SEED}: {outcomes}")


def started(data_dir: Path, path: Path, *options: str) -> "subprocess.Popen[bytes]":
    """Start an import; it waits while its differences do not fit into the pipe."""
    return subprocess.Popen(
        [LEEWAY, "store", "import", str(path), "--data-dir", str(data_dir), *options],
        bufsize=0,  # What a buffer had read beyond the first line would be lost to `communicate`.
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


MEANWHILE = [
    # Others than the printed differences: nothing is changed.
    ("user delete red-{LONG}-00007", False),
    ("user add blue-{LONG}-00007 --no-password", False),
    ("user add carol --no-password", False),
    ("auth disable", False),
    # The same differences: the import goes on.
    ("role grant-permission root read x", True),
]


@pytest.mark.parametrize(("command", "goes_on"), MEANWHILE, ids=[m[0] for m in MEANWHILE])
@pytest.mark.parametrize("at", [False, True], ids=["any-revision", "at-revision"])
def test_a_change_between_print_and_apply(
    data_dir: Path, documents: tuple[Path, Path], command: str, goes_on: bool, at: bool
) -> None:
    red, blue = documents
    members = expected(blue)
    # The document does not list the role root, so its permissions may change.
    members["roles"] = members["roles"][:1]
    blue.write_text(json.dumps(members))
    run_process("store", "import", red, "--prune", "--data-dir", data_dir).assert_done()
    status = run_process("store", "status", "-o", "json", "--data-dir", data_dir).assert_done()
    revision = json.loads(status)["revision"]
    process = started(data_dir, blue, "--prune", *(("--at", str(revision)) if at else ()))
    assert process.stdout is not None
    # It has printed a part: the differences are decided, and nothing is written.
    first = process.stdout.readline()
    assert first.startswith(b"+ revocation of jti blue: ")
    words = command.replace("{LONG}", LONG).split()
    run_process(*words, "--data-dir", data_dir).assert_done()
    before = content(data_dir)
    out, err = process.communicate()
    if goes_on and not at:
        assert (process.returncode, err) == (0, b"")
        found = content(data_dir)
        assert found["users"] == members["users"]
        assert out.count(b"\n") > 3000
    else:
        assert process.returncode == 1
        assert err.count(b"\n") == 1
        assert b"nothing was changed" in err
        assert content(data_dir) == before
        assert (b"The differences are now:\n" in out) is not at
        if at:
            assert b"the store is at revision %d, not %d" % (revision + 1, revision) in err


def test_imports_at_once_leave_the_store_of_one_of_them(
    data_dir: Path, documents: tuple[Path, Path]
) -> None:
    wanted = [expected(path) for path in documents]
    done = 0
    for _ in range(4):
        processes = [
            started(data_dir, path, "--prune", "--prune-revocations") for path in documents * 2
        ]
        for process in processes:
            _, err = process.communicate()
            assert process.returncode in (0, 1, 3)
            # 3 where the database was locked for longer than a command waits.
            assert b"nothing was changed" in err or process.returncode != 1
            done += process.returncode == 0
        assert content(data_dir) in wanted
    assert done >= 4


def test_a_reader_that_ends_early_stops_the_import(
    data_dir: Path, documents: tuple[Path, Path]
) -> None:
    before = content(data_dir)
    process = started(data_dir, documents[0])
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    assert process.wait() != 0
    process.stderr.close()
    assert content(data_dir) == before
