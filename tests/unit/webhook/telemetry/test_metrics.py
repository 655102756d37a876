"""Counts in batches end where counting one by one would have ended."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from webhook.telemetry.metrics import BatchedMetrics, Metrics

BUCKETS = (0.001, 0.01, 0.1)


class Kept:
    """Metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labelled = Counter("reviews", "Of a kind.", ["kind"], registry=self.registry)
        self.counters = [labelled.labels(kind) for kind in "abc"]
        self.histogram = Histogram("seconds", "S.", buckets=BUCKETS, registry=self.registry)
        self.scheduled: list[Callable[[], None]] = []
        self.batched = BatchedMetrics(self.histogram, self.scheduled.append)

    def shown(self) -> str:
        lines = generate_latest(self.registry).decode().splitlines()
        return "\n".join(line for line in lines if "_created" not in line)


SECONDS = st.sampled_from([*BUCKETS, 0.0, 0.25, 2.0]) | st.floats(0, 1)


@given(st.lists(st.tuples(st.integers(0, 2), SECONDS, st.booleans()), max_size=30))
def test_batches_end_as_single_counts(counted: list[tuple[int, float, bool]]) -> None:
    one_by_one, in_batches = Kept(), Kept()
    for index, seconds, flushes in counted:
        one_by_one.counters[index].inc()
        in_batches.batched.count((in_batches.counters[index],), round(seconds * 1024) / 1024)
        one_by_one.histogram.observe(round(seconds * 1024) / 1024)
        if flushes:
            in_batches.batched.flush()
    in_batches.batched.flush()
    assert in_batches.shown() == one_by_one.shown()


def test_a_flush_is_scheduled_once_until_it_is_made() -> None:
    kept = Kept()
    kept.batched.count((kept.counters[0],))
    kept.batched.count((kept.counters[1], kept.counters[2]))
    assert len(kept.scheduled) == 1
    assert 'reviews_total{kind="a"} 0.0' in kept.shown()
    kept.scheduled.pop()()
    assert 'reviews_total{kind="c"} 1.0' in kept.shown()
    kept.batched.count((kept.counters[0],))
    assert len(kept.scheduled) == 1


def test_counts_of_many_threads() -> None:
    kept = Kept()
    threads = [threading.Thread(target=_count, args=(kept,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        kept.batched.flush()
    kept.batched.flush()
    assert 'reviews_total{kind="a"} 20000.0' in kept.shown()
    assert "seconds_count 20000.0" in kept.shown()


def _count(kept: Kept) -> None:
    for _ in range(5000):
        kept.batched.count((kept.counters[0],), 0.5)


def test_a_file_that_is_just_being_created_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # prometheus_client creates a file empty, and gives it its size a moment later.
    (tmp_path / "counter_1.db").touch()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    assert b"leeway_auth_revision 7.0" in Metrics(auth_revision=lambda: 7).render()
