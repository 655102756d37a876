"""deploy/gunicorn.conf.py, run as people run it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.deploy.deploy_schemas import DEPLOY
from tests.e2e.harness import RunningServer, free_port, trouble_in, wait_until_ready
from webhook.config.load import load_configuration
from webhook.config.paths import tls_files
from webhook.server.gunicorn_settings import gunicorn_settings
from webhook.setup.init import InitOptions, initialise

GUNICORN = [
    str(Path(sys.executable).with_name("gunicorn")),
    "--config",
    str(DEPLOY / "gunicorn.conf.py"),
]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    initialise(tmp_path / "data", InitOptions(), 1_800_000_000)
    return tmp_path / "data"


def environment(data_dir: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "LEEWAY_DATA_DIR": str(data_dir), **more}


def test_serves_and_tidies_up(tmp_path: Path) -> None:
    data = tmp_path / "data"
    initialise(data, InitOptions(), time.time())
    port = free_port()
    log_file = tmp_path / "log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            GUNICORN,
            env=environment(data, LEEWAY_SERVER_BIND=f"127.0.0.1:{port}"),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = RunningServer(data, port, log_file, process)
    try:
        wait_until_ready(server)
        (folder,) = metrics_folders(process.pid)
        answer = server.post_review(server.sign("loofah"))
        assert answer.json["status"]["authenticated"] is True
        text = server.request("GET", "/metrics").body.decode()
        assert 'leeway_tokenreviews_total{reason="",result="accepted"} 1.0' in text
        server.stop()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert not folder.exists()
    assert trouble_in(server.log()) == []


def metrics_folders(pid: int) -> list[Path]:
    """Return the metrics folders in which a process tree has open files."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    links = [
        link.readlink()
        for child in children
        for link in Path(f"/proc/{child}/fd").iterdir()
        if link.is_symlink()
    ]
    return sorted({link.parent for link in links if link.parent.name.startswith("leeway-metrics-")})


def test_a_failed_start_prints_one_line(data_dir: Path, tmp_path: Path) -> None:
    # Named as its own folder, and as a user may name one.
    own, yours = tmp_path / "leeway-metrics-0", tmp_path / "metrics"

    def refused(metrics: Path = own, **more: str) -> str:
        metrics.mkdir()
        more["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
        done = subprocess.run(
            GUNICORN,
            env=environment(data_dir, **more),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 1
        lines = [line for line in done.stderr.splitlines() if '"level": "info"' not in line]
        assert len(lines) == 1, done.stderr
        assert not own.exists()
        return str(lines[0])

    assert "is missing; create it with `leeway init`" in refused(
        LEEWAY_DATA_DIR=str(tmp_path / "no")
    )
    assert "environment variable LEEWAY_SERVER_WORKERS" in refused(LEEWAY_SERVER_WORKERS="0")
    key = data_dir / "tls" / "server.key"
    key.chmod(0o640)
    assert "group or others" in refused()
    key.chmod(0o600)
    key.write_bytes((data_dir / "tls" / "root.key").read_bytes())
    assert "cannot be served with" in refused()
    assert "cannot be served with" in refused(yours)
    assert yours.is_dir()


def test_flags_are_those_of_leeway_serve(data_dir: Path) -> None:
    from gunicorn.config import KNOWN_SETTINGS

    settings = gunicorn_settings(load_configuration(data_dir, {}, {}), tls_files(data_dir))
    assert set(settings) <= {setting.name for setting in KNOWN_SETTINGS}
