"""Looks at files again and again, and says when they have changed.

Invariants:

1. A change is told once the files have stood still from one look to the next, so that who reads
   them then reads no half of one.
2. What could not be taken over is told again until it is: not all that may be wrong shows in the
   files, as when a list of revoked certificates is not valid yet.
"""

import logging
import re
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic
from typing import Final

POLL_SECONDS: Final = 1.0
# What fails again and again takes at most one part of so many of the time.
_PARTS: Final = 11
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_logger = logging.getLogger("leeway")
_Stamps = tuple[tuple[int, int, int] | None, ...]


class FileWatch:
    """Watches files, which need not exist.

    Make it before the files are read for the first time: a change counts from then on. ``changed``
    is called in a thread named ``name``, by one caller at a time, and returns whether it has taken
    over what is there. What it raises is logged where it is news, and ends nothing.
    ``poll_seconds`` is the time between two looks.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        changed: Callable[[], bool],
        name: str,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._paths = tuple(paths)
        self._changed = changed
        self._poll_seconds = poll_seconds
        self._told = self._look()
        self._retry_at = inf
        self._raised = ""
        self._telling = Lock()
        self._stopped = Event()
        self._thread = Thread(target=self._follow, name=name, daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and wait for a call of ``changed`` that has begun."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def tell(self) -> None:
        """Call ``changed`` here and now, with or without a change."""
        with self._telling:
            began = monotonic()
            is_taken = self._call()
            ended = monotonic()
            self._retry_at = inf if is_taken else ended + (ended - began) * (_PARTS - 1)

    def _follow(self) -> None:
        seen = self._told
        while not self._stopped.wait(self._poll_seconds):
            stamps = self._look()
            if stamps == seen and (stamps != self._told or monotonic() >= self._retry_at):
                self._told = stamps
                self.tell()
            seen = stamps

    def _call(self) -> bool:
        before, self._raised = self._raised, ""
        try:
            return self._changed()
        except Exception as error:
            # Without this thread no later change would be told.
            self._raised = repr(error)
            if is_news(self._raised, before):
                names = ", ".join(str(path) for path in self._paths)
                _logger.exception("a change of %s was not taken over", names)
            return False

    def _look(self) -> _Stamps:
        return tuple([_stamp(path) for path in self._paths])


def is_news(problem: str, before: str) -> bool:
    """Return whether a problem is another than before, and not the same at another time."""
    return _TIME.sub("", problem) != _TIME.sub("", before)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    # Of the times the one that a chmod changes too: it may be what was wrong.
    return status.st_ctime_ns, status.st_ino, status.st_size
