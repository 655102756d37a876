"""Looks at files again and again, and says when they have changed.

Invariant: a change is told once the files have stood still from one look to the next, so that who
reads them then reads no half of one.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Final

POLL_SECONDS: Final = 1.0
_logger = logging.getLogger("leeway")
_Stamps = tuple[tuple[int, int, int] | None, ...]


class FileWatch:
    """Watches files, which need not exist.

    Make it before the files are read for the first time: a change counts from then on. ``changed``
    is called in a thread named ``name``; what it raises is logged, and ends nothing.
    ``poll_seconds`` is the time between two looks.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        changed: Callable[[], None],
        name: str,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._paths = tuple(paths)
        self._changed = changed
        self._poll_seconds = poll_seconds
        self._told = self._look()
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

    def _follow(self) -> None:
        seen = self._told
        while not self._stopped.wait(self._poll_seconds):
            stamps = self._look()
            if stamps == seen and stamps != self._told:
                self._told = stamps
                self._tell()
            seen = stamps

    def _tell(self) -> None:
        try:
            self._changed()
        except Exception:
            # Without this thread no later change would be told.
            names = ", ".join(str(path) for path in self._paths)
            _logger.exception("a change of %s was not taken over", names)

    def _look(self) -> _Stamps:
        return tuple([_stamp(path) for path in self._paths])


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
