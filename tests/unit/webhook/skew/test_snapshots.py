"""What workers know about clocks, in files that all of them read."""

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from webhook.server.reload.background import SkewWriter, every
from webhook.skew.snapshots import FOLDER_VARIABLE, SkewFiles
from webhook.skew.tracker import WINDOW_SECONDS, SkewTracker
from webhook.token.claims import Claims, ObjectReference

WORKER = """
import sys, time
from pathlib import Path
from webhook.token.claims import Claims, ObjectReference
from webhook.skew.tracker import SkewTracker
from webhook.skew.snapshots import SkewFiles
files = SkewFiles(SkewTracker(), Path(sys.argv[1]))
now = time.time()
for token in range(10):
    node = ObjectReference(sys.argv[2])
    claims = Claims("i", "s", (), "n", ObjectReference("s"), issued_at=int(now) + 60, node=node)
    files.tracker.see(claims, now, token)
assert files.take_snapshot()
files.write()
"""


def files_in(folder: Path | None, ahead: int = 60, node: str = "a") -> SkewFiles:
    files = SkewFiles(SkewTracker(), folder)
    now = time.time()
    claims = Claims(
        "i",
        "s",
        (),
        "n",
        ObjectReference("s"),
        issued_at=int(now) + ahead,
        node=ObjectReference(node),
    )
    files.tracker.see(claims, now, 1)
    return files


def test_estimates_of_all_workers_are_merged_also_of_ended_ones(tmp_path: Path) -> None:
    for node in ("a", "b", "b"):
        subprocess.run([sys.executable, "-c", WORKER, tmp_path, node], check=True)
    found = SkewFiles(SkewTracker(), tmp_path).estimates()
    assert [(entry.node, entry.tokens) for entry in found] == [("", 30), ("a", 10), ("b", 20)]
    assert all(59 <= entry.ahead <= 60 for entry in found)


def test_only_new_files_are_read(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    assert files.estimates() == []
    assert files.take_snapshot()
    files.write()
    assert not files.take_snapshot()
    assert [entry.node for entry in files.estimates()] == ["", "a"]
    assert [path.name for path in tmp_path.iterdir()] == [f"skew-{os.getpid()}.json"]


def test_without_a_folder_a_worker_knows_its_own_tokens() -> None:
    files = files_in(None)
    assert files.take_snapshot()
    files.write()
    assert [entry.node for entry in files.estimates()] == ["", "a"]


@pytest.mark.parametrize("folder", ["", "here"])
def test_folder_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path) if folder else "")
    files = SkewFiles.of_environment(files_in(None).tracker)
    files.take_snapshot()
    files.write()
    assert len(list(tmp_path.iterdir())) == bool(folder)


def test_unneeded_files_are_removed(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    files.take_snapshot()
    files.write()
    (path,) = tmp_path.iterdir()
    old = time.time() - 3 * WINDOW_SECONDS
    os.utime(path, (old, old))
    assert files.estimates() == []
    assert not path.exists()


# The task of a worker -----------------------------------------------------------------------


class _Clock:
    """A clock that can be set."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def run_writer(files: SkewFiles, *steps: Callable[[], object], clock: _Clock | None = None) -> None:
    """Run the task, and take each step once it had time to write."""

    async def run() -> None:
        task = asyncio.create_task(every(0.005, SkewWriter(files, clock or time.time).write_new))
        for step in steps:
            await asyncio.sleep(0.1)
            step()
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_new_estimates_are_written(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    counts: list[int] = []
    run_writer(files, lambda: counts.append(len(files.estimates())))
    assert counts == [2]


def test_a_step_of_this_clock_invalidates_all_estimates(tmp_path: Path) -> None:
    files, clock = files_in(tmp_path), _Clock()
    counts: list[int] = []

    def count() -> None:
        counts.append(len(files.estimates()))

    def slew() -> None:
        count()
        clock.ahead += 0.2

    def step() -> None:
        count()
        clock.ahead -= 90

    run_writer(files, slew, step, count, clock=clock)
    assert counts == [2, 2, 0]


def test_a_folder_that_cannot_be_written_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "later"
    files = files_in(folder)
    counts: list[int] = []
    with caplog.at_level(logging.WARNING):
        run_writer(files, folder.mkdir, lambda: counts.append(len(files.estimates())))
    assert counts == [2]
    assert "not written down" in caplog.text
