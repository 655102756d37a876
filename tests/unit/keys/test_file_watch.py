"""Files that are created, changed and removed."""

import os
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest

from keys.file_watch import FileWatch, is_news
from tests.support import wait_until

POLL_SECONDS = 0.02
# Until Linux 6.13 file times advance with its ticks.
KERNEL_TICK = 0.02


def test_each_change_of_each_file_is_reported_once(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("1")
    told: list[bool] = []

    def changed() -> bool:
        told.append(second.exists())
        return True

    watch = FileWatch([first, second], changed, "watch of a test", POLL_SECONDS)
    # Counts although nothing polls yet.
    first.write_text("12")
    watch.start()
    wait_until(lambda: told == [False])
    second.write_text("1")
    wait_until(lambda: told == [False, True])
    second.unlink()
    wait_until(lambda: told == [False, True, False])
    time.sleep(POLL_SECONDS * 5)
    watch.close()
    first.write_text("123")
    time.sleep(POLL_SECONDS * 5)
    assert told == [False, True, False]


def look_alike(file: Path) -> None:
    """Change a file, but not its size, mtime or inode."""
    status = file.stat()
    file.write_text("2")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [lambda file: file.chmod(0o600), look_alike])
def test_a_change_that_keeps_mtime_and_size(tmp_path: Path, change: Callable[[Path], None]) -> None:
    file = tmp_path / "file"
    file.write_text("1")
    file.chmod(0o644)
    time.sleep(KERNEL_TICK)
    told: list[bool] = []

    def changed() -> bool:
        told.append(True)
        return True

    watch = FileWatch([file], changed, "watch of a test", POLL_SECONDS)
    watch.start()
    change(file)
    wait_until(lambda: told)
    watch.close()


REFUSED = "refused"
RAISED = "raised"


@pytest.mark.parametrize(
    "answers", [[], [REFUSED], [RAISED], [REFUSED, RAISED, REFUSED]], ids="-".join
)
def test_a_failed_reload_is_repeated_until_it_succeeds(tmp_path: Path, answers: list[str]) -> None:
    file = tmp_path / "file"
    told: list[str] = []

    def changed() -> bool:
        answer = answers[len(told)] if len(told) < len(answers) else "taken"
        told.append(answer)
        if answer == RAISED:
            raise RecursionError
        return answer == "taken"

    watch = FileWatch([file], changed, "watch of a test", POLL_SECONDS)
    watch.start()
    file.write_text("1")
    wait_until(lambda: "taken" in told)
    time.sleep(POLL_SECONDS * 5)
    assert told == [*answers, "taken"]
    # Without a change; a failed reload is repeated too.
    answers += ["taken", REFUSED]
    watch.notify()
    wait_until(lambda: told == [*answers, "taken"])
    watch.close()


@pytest.mark.parametrize(
    ("problem", "before", "expected"),
    [
        ("a", "", True),
        ("a", "a", False),
        ("mode 0644", "mode 0640", True),
        ("it is 2026-01-02T03:04:05Z; a", "it is 2026-01-02T03:04:06Z; a", False),
        ("it is 2026-01-02T03:04:05Z; b", "it is 2026-01-02T03:04:06Z; a", True),
        ("", "a", True),
    ],
)
def test_problems_that_are_news(problem: str, before: str, expected: bool) -> None:
    assert is_news(problem, before) == expected


def test_an_error_in_a_reload_is_logged_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    told: list[str] = []

    def changed() -> bool:
        told.append(file.read_text())
        raise RecursionError(f"from {told[-1]}")

    watch = FileWatch([file], changed, "watch of a test", POLL_SECONDS)
    watch.start()
    for text in ("1", "12"):
        file.write_text(text)
        expected = [text] * 3
        wait_until(lambda: told[-3:] == expected)  # noqa: B023
    watch.close()
    assert [text for text, _ in groupby(told)] == ["1", "12"]
    for text in ("1", "12"):
        assert caplog.text.count(f"RecursionError: from {text}\n") == 1
    assert caplog.text.count(f"a change of {file} was not taken over") == 2


def test_a_watch_that_was_never_started_can_be_closed(tmp_path: Path) -> None:
    FileWatch([tmp_path], lambda: True, "watch of a test").close()
