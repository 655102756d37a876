"""deploy/systemd: the unit of a server."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.deploy_schemas import DEPLOY
from webhook.server.gunicorn_settings import GRACEFUL_SECONDS

UNIT = DEPLOY / "systemd" / "leeway.service"


@pytest.fixture
def unit() -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(strict=True, interpolation=None, delimiters="=")
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(UNIT.read_text())
    return parsed


def test_it_writes_to_its_data_directory_only(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    words = service["ExecStart"].split()
    assert words[1] == "serve"
    assert words[words.index("--data-dir") + 1] == service["ReadWritePaths"]
    assert service["ProtectSystem"] == "strict"
    assert service["User"] == service["Group"] == "leeway"
    assert service["UMask"] == "0077"


def test_it_needs_no_etcd_to_start(unit: configparser.ConfigParser) -> None:
    assert not unit["Unit"].get("Requires")
    assert "etcd" not in unit["Unit"]["After"]


def test_it_reloads_restarts_and_lets_requests_end(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["Restart"] == "always"
    # The master alone is told: it lets its workers end.
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) > GRACEFUL_SECONDS
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_accepts_it(tmp_path: Path) -> None:
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/usr/local/bin/leeway", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
