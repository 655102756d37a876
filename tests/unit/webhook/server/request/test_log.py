"""Bounds on what clients can make a server write."""

import logging
from collections.abc import Iterator
from threading import Event

import pytest

from webhook.server.request.log import CRASHES_A_SECOND, RequestLog
from webhook.server.request.message import Request
from webhook.telemetry.bounded_log import LINES_A_SECOND, BoundedLog


class Kept(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.told = Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        if getattr(record, "fields", {}).get("event") == "left-out":
            self.told.set()


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    logger = logging.getLogger("leeway")
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_so_many_lines_a_second_and_the_rest_is_counted(kept: Kept) -> None:
    times = (5.0, 5.1, 5.2, 5.3, 5.9, 6.0, 6.5, 6.9, 6.99, 9.0)
    log = BoundedLog("x", 3, iter(times).__next__)
    for now in times:
        log.log(logging.getLogger("leeway"), logging.INFO, str(now), dict)
    written = [float(record.getMessage()) for record in kept.records]
    assert written == [5.0, 5.1, 5.2, 6.0, 6.5, 6.9, 9.0]
    assert kept.told.wait(10)
    assert kept.records[-1].fields == {"event": "left-out", "of": "x", "count": 3}  # type: ignore[attr-defined]


def test_what_is_left_out_is_told_once_a_second(kept: Kept) -> None:
    log = BoundedLog("x", 3)
    made: list[int] = []

    def fields(number: int) -> dict[str, object]:
        made.append(number)
        return {"n": number}

    logger = logging.getLogger("leeway")
    for number in range(10):
        log.log(logger, logging.INFO, "m", lambda n=number: fields(n))  # type: ignore[misc]
        log.log(logger, logging.DEBUG, "m", lambda: fields(-1))
    assert made == [0, 1, 2]
    assert kept.told.wait(10)
    assert len(kept.records) == 4
    assert kept.records[-1].fields == {"event": "left-out", "of": "x", "count": 7}  # type: ignore[attr-defined]
    kept.told.clear()
    assert not kept.told.wait(1.5)


def test_crashes_are_bounded_and_keep_their_tracebacks(kept: Kept) -> None:
    crashes = 10 * CRASHES_A_SECOND
    log, request = RequestLog(), Request("POST", "/v3/auth/authenticate")
    for number in range(crashes):
        try:
            raise RecursionError(number)
        except RecursionError as error:
            log.crashed(request, error)
    assert kept.told.wait(10)
    *written, left_out = kept.records
    assert CRASHES_A_SECOND <= len(written) < crashes
    for number, record in enumerate(written[:CRASHES_A_SECOND]):
        assert (record.levelname, record.getMessage()) == ("ERROR", "a request failed")
        assert record.fields["event"] == "request"  # type: ignore[attr-defined]
        assert record.exc_info is not None
        assert str(record.exc_info[1]) == str(number)
        assert record.exc_info[2] is not None
    count = crashes - len(written)
    assert left_out.levelname == "ERROR"
    assert left_out.fields == {"event": "left-out", "of": "crash", "count": count}  # type: ignore[attr-defined]


def test_answers_about_permissions_are_bounded(kept: Kept) -> None:
    logging.getLogger("leeway").setLevel(logging.DEBUG)
    log, request = RequestLog(), Request("POST", "/")
    for _ in range(LINES_A_SECOND + 7):
        log.decided(request, "alice", "granted by role viewers", allowed=True)
    assert kept.told.wait(10)
    fields = [record.fields for record in kept.records]  # type: ignore[attr-defined]
    written = [found for found in fields if found["event"] == "accessreview"]
    assert LINES_A_SECOND <= len(written) < LINES_A_SECOND + 7
    assert (written[0]["user"], written[0]["allowed"]) == ("alice", True)
    left_out = LINES_A_SECOND + 7 - len(written)
    assert fields[-1] == {"event": "left-out", "of": "accessreview", "count": left_out}
