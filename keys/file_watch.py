"""Follows files by polling them in a thread.

Invariants:

1. A change is handled once two polls in a row have seen the same, so that the handler does not
   read a file that is half written.
2. What could not be handled is tried again until it is: not everything that may be wrong shows in
   the files, as when a list of revoked certificates is not valid yet.
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
# A handler that fails is called again after this many times as long as it took.
_RETRY_PAUSES: Final = 10
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_logger = logging.getLogger("leeway")


class PeriodicThread:
    """Calls ``job`` every ``seconds`` in a thread; an exception of it is logged."""

    def __init__(self, seconds: float, job: Callable[[], None], name: str) -> None:
        self._seconds = seconds
        self._job = job
        self._stopped = Event()
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; in a server after the fork."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and wait for a call that has begun."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            try:
                self._job()
            except Exception:
                # Without this thread no later change would be noticed.
                _logger.exception("a job of thread %s failed and is repeated", self._thread.name)


class ChangeDetector:
    """Calls ``handle`` after each change of what ``stamp`` returns.

    A change counts from the construction on: make it before the files are read for the first time.
    ``handle`` returns whether it has succeeded; what it raises is a failure too and reaches the
    caller. ``clock`` is monotonic.

    >>> files, handled = {"a": 1}, []
    >>> detector = ChangeDetector(lambda: dict(files), lambda: handled.append(1) or True)
    >>> files["a"] = 2
    >>> detector.poll(), handled
    (None, [])
    >>> detector.poll(), handled
    (None, [1])
    """

    def __init__(
        self,
        stamp: Callable[[], object],
        handle: Callable[[], bool],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._stamp = stamp
        self._handle = handle
        self._clock = clock
        self._seen = self._handled = stamp()
        self._retry_at = inf

    @property
    def is_settled(self) -> bool:
        """Whether the last poll saw nothing that has yet to be handled."""
        return self._seen == self._handled

    def poll(self) -> None:
        """Look once, and call ``handle`` if a change has settled or a retry is due."""
        stamp = self._stamp()
        is_stable, self._seen = stamp == self._seen, stamp  # invariant 1
        if is_stable and (stamp != self._handled or self._clock() >= self._retry_at):
            self._handled = stamp
            self.run()

    def run(self) -> None:
        """Call ``handle`` now."""
        began, is_done = self._clock(), False
        try:
            is_done = self._handle()  # invariant 2
        finally:
            ended = self._clock()
            self._retry_at = inf if is_done else ended + (ended - began) * _RETRY_PAUSES


class FileWatch(PeriodicThread):
    """Calls ``changed`` in a thread after each change of files, which need not exist.

    Make it before the files are read for the first time. ``changed`` returns whether it has taken
    over the new content; it is called by one thread at a time. An exception is logged unless it is
    the same as the one before.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        changed: Callable[[], bool],
        name: str,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        super().__init__(poll_seconds, self._poll, name)
        self._paths = tuple(paths)
        self._changed = changed
        self._raised = ""
        self._lock = Lock()
        self._detector = ChangeDetector(
            lambda: [_stamp(path) for path in self._paths], self._call_changed
        )

    def notify(self) -> None:
        """Call ``changed`` in this thread, with or without a change."""
        with self._lock:
            self._detector.run()

    def _poll(self) -> None:
        with self._lock:
            self._detector.poll()

    def _call_changed(self) -> bool:
        before, self._raised = self._raised, ""
        try:
            return self._changed()
        except Exception as error:
            self._raised = repr(error)
            if is_news(self._raised, before):
                names = ", ".join(str(path) for path in self._paths)
                _logger.exception("a change of %s was not taken over", names)
            return False


def is_news(problem: str, before: str) -> bool:
    """Return whether a problem differs from the one before in more than the times it names."""
    return _TIME.sub("", problem) != _TIME.sub("", before)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    # The ctime, since a chmod changes it: a wrong mode may have been the problem.
    return status.st_ctime_ns, status.st_ino, status.st_size
