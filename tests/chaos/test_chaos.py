"""The short form of ``python -m tests.chaos``, run once, and its report of each fault.

What took longer than its limit is in what it prints, and is judged by ``make chaos`` alone: beside
other tests a time says little of the server.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.driver import FAULTS

ROOT = Path(__file__).parents[2]
_SECONDS = 900.0

Report = dict[int, dict[str, Any]]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Run the driver, and return its report of each row; row 0 is the time in between."""
    file = tmp_path_factory.mktemp("chaos") / "report.json"
    command = [sys.executable, "-m", "tests.chaos", "--short", "--json", str(file)]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    # The output holds the seed.
    print(ended.stdout, ended.stderr)
    assert file.exists(), "the driver has failed"
    faults = json.loads(file.read_text())["faults"]
    assert ended.returncode == any(fault["problems"] or fault["over"] for fault in faults)
    return {fault["row"]: fault for fault in faults}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=title, marks=pytest.mark.bad_input(row))
        for row, (title, _) in FAULTS.items()
    ],
)
def test_a_fault_under_load(report: Report, row: int) -> None:
    fault = report[row]
    if fault["skipped"]:
        pytest.skip(fault["skipped"])
    assert fault["problems"] == []
    assert fault["lost"] == fault["wrong"] == 0
    assert fault["injected"] > 0
    assert fault["requests"] > 100


def test_between_the_faults_nothing_fails(report: Report) -> None:
    assert report[0]["problems"] == []
    assert report[0]["requests"] > 100
