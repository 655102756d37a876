"""The short form of ``python -m tests.chaos --store etcd``, run once, and what it found."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.store_faults import KILLS, OTHERS
from tests.etcd_member import is_sound, need_program, version_of

ROOT = Path(__file__).parents[2]
_SECONDS = 900.0

Report = dict[str, Any]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Run the driver, and return its report."""
    version = version_of(need_program("etcd"))
    need_program("etcdctl")
    if not is_sound(version):
        name = ".".join(map(str, version))
        pytest.skip(f"etcd {name} has faults of its own when its members are stopped")
    file = tmp_path_factory.mktemp("chaos") / "report.json"
    command = [sys.executable, "-m", "tests.chaos", "--store", "etcd", "--short"]
    ended = subprocess.run(
        [*command, "--json", str(file)],
        cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS, check=False,
    )  # fmt: skip
    # The output holds the seed.
    print(ended.stdout, ended.stderr)
    assert file.exists(), "the driver has failed"
    found: Report = json.loads(file.read_text())
    assert ended.returncode == bool(found["problems"])
    return found


@pytest.mark.bad_input(65, 66, 67)
def test_nothing_is_wrong(report: Report) -> None:
    assert report["problems"] == []


@pytest.mark.bad_input(64, 65, 66)
def test_enough_was_done(report: Report) -> None:
    assert report["kills"] >= 10
    assert len(report["injected"]) > len(KILLS) + len(OTHERS) - 2
    assert report["counts"]["answers judged"] > 500
