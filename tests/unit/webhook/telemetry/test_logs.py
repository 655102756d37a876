"""A line written without a record is the line of the record."""

import json
import logging
import re
from collections.abc import Iterator

import pytest

from webhook.telemetry.logs import AUDIT_LOGGER, LOGGER, StderrHandler, log_event, log_to_stderr


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Put back what ``log_to_stderr`` changes."""
    import sys
    import threading

    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    switches = logging.logThreads, logging.logMultiprocessing
    levels = {name: logging.getLogger(name).level for name in (LOGGER, AUDIT_LOGGER)}
    yield
    root.handlers = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    logging.logThreads, logging.logMultiprocessing = switches
    logging.captureWarnings(False)
    for name, kept in levels.items():
        logging.getLogger(name).setLevel(kept)


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_lines_without_a_record(log_format: str, capfd: pytest.CaptureFixture[str]) -> None:
    log_to_stderr(log_format, "info")
    logger, fields = logging.getLogger(LOGGER), {"event": "x", "n": 1, "none": None, "é": ["a"]}
    log_event(logger, logging.WARNING, "a message", fields)
    logger.warning("%s", "a message", extra={"fields": fields})
    log_event(logger, logging.DEBUG, "not written", {})
    found = capfd.readouterr().err.splitlines()
    times = re.compile(r"\d\d:\d\d:\d\d(\.\d+)?")
    assert len({times.sub("", line) for line in found}) == 1, found
    assert len(found) == 2
    if log_format == "json":
        assert json.loads(found[0])["event"] == "x"


def test_another_handler_gets_records(caplog: pytest.LogCaptureFixture) -> None:
    assert not any(isinstance(one, StderrHandler) for one in logging.getLogger().handlers)
    caplog.set_level(logging.INFO, LOGGER)
    log_event(logging.getLogger(LOGGER), logging.INFO, "a message", {"n": 1})
    (record,) = caplog.records
    assert (record.getMessage(), vars(record)["fields"]) == ("a message", {"n": 1})
