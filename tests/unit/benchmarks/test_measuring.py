"""How benchmarks evaluate their measurements."""

import json
import os
import time
from pathlib import Path

import pytest

from benchmarks.growth import growth_row
from benchmarks.latency import latency_row
from benchmarks.load_client import Load
from benchmarks.processes import processor_time, resident_bytes
from benchmarks.report import Figure, Row, cost_row, limit_row, rate_row, render, write_json
from benchmarks.signer import Measured, Reviews, reviews_row, signing_rows
from benchmarks.soak import Sample, line_of, mark_of, memory_rows, traffic_lines
from benchmarks.soak_traffic import SHARES, Tally
from benchmarks.store_replicas import delay_rows, kills_row

MEGABYTE = 1_000_000


def load(p50: float = 1.0, p99: float = 2.0, errors: int = 0, rate: float = 100.0) -> Load:
    return Load(1_000, errors, 10.0, rate, p50, 1.5, p99, 5.0, 0.5)


def samples(*sizes: tuple[float, int, int]) -> list[Sample]:
    return [Sample(at, 10 * MEGABYTE, (a * MEGABYTE, b * MEGABYTE)) for at, a, b in sizes]


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (rate_row("c", 2.0, ("a", [4.0]), ("b", [2.0]), "x"), "ok"),
        (rate_row("c", 2.1, ("a", [4.0]), ("b", [2.0]), "x"), "MISSED"),
        (rate_row("c", 0.0, ("a", [4.0]), ("b", [2.0]), "x"), "no limit"),
        # The median of the ratios of the rounds, not the ratio of the medians.
        (rate_row("c", 3.0, ("a", [1.0, 6.0, 9.0]), ("b", [1.0, 2.0, 3.0]), "x"), "ok"),
        (cost_row("c", 1.5, ("a", [3.0]), ("b", [2.0]), "x"), "ok"),
        (cost_row("c", 1.4, ("a", [3.0]), ("b", [2.0]), "x"), "MISSED"),
        (limit_row("c", ("a", [5.0]), 5.0, "x"), "ok"),
        (limit_row("c", ("a", [5.1]), 5.0, "x"), "MISSED"),
        (Row("c", skipped="no compiler"), "skipped"),
    ],
)
def test_a_row_says_whether_its_limit_is_met(row: Row, verdict: str) -> None:
    assert row.verdict == verdict
    line = render([row]).splitlines()[1]
    assert line.endswith(verdict)


def test_rows_are_written_as_json(tmp_path: Path) -> None:
    write_json([cost_row("c", 1.5, ("a", [3.0]), ("b", [2.0]), "x")], tmp_path / "rows")
    (row,) = json.loads((tmp_path / "rows").read_text())
    assert (row["claim"], row["ratio"], row["verdict"]) == ("c", 1.5, "ok")
    assert row["measured"] == {"name": "a", "value": 3.0, "unit": "x"}


@pytest.mark.parametrize(
    ("share", "p99", "verdict"),
    [(0.5, 10.0, "ok"), (0.5, 10.5, "MISSED"), (0.25, 10.5, "no limit"), (0.75, 99.0, "no limit")],
)
def test_only_half_of_the_maximum_load_has_a_ceiling(
    share: float, p99: float, verdict: str
) -> None:
    row = latency_row(share, [load(p99=p99)] * 3, [200.0] * 3)
    assert row.verdict == verdict
    assert "100 of 200 requests/s" in row.notes[-1]
    assert f"p99 {p99:.2f} ms" in row.notes[-1]


def test_growth_compares_the_largest_with_the_smallest() -> None:
    row = growth_row("users", "grant", {10: [2.0], 100: [9.0], 1_000: [4.0]}, 1.5)
    assert row.measured == Figure("1,000 users", 4.0, "us")
    assert row.against == Figure("10 users", 2.0, "us")
    assert (row.ratio, row.verdict) == (2.0, "MISSED")
    assert row.notes[-1] == "10: 2 us; 100: 9 us; 1,000: 4 us"


@pytest.mark.parametrize(("minutes", "mark"), [(60, 300.0), (10, 300.0), (2, 60.0)])
def test_a_short_soak_compares_with_its_half(minutes: float, mark: float) -> None:
    assert mark_of(minutes) == mark


@pytest.mark.parametrize(
    ("sizes", "verdicts"),
    [
        ([(300, 100, 100), (3600, 100, 100)], ["ok", "ok", "ok"]),
        ([(300, 100, 100), (3600, 90, 80)], ["ok", "ok", "ok"]),
        ([(300, 100, 100), (3600, 106, 106)], ["MISSED", "MISSED", "MISSED"]),
        # A worker that grows is found beside one that does not.
        ([(300, 100, 100), (3600, 108, 100)], ["ok", "MISSED", "ok"]),
        # What came before the mark does not count, nor does a peak within the minute.
        ([(10, 50, 50), (300, 100, 100), (3600, 100, 100)], ["ok", "ok", "ok"]),
        (
            [(300, 100, 100), (3580, 100, 100), (3590, 300, 300), (3600, 100, 100)],
            ["ok", "ok", "ok"],
        ),
    ],
)
def test_memory_at_the_end_is_compared_with_the_mark(
    sizes: list[tuple[float, int, int]], verdicts: list[str]
) -> None:
    rows = memory_rows(samples(*sizes), 300.0)
    assert [row.verdict for row in rows] == verdicts


@pytest.mark.parametrize("sizes", [[], [(10.0, 1, 1)], [(3600.0, 1, 1)]])
def test_a_soak_that_ended_early_has_nothing_to_compare(
    sizes: list[tuple[float, int, int]],
) -> None:
    assert memory_rows(samples(*sizes), 300.0) == []


def test_a_soak_reports_what_went_wrong() -> None:
    tally = Tally()
    tally.add("known tokens", load(p99=3.0), "")
    tally.add("known tokens", load(p99=9.0, errors=2), "a connection was closed")
    tally.fail("user/add: 500")
    tally.change()
    lines = traffic_lines(tally)
    assert "p99 6.00 ms (the worst leg's 9.00 ms)" in lines[0]
    assert lines[1:] == [
        "changes: 1",
        "errors: 3",
        "  known tokens: a connection was closed",
        "  user/add: 500",
    ]
    line = line_of(Sample(600.0, MEGABYTE, (2 * MEGABYTE, 3 * MEGABYTE)), tally)
    assert line.startswith(" 10 min: 2,000 requests, 1 changes, 3 errors; resident 6.0 MB")


def test_the_shares_of_a_soak_add_up_to_the_load() -> None:
    assert sum(SHARES.values()) == pytest.approx(1.0)


def test_memory_and_time_of_this_process_are_read() -> None:
    pid = os.getpid()
    assert 10 * MEGABYTE < resident_bytes(pid) < 10_000 * MEGABYTE
    before = processor_time(pid)
    deadline = time.process_time() + 0.1
    while time.process_time() < deadline:
        pass
    assert sum(processor_time(pid)) - sum(before) >= 0.05


def test_a_process_that_has_ended_has_no_memory() -> None:
    with pytest.raises(FileNotFoundError):
        resident_bytes(2**30)


@pytest.mark.parametrize(
    ("p50", "rate", "verdicts"),
    [(1.4, 2_000.0, ["ok", "ok"]), (1.6, 1_500.0, ["MISSED", "MISSED"])],
)
def test_signatures_are_compared_with_bare_ones(
    p50: float, rate: float, verdicts: list[str]
) -> None:
    # 0.5 ms a bare signature.
    loads = [load(p50, rate=rate)]
    rows = signing_rows("RS256", Measured(loads, loads, [2_000.0], [700.0], [500.0]))
    assert [row.verdict for row in rows] == verdicts
    assert rows[0].against == Figure("bare signature + 1 ms:", 1.5, "ms")
    assert rows[1].ratio == rate / 2_000.0
    assert "processor time a token: 700 us, of a bare signature 500 us" in rows[1].notes
    # Only RS256 has a floor.
    rows = signing_rows("ES256", Measured(loads, loads, [20_000.0], [700.0], [50.0]))
    assert rows[1].verdict == "no limit"


@pytest.mark.parametrize(("p99", "verdict"), [(10.0, "ok"), (10.5, "MISSED")])
def test_reviews_beside_signatures(p99: float, verdict: str) -> None:
    found = Reviews([load(0.5, 2.0, rate=50.0)], [load(1.0, p99)], [load(rate=10.0)], [100.0])
    row = reviews_row("signatures", 10.0, found)
    assert row.verdict == verdict
    assert row.notes[1].startswith("100 of 100 reviews/s")
    assert row.notes[2] == "without signatures: 50 reviews/s, p50 0.50 ms, p99 2.00 ms"
    assert row.notes[3].startswith("10 signatures/s: ")


def test_a_load_that_is_not_held_is_missed() -> None:
    # All answers are slow, and so a p99 of twice the median means nothing.
    found = Reviews([load(0.5)], [load(300.0, 600.0, rate=94.0)], [load()], [100.0])
    row = reviews_row("signatures", 10.0, found)
    assert (row.verdict, row.ratio) == ("MISSED", 1200.0)


@pytest.mark.parametrize(
    ("delays", "verdicts"),
    [
        ([1.0, 100.0, 3_000.0], ["ok", "ok"]),
        ([1.0, 101.0, 102.0], ["MISSED", "ok"]),
        ([1.0, 2.0, 3_001.0], ["ok", "MISSED"]),
    ],
)
def test_a_revocation_has_a_median_and_a_longest(delays: list[float], verdicts: list[str]) -> None:
    assert [row.verdict for row in delay_rows(delays)] == verdicts


def test_kills_of_the_leader_have_no_limit() -> None:
    row = kills_row(20, load(errors=30))
    assert (row.verdict, row.ratio) == ("no limit", 0.03)
    assert row.measured == Figure("not answered", 30, "reviews")
    assert row.against == Figure("of", 1_000, "reviews")
