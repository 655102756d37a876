"""The offset of another clock, from whole seconds and round trips."""

from email.utils import formatdate

import pytest

from webhook.doctor.clock import Sample, check_offset, estimate_offset
from webhook.doctor.findings import Status
from webhook.token.claims import ClockLeeway

START = 1_800_000_000.0
LEEWAY = ClockLeeway(60, 90, 30)


def samples(ahead: float, *moments: float, trip: float = 0.02) -> list[Sample]:
    """Return the answers of a clock that is ``ahead``, asked at some moments."""
    found = []
    for moment in moments:
        sent = START + moment
        date = formatdate(sent + trip / 2 + ahead, usegmt=True)
        found.append(Sample(date, sent, sent + trip))
    return found


MOMENTS = (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize("ahead", [0.0, 0.4, -0.4, 59.9, -3600.0, 92.5])
def test_answers_narrow_the_offset(ahead: float) -> None:
    one = estimate_offset(samples(ahead, 0.0))
    all_ = estimate_offset(samples(ahead, *MOMENTS))
    assert one
    assert all_
    assert one.uncertainty == pytest.approx(0.51)
    assert all_.uncertainty <= 0.14
    for found in (one, all_):
        assert abs(found.ahead - ahead) <= found.uncertainty + 1e-6


def test_a_long_round_trip_is_uncertain() -> None:
    found = estimate_offset(samples(0.0, 0.0, trip=4.0))
    assert found
    assert found.uncertainty == pytest.approx(2.5)


def test_the_quickest_of_contradictory_answers_counts() -> None:
    found = estimate_offset([*samples(0, 0.0, trip=1.0), *samples(50, 2.0, trip=0.01)])
    assert found
    assert found.ahead == pytest.approx(50, abs=0.6)


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 99 Foo 2026 00:00:00 GMT"])
def test_no_date(date: str) -> None:
    assert estimate_offset([Sample(date, START, START)]) is None
    verdict = check_offset(None, "https://api.example", LEEWAY)
    assert verdict.status is Status.FAILURE
    assert "without a Date header" in verdict.finding


# Ahead counts the smaller of notBefore and issuedAt, 60 s, behind counts expiry, 30 s.
@pytest.mark.parametrize(
    ("ahead", "status"),
    [
        (0, Status.OK),
        (29, Status.OK),
        (32, Status.WARNING),
        (59, Status.WARNING),
        (62, Status.FAILURE),
        (-14, Status.OK),
        (-17, Status.WARNING),
        (-32, Status.FAILURE),
    ],
)
def test_offset_compared_with_the_leeway(ahead: float, status: Status) -> None:
    verdict = check_offset(estimate_offset(samples(ahead, *MOMENTS)), "https://a.example", LEEWAY)
    assert verdict.status is status
    assert (verdict.fix != "") is (status is not Status.OK)


def test_uncertainty_alone_is_not_a_fault_without_leeway() -> None:
    nothing = ClockLeeway(0, 0, 0)
    ahead = [
        check_offset(estimate_offset(samples(a, *MOMENTS)), "https://a.example", nothing).status
        for a in (0.05, 2.0)
    ]
    assert ahead == [Status.OK, Status.FAILURE]
