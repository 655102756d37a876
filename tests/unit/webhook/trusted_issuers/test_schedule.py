from math import inf

from webhook.trusted_issuers.schedule import FetchSchedule

DAY = 24 * 3600


def test_the_first_attempt_is_due_at_once() -> None:
    schedule = FetchSchedule()
    assert schedule.due == -inf
    assert schedule.may_request(0)
    assert not schedule.was_fetched
    assert not schedule.is_expired(1e9)


def test_nothing_is_due_while_an_attempt_is_made() -> None:
    schedule = FetchSchedule()
    schedule.begin(100)
    assert schedule.due == inf


def test_an_unknown_kid_may_request_30_seconds_after_any_attempt() -> None:
    schedule = FetchSchedule()
    for start in (100.0, 200.0):
        schedule.begin(start)
        schedule.succeeded(start + 5, 300)
        assert not schedule.may_request(start + 29.9)
        assert schedule.may_request(start + 30)
    schedule.begin(300)
    schedule.failed(305)
    assert not schedule.may_request(329.9)
    assert schedule.may_request(330)


def test_pauses_between_attempts_that_fail_grow() -> None:
    schedule = FetchSchedule()
    pauses = []
    for _ in range(40):
        schedule.begin(0)
        schedule.failed(0)
        pauses.append(schedule.due)
    assert pauses[:8] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert pauses[-1] == 300
    schedule.succeeded(0, 600)
    assert schedule.due == 600
    schedule.failed(0)
    assert schedule.due == 5


def test_keys_are_valid_for_a_day() -> None:
    schedule = FetchSchedule()
    schedule.succeeded(0, 600)
    assert not schedule.is_expired(DAY - 1)
    assert schedule.is_expired(DAY)
    for _ in range(10):
        schedule.failed(DAY - 100)
    assert schedule.due == DAY
    schedule.failed(DAY + 100)
    assert schedule.due == DAY + 400
    schedule.succeeded(DAY + 400, 600)
    assert not schedule.is_expired(DAY + 400)
