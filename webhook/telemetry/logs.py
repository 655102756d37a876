"""Sends log records to standard error, each in one write.

Invariants:

1. All output of a server is rendered by ``log_lines``: records of gunicorn and other libraries,
   warnings, and uncaught exceptions.
2. A record that cannot be rendered or written is not an error for the code that logs it.
3. Libraries log from WARNING on, whatever the level: at DEBUG some log what they send.
"""

import io
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from time import time
from types import TracebackType
from typing import Any, Final

from webhook.telemetry.log_lines import TRACEBACK, Fields, json_line, text_line

LOGGER: Final = "leeway"
AUDIT_LOGGER: Final = "leeway.audit"
_STDERR: Final = 2
_LINES: Final = {"json": json_line, "text": text_line}
_logger = logging.getLogger(LOGGER)


class LineFormatter(logging.Formatter):
    """Renders records, with their ``fields``, by a function of ``log_lines``."""

    def __init__(self, line: Callable[[float, str, str, Fields], str]) -> None:
        super().__init__()
        self._line = line

    def format(self, record: logging.LogRecord) -> str:
        """Render a record."""
        fields = {"pid": record.process, **getattr(record, "fields", {})}
        if record.exc_info and record.exc_info[1] is not None:
            fields[TRACEBACK] = "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        return self._line(record.created, record.levelname.lower(), record.getMessage(), fields)


class StderrHandler(logging.Handler):
    """Writes each record directly to the descriptor of standard error.

    ``line`` is a function of ``log_lines``.
    """

    def __init__(self, line: Callable[[float, str, str, Fields], str]) -> None:
        super().__init__()
        self.setFormatter(LineFormatter(line))
        self._line = line

    def write(self, seconds: float, level: int, message: str, fields: Fields) -> None:
        """Write a line of this moment without a record."""
        members = {"pid": os.getpid(), **fields}
        line = self._line(seconds, logging.getLevelName(level).lower(), message, members)
        write_all(_STDERR, line.encode("utf-8") + b"\n")

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            line = self.format(record)
        except Exception as error:  # invariant 2
            record.msg, record.args = "a log record could not be rendered", ()
            record.exc_info = (type(error), error, error.__traceback__)
            line = self.format(record)
        write_all(_STDERR, line.encode("utf-8") + b"\n")


class LogStream(io.TextIOBase):
    """Replaces ``sys.stderr`` and logs each line that is written to it (invariant 1)."""

    def __init__(self) -> None:
        super().__init__()
        self._rest = ""

    def writable(self) -> bool:
        """Return True: it can be written to."""
        return True

    def fileno(self) -> int:
        """Return the descriptor of standard error."""
        return _STDERR

    def write(self, text: str) -> int:
        """Log the complete lines, and keep the rest."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                _logger.error("%s", line)
        return len(text)


def log_to_stderr(log_format: str, level: str) -> None:
    """Send all log records of this process to standard error, as ``json`` or ``text``."""
    handler = StderrHandler(_LINES[log_format])
    number = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(number, logging.WARNING))  # invariant 3
    _logger.setLevel(number)
    # At any level: changes are always logged.
    logging.getLogger(AUDIT_LOGGER).setLevel(logging.INFO)
    # They are not in our lines, and take time in each record.
    logging.logThreads = logging.logMultiprocessing = False
    logging.captureWarnings(True)
    sys.excepthook = _log_exception
    threading.excepthook = _log_thread_exception
    sys.unraisablehook = _log_unraisable


def log_event(logger: logging.Logger, level: int, message: str, fields: Fields) -> None:
    """Log a message and fields, as ``logger.log`` does, at half the cost.

    To standard error they are written without a record.
    """
    if not logger.isEnabledFor(level):
        return
    (*handlers,) = logging.getLogger().handlers
    if len(handlers) == 1 and isinstance(handlers[0], StderrHandler):
        handlers[0].write(time(), level, message, fields)
    else:
        logger.log(level, "%s", message, extra={"fields": fields})


def write_all(descriptor: int, data: bytes) -> None:
    """Write data, or as much of it as possible; errors are ignored (invariant 2)."""
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        pass


def _log_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    _logger.critical("an exception was not caught", exc_info=(kind, error, trace))


def _log_thread_exception(arguments: threading.ExceptHookArgs) -> None:
    name = arguments.thread.name if arguments.thread else "unknown"
    _logger.error("thread %s ended by an exception", name, exc_info=arguments.exc_value)


def _log_unraisable(unraisable: Any) -> None:
    message = unraisable.err_msg or "exception ignored"
    _logger.error("%s in %r", message, unraisable.object, exc_info=unraisable.exc_value)
