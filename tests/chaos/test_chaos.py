"""The short form of ``python -m tests.chaos``, once, and what it has to say of each fault.

What took longer than its limit is in what it prints, and is judged by ``make chaos`` alone: beside
other tests a time says little of the server.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_SECONDS = 900.0

Report = dict[int, dict[str, Any]]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Run the driver, and return what it says of each row; row 0 is of the time in between."""
    file = tmp_path_factory.mktemp("chaos") / "report.json"
    command = [sys.executable, "-m", "tests.chaos", "--short", "--json", str(file)]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    # Which holds the seed.
    print(ended.stdout, ended.stderr)
    assert file.exists(), "the driver has failed"
    faults = json.loads(file.read_text())["faults"]
    assert ended.returncode == any(fault["problems"] or fault["over"] for fault in faults)
    return {fault["row"]: fault for fault in faults}


def check(report: Report, row: int) -> None:
    fault = report[row]
    if fault["skipped"]:
        pytest.skip(fault["skipped"])
    assert fault["problems"] == []
    assert fault["lost"] == fault["wrong"] == 0
    assert fault["injected"] > 0
    assert fault["requests"] > 100


@pytest.mark.bad_input(36)
def test_clients_that_stall(report: Report) -> None:
    check(report, 36)


@pytest.mark.bad_input(45)
def test_log_ins_at_once(report: Report) -> None:
    check(report, 45)


@pytest.mark.bad_input(47)
def test_everything_killed_under_load(report: Report) -> None:
    check(report, 47)


@pytest.mark.bad_input(48)
def test_a_key_rotation_killed(report: Report) -> None:
    check(report, 48)


@pytest.mark.bad_input(49)
def test_no_room_on_the_disk(report: Report) -> None:
    check(report, 49)


@pytest.mark.bad_input(50)
def test_the_database_locked_under_load(report: Report) -> None:
    check(report, 50)


@pytest.mark.bad_input(51)
def test_a_server_does_not_start_on_a_flipped_bit(report: Report) -> None:
    check(report, 51)


@pytest.mark.bad_input(52)
def test_workers_and_a_master_killed(report: Report) -> None:
    check(report, 52)


@pytest.mark.bad_input(53)
def test_told_to_go_under_load(report: Report) -> None:
    check(report, 53)


@pytest.mark.bad_input(54)
def test_the_clock_stepped_while_it_runs(report: Report) -> None:
    check(report, 54)


@pytest.mark.bad_input(55)
def test_keys_certificates_and_settings_replaced(report: Report) -> None:
    check(report, 55)


def test_between_the_faults_nothing_fails(report: Report) -> None:
    assert report[0]["problems"] == []
    assert report[0]["requests"] > 100
