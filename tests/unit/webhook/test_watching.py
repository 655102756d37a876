"""Files that come, change and go."""

import time
from collections.abc import Callable
from pathlib import Path

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


def test_a_watch_that_was_never_started_can_be_closed(tmp_path: Path) -> None:
    FileWatch([tmp_path], lambda: None, "watch of a test").close()
