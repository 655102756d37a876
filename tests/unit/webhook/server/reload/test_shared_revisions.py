"""Workers announce revisions to each other: real processes with one file."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from webhook.server.reload.shared_revisions import FOLDER_VARIABLE, SharedRevisions

WORKER = """
import sys
from pathlib import Path
from webhook.server.reload.shared_revisions import SharedRevisions

shared = SharedRevisions(Path(sys.argv[1]))
for line in sys.stdin:
    what, *numbers = line.split()
    result = getattr(shared, what)(int(numbers[0]), float(numbers[1]))
    print(result, flush=True)
"""


class Worker:
    """A process with a slot of its own."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", WORKER, str(folder)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def call(self, what: str, revision: int, seconds: float) -> str:
        sent, answers = self.process.stdin, self.process.stdout
        assert sent is not None
        assert answers is not None
        sent.write(f"{what} {revision} {seconds}\n")
        sent.flush()
        return answers.readline().strip()

    def announce(self, revision: int, now: float) -> None:
        assert self.call("announce", revision, now) == "None"

    def is_behind(self, revision: int, proof: float) -> bool:
        return self.call("is_behind", revision, proof) == "True"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def workers(folder: Path, number: int) -> Iterator[list[Worker]]:
    made = [Worker(folder) for _ in range(number)]
    try:
        yield made
    finally:
        for each in made:
            each.end()


def test_a_worker_is_behind_what_another_knows_until_it_knows_it_or_has_a_proof(
    tmp_path: Path,
) -> None:
    with workers(tmp_path, 3) as (first, second, third):
        for each in (first, second, third):
            assert not each.is_behind(0, 0.0)
        first.announce(7, now=100.0)
        second.announce(9, now=101.0)
        # Of two announcements none is lost.
        assert third.is_behind(8, proof=99.0)
        assert third.is_behind(6, proof=99.0)
        assert not third.is_behind(9, proof=99.0)
        # A read that was sent after it would have shown it: it is of a history that is gone.
        assert not third.is_behind(6, proof=101.5)
        # It is never behind itself alone.
        assert not second.is_behind(9, proof=-1.0)
        assert first.is_behind(7, proof=100.5)


def test_a_worker_that_is_gone_holds_up_nobody_for_long_and_leaves_its_slot(
    tmp_path: Path,
) -> None:
    with workers(tmp_path, 1) as (stays,):
        stays.announce(1, now=100.0)
        for number in range(5):
            with workers(tmp_path, 1) as (leaves,):
                leaves.announce(10 + number, now=101.0 + number)
            # What it knew may have been acknowledged.
            assert stays.is_behind(9, proof=100.5)
            assert not stays.is_behind(9, proof=102.0 + number)
        with workers(tmp_path, 1) as (another,):
            another.announce(20, now=200.0)
            assert stays.is_behind(19, proof=199.0)
    assert SharedRevisions(tmp_path)._used[0] == 2


def test_a_lower_revision_is_of_a_lost_history_only_after_a_while(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (first, second):
        first.announce(10, now=100.0)
        # Another thread of it applies what came before its own commit.
        first.announce(9, now=100.001)
        assert second.is_behind(9, proof=99.0)
        first.announce(4, now=200.0)
        assert second.is_behind(3, proof=199.0)
        assert not second.is_behind(4, proof=199.0)


def test_without_a_folder_there_is_nobody_to_share_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    assert SharedRevisions.of_environment() is None


def test_the_file_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    shared = SharedRevisions.of_environment()
    assert shared is not None
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    shared.close()
