"""``leeway doctor``: its output, its exit codes, and broken data directories."""

import json
import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from keys.pki import make_server_certificate
from tests.unit.webhook.cli.cli_support import Leeway, run_process
from webhook.assembly import store_of
from webhook.config.model import Configuration
from webhook.config.paths import read_pair
from webhook.doctor.findings import Status
from webhook.doctor.fixes import Fixes
from webhook.doctor.users import check_users
from webhook.rbac import changes
from webhook.rbac.model import ROOT


@pytest.fixture
def fresh(leeway: Leeway, tmp_path: Path) -> Path:
    """Return a data directory made now, for a port on which nothing listens."""
    folder = tmp_path / "data"
    leeway("init", "--data-dir", folder, "--algorithm", "ES256").assert_done()
    path = folder / "leeway.yaml"
    path.write_text(path.read_text().replace(":8443", ":1"))
    for name in ("tokenreview", "subjectaccessreview", "root"):
        file = folder / "kubeconfig" / f"{name}.yaml"
        file.write_text(file.read_text().replace(":8443", ":1"))
    return folder


def test_text_is_aligned_and_plain(leeway: Leeway, fresh: Path) -> None:
    out = leeway("doctor", "--data-dir", fresh).assert_done()
    title, empty, *lines = out.splitlines()
    assert title.startswith(f"{fresh}, examined at 20")
    assert empty == ""
    assert "\x1b" not in out
    checks = lines[: lines.index("")]
    column = checks[0].index("ok ")
    assert {line[column:].split()[0] for line in checks[:-2]} == {"ok"}
    assert checks[-2].split() == ["server", "WARNING", *checks[-2].split()[2:]]
    assert checks[-2].endswith("nothing listens at https://127.0.0.1:1")
    assert checks[-1].strip() == f"fix: leeway serve --data-dir {fresh}"
    assert checks[-1].index("fix:") == checks[-2].index("nothing")
    assert lines[-1] == "HEALTHY: 1 warning in 21 checks"
    assert "  clock               give the API server's URL with --api-server" in lines


@pytest.mark.parametrize(("output", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_json_and_yaml(leeway: Leeway, fresh: Path, output: str, load: object) -> None:
    (fresh / "tls" / "server.key").chmod(0o644)
    ran = leeway("doctor", "--data-dir", fresh, "-o", output)
    assert (ran.code, ran.err) == (1, "")
    assert callable(load)
    report = load(ran.out)
    assert report.keys() == {"dataDir", "examinedAt", "status", "checks", "notChecked"}
    assert report["status"] == "failure"
    bad = [check for check in report["checks"] if check["status"] == "failure"]
    assert bad == [
        {
            "name": "private files",
            "status": "failure",
            "finding": "tls/server.key is of mode 0644, 0600 is right",
            "fix": f"chmod 600 {fresh}/tls/server.key",
        }
    ]
    assert {"name": "signing keys", "why": "it needs private files to be in order"} in (
        report["notChecked"]
    )


WRONG = [
    (("--api-server", "http://127.0.0.1"), ("--api-server", "https URL")),
    (("--server", "127.0.0.1"), ("--server", "HOST:PORT")),
    (("--api-server-ca", "pyproject.toml"), ("--api-server",)),
    (("-o", "xml"), ("json",)),
    (("more",), ("too many arguments",)),
]


@pytest.mark.parametrize(("flags", "parts"), WRONG)
def test_wrong_usage(
    leeway: Leeway, fresh: Path, flags: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    (fresh / "pyproject.toml").touch()
    flags = tuple(str(fresh / f) if f == "pyproject.toml" else f for f in flags)
    leeway("doctor", "--data-dir", fresh, *flags).assert_failed(2, *parts)


def test_no_data_directory(leeway: Leeway, tmp_path: Path) -> None:
    leeway("doctor", "--data-dir", tmp_path / "none").assert_failed(3, "leeway init")
    assert not (tmp_path / "none").exists()


def test_an_empty_directory_is_examined_and_stays_empty(leeway: Leeway, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir(0o700)
    ran = leeway("doctor", "--data-dir", folder)
    assert (ran.code, ran.err) == (1, "")
    assert "leeway.yaml is missing; create it with `leeway init`" in ran.out
    assert "Traceback" not in ran.out
    assert "the check itself failed" not in ran.out
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"\0" * 50, b"- a: [", b"{}", b"\xff\xfe"])
def test_every_file_broken(leeway: Leeway, fresh: Path, data: bytes) -> None:
    for path in fresh.rglob("*"):
        if path.is_file():
            path.write_bytes(data)
    ran = leeway("doctor", "--data-dir", fresh)
    assert (ran.code, ran.err) == (1, "")
    assert "the check itself failed" not in ran.out


def test_from_the_environment(fresh: Path) -> None:
    environment = {"LEEWAY_DATA_DIR": str(fresh), "LEEWAY_SERVER_BIND": "127.0.0.1:2"}
    ran = run_process("doctor", environment=environment)
    assert (ran.code, ran.err) == (0, "")
    assert "server.bind is 127.0.0.1:2, but kubeconfig/tokenreview.yaml" in ran.out
    assert "nothing listens at https://127.0.0.1:2" in ran.out


def test_a_host_given_to_init_is_in_the_fix(leeway: Leeway, tmp_path: Path) -> None:
    leeway("init", "--data-dir", tmp_path, "--host", "hook.example").assert_done()
    ca = read_pair(tmp_path / "tls", "ca")
    pair = make_server_certificate(ca, "leeway", ["localhost"], datetime.now(UTC))
    (tmp_path / "tls" / "server.crt").write_bytes(pair.certificate)
    (tmp_path / "tls" / "server.key").write_bytes(pair.private_key)
    out = leeway("doctor", "--data-dir", tmp_path).out
    assert "tls/server.crt is for localhost, not for hook.example" in out
    assert f"&& leeway init --host hook.example --data-dir {tmp_path}" in out


def test_root_without_its_role(data_dir: Path) -> None:
    with_store = store_of(data_dir, Configuration())
    with_store.change(changes.disable)
    with_store.change(changes.revoke_role, ROOT, ROOT)
    with_store.close()
    store = store_of(data_dir, Configuration(), read_only=True)
    store.close()
    verdict = check_users(store, Fixes(data_dir))
    assert verdict.status is Status.FAILURE
    assert verdict.fix == f"leeway user grant-role root root --data-dir {data_dir}"


def test_a_store_that_was_in_use_when_the_machine_went_down(leeway: Leeway, fresh: Path) -> None:
    for number in range(200):
        with sqlite3.connect(fresh / "auth.db", isolation_level=None) as connection:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
        if pages > 12:
            break
        leeway("user", "add", f"u{number}-{'x' * 200}", "--no-password", "--data-dir", fresh)
    connection = sqlite3.connect(fresh / "auth.db", isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN IMMEDIATE")
    # More than the cache holds: some of it is in the file before the transaction is over.
    connection.execute("UPDATE records SET checksum = checksum + 1")
    copy = Path(shutil.copytree(fresh, fresh.with_name("copy")))
    connection.rollback()
    connection.close()
    before = (copy / "auth.db").read_bytes()
    ran = leeway("doctor", "--data-dir", copy, "-o", "json")
    (found,) = [c for c in json.loads(ran.out)["checks"] if c["status"] == "failure"]
    assert found["name"] == "store"
    assert f"leeway auth status --data-dir {copy}" in found["fix"]
    assert (copy / "auth.db").read_bytes() == before
    leeway("auth", "status", "--data-dir", copy).assert_done()
    leeway("doctor", "--data-dir", copy).assert_done()
