"""A log of lines that clients cause, at most so many a second."""

import logging
from collections.abc import Callable
from threading import Lock, Timer
from time import monotonic
from typing import Final

from webhook.telemetry.log_lines import Fields
from webhook.telemetry.logs import LOGGER

LINES_A_SECOND: Final = 100
_logger = logging.getLogger(LOGGER)


class BoundedLog:
    """Logs up to ``lines`` lines of one kind a second. Safe for threads.

    The number of lines left out is logged once a second. A line that is not logged costs only the
    check of the level.

    ``clock`` returns seconds and never goes back.
    """

    def __init__(
        self, event: str, lines: int = LINES_A_SECOND, clock: Callable[[], float] = monotonic
    ) -> None:
        self._event = event
        self._lines = lines
        self._clock = clock
        self._lock = Lock()
        self._since = float("-inf")
        self._taken = self._left_out = 0
        self._timer: Timer | None = None
        self._level = logging.NOTSET

    def log(
        self,
        logger: logging.Logger,
        level: int,
        message: str,
        make: Callable[[], Fields],
        error: BaseException | None = None,
    ) -> None:
        """Log a line, with an error's traceback. Its fields are only made if it is written."""
        if logger.isEnabledFor(level) and self._take(level):
            logger.log(level, "%s", message, exc_info=error, extra={"fields": make()})

    def _take(self, level: int) -> bool:
        now = self._clock()
        with self._lock:
            if now - self._since >= 1:
                self._since, self._taken = now, 0
            if self._taken < self._lines:
                self._taken += 1
                return True
            self._left_out += 1
            self._level = max(self._level, level)
            if self._timer is None:
                self._timer = Timer(1.0, self._report)
                self._timer.daemon = True
                self._timer.start()
            return False

    def _report(self) -> None:
        with self._lock:
            level, count, self._timer = self._level, self._left_out, None
            self._level, self._left_out = logging.NOTSET, 0
        fields = {"event": "left-out", "of": self._event, "count": count}
        message = f"only {self._lines} lines a second of event {self._event} are written"
        _logger.log(level, "%s", message, extra={"fields": fields})
