"""The metrics of the store: gauges of now, and counters that only grow by what is new."""

from math import inf

from prometheus_client import CollectorRegistry

from webhook.telemetry.store_metrics import COMMIT_RESULTS, RELOAD_REASONS, StoreMetrics


def values(registry: CollectorRegistry, name: str, label: str) -> dict[str, float]:
    return {
        sample.labels[label]: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def test_every_result_and_reason_has_a_series_from_the_start() -> None:
    registry = CollectorRegistry()
    StoreMetrics(registry)
    commits = values(registry, "leeway_store_commits_total", "result")
    assert commits == dict.fromkeys(COMMIT_RESULTS, 0)
    reloads = values(registry, "leeway_store_reloads_total", "reason")
    assert reloads == dict.fromkeys(RELOAD_REASONS, 0)


def test_only_what_is_new_is_added() -> None:
    registry = CollectorRegistry()
    metrics = StoreMetrics(registry)
    metrics.report(inf, 0, {}, {})
    assert registry.get_sample_value("leeway_store_age_seconds") == inf
    for age, revision in ((0.25, 7), (0.5, 7), (0.0, 9)):
        metrics.report(age, revision, {"committed": revision, "conflict": 1}, {"start": 1})
        assert registry.get_sample_value("leeway_store_age_seconds") == age
        assert registry.get_sample_value("leeway_store_revision") == revision
    commits = values(registry, "leeway_store_commits_total", "result")
    assert (commits["committed"], commits["conflict"], commits["unknown"]) == (9, 1, 0)
    assert values(registry, "leeway_store_reloads_total", "reason")["start"] == 1
