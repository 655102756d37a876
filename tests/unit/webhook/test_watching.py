"""Files that come, change and go."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from webhook.watching import FileWatch

POLL_SECONDS = 0.02
WAIT_SECONDS = 10.0


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)


def test_each_change_of_each_file_is_told_once(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("1")
    told: list[bool] = []
    watch = FileWatch(
        [first, second], lambda: told.append(second.exists()), "watch of a test", POLL_SECONDS
    )
    # Counts, though nobody looks yet.
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


def test_what_a_change_raises_is_logged_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    told: list[str] = []

    def changed() -> None:
        told.append(file.read_text())
        raise RecursionError(f"from {told[-1]}")

    watch = FileWatch([file], changed, "watch of a test", POLL_SECONDS)
    watch.start()
    for text in ("1", "12"):
        file.write_text(text)
        wait_until(lambda text=text: told[-1:] == [text])
        wait_until(lambda text=text: f"RecursionError: from {text}" in caplog.text)
    watch.close()
    assert told == ["1", "12"]
    assert f"a change of {file} was not taken over" in caplog.text


def test_a_watch_that_was_never_started_can_be_closed(tmp_path: Path) -> None:
    FileWatch([tmp_path], lambda: None, "watch of a test").close()
