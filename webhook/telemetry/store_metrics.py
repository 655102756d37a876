"""The metrics of the store, copied from what its backend counts."""

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

COMMIT_RESULTS: Final = (
    "committed",
    "conflict",
    "not_written",
    "unknown",
    "too_large",
    "failed",
)
"""What became of a change that was sent to etcd."""
RELOAD_REASONS: Final = (
    "start",
    "compacted",
    "foreign",
    "gap",
    "diverged",
    "damaged",
    "cluster",
    "lost_history",
    "behind",
)
"""Why all of the store was loaded."""


class StoreMetrics:
    """The age and the revision of the data, and what became of commits and loads.

    >>> registry = CollectorRegistry()
    >>> metrics = StoreMetrics(registry)
    >>> metrics.report(0.2, 7, {"committed": 3}, {})
    >>> metrics.report(0.1, 8, {"committed": 4}, {})
    >>> registry.get_sample_value("leeway_store_commits_total", {"result": "committed"})
    4.0
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        # Of all workers the one that is furthest behind.
        self._age = Gauge(
            "leeway_store_age_seconds",
            "Time since it was proven that nothing acknowledged is missing: 0 for SQLite, infinite "
            "before the first proof.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._revision = Gauge(
            "leeway_store_revision",
            "The revision of the store that answers come from, 0 before the first load.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._commits = Counter(
            "leeway_store_commits",
            "Transactions sent to etcd with a change, by what became of them.",
            ["result"],
            registry=registry,
        )
        self._reloads = Counter(
            "leeway_store_reloads",
            "Loads of the whole store from etcd, by reason.",
            ["reason"],
            registry=registry,
        )
        for result in COMMIT_RESULTS:
            self._commits.labels(result)
        for reason in RELOAD_REASONS:
            self._reloads.labels(reason)
        self._counted: dict[tuple[Counter, str], int] = {}

    def report(
        self, age: float, revision: int, commits: Mapping[str, int], reloads: Mapping[str, int]
    ) -> None:
        """Set the gauges, and add what was counted since the last report.

        ``age`` is in seconds; the counts are those since the start of the worker.
        """
        self._age.set(age)
        self._revision.set(revision)
        for counter, counts in ((self._commits, commits), (self._reloads, reloads)):
            for label, count in counts.items():
                before = self._counted.get((counter, label), 0)
                if count > before:
                    counter.labels(label).inc(count - before)
                    self._counted[counter, label] = count
