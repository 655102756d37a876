"""What the signer knows of kube-apiserver's clock reaches the server's report."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.webhook.signer.claims_parts import ISSUER, NOW
from webhook.signer.clock_watch import NODE, ClockWatch
from webhook.skew.snapshots import SkewFiles, read_snapshot
from webhook.skew.tracker import WINDOW_SECONDS, ClockState, Estimate, SkewTracker, estimate
from webhook.token.claims import Claims, ObjectReference


def stamped(ahead: int) -> Claims:
    """Return the claims of a Pod's token; its node has a clock of its own."""
    account = ObjectReference("a", "u")
    node = ObjectReference("node-1", "n")
    return Claims(ISSUER, "", (), "", account, issued_at=NOW + ahead, node=node)


class FakeClock:
    """A clock that can be set."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "signer-skew.json"


def estimates(path: Path) -> list[Estimate]:
    return estimate(read_snapshot(path, NOW), NOW)


@pytest.mark.parametrize(
    ("ahead", "state"),
    [(90, ClockState.AHEAD), (0, ClockState.IN_STEP), (-90, ClockState.BEHIND)],
    ids=["fast", "in step", "slow"],
)
def test_ten_calls_tell_the_clock(path: Path, ahead: int, state: ClockState) -> None:
    watch = ClockWatch(path, FakeClock())
    for _ in range(10):
        watch.see(stamped(ahead), NOW + 0.25)
    watch.write_new()
    assert path.stat().st_mode & 0o777 == 0o600
    found = {(entry.node, entry.claim): entry for entry in estimates(path)}
    clock = found[NODE, "iat"]
    assert (clock.issuer, clock.state, clock.ahead, clock.tokens) == (
        ISSUER, state, ahead - 0.25, 10,
    )  # fmt: skip
    assert "node-1" not in {node for node, _ in found}


def test_it_is_written_only_if_there_is_news(path: Path) -> None:
    watch = ClockWatch(path, FakeClock())
    watch.write_new()
    assert not path.exists()
    watch.see(stamped(0), NOW)
    watch.write_new()
    path.unlink()
    watch.write_new()
    assert not path.exists()


def test_what_was_measured_with_a_wrong_clock_is_forgotten(path: Path) -> None:
    clock = FakeClock()
    watch = ClockWatch(path, clock)
    watch.see(stamped(0), NOW)
    watch.write_new()
    assert estimates(path)
    clock.now += 3600
    watch.write_new()
    assert json.loads(path.read_bytes()) == []


def test_a_folder_that_cannot_be_written_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "later"
    watch = ClockWatch(folder / "signer-skew.json", FakeClock())
    for ahead in range(3):
        watch.see(stamped(ahead), NOW)
        watch.write_new()
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (
            logging.WARNING,
            "what is known of kube-apiserver's clock is not shared with `leeway skew`: "
            f"{folder}/signer-skew.json: No such file or directory",
        )
    ]
    folder.mkdir()
    watch.write_new()
    assert estimates(folder / "signer-skew.json")[0].ahead == 2


def _missing(path: Path) -> None:
    path.unlink()


def _old(path: Path) -> None:
    import os

    os.utime(path, (0, NOW - 2 * WINDOW_SECONDS - 1))


@pytest.mark.parametrize(
    "spoil",
    [
        _missing,
        _old,
        lambda path: path.write_text("{"),
        lambda path: path.write_text("[1]"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_bytes(b"\xff"),
        lambda path: path.write_text("[" + " " * 1024 * 1024 + "]"),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["missing", "old", "not JSON", "wrong type", "deep", "not UTF-8", "large", "a folder"],
)
def test_a_file_that_cannot_be_used_hides_no_other_clock(
    path: Path, spoil: Callable[[Path], object]
) -> None:
    watch = ClockWatch(path, FakeClock())
    watch.see(stamped(0), NOW)
    watch.write_new()
    spoil(path)
    assert read_snapshot(path, NOW) == []


def test_the_server_reads_it_with_the_files_of_its_workers(tmp_path: Path, path: Path) -> None:
    watch = ClockWatch(path)
    watch.see(stamped(0), NOW)
    watch.write_new()
    workers = tmp_path / "workers"
    workers.mkdir()
    for folder in (workers, None):
        files = SkewFiles(SkewTracker(), folder, path)
        own, signer = files.estimates(), read_snapshot(path, 0)
        assert signer
        assert own == [] or {entry.node for entry in own} == {"", NODE}
