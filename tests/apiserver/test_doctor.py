"""``leeway doctor`` beside a real API server."""

import json
import subprocess
from pathlib import Path

from tests.e2e.harness import LEEWAY, RunningServer

from .cluster import APIServer


def test_doctor_compares_its_clock_with_the_api_server(
    cluster: APIServer, leeway: RunningServer
) -> None:
    command: list[str | Path] = [LEEWAY, "doctor", "--data-dir", leeway.data_dir, "-o", "json"]
    command += ["--api-server", cluster.url, "--api-server-ca", cluster.ca_file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    report = json.loads(done.stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert checks["clock"]["status"] == "ok", checks["clock"]
    assert cluster.url in checks["clock"]["finding"]
    assert "failure" not in {check["status"] for check in checks.values()}
