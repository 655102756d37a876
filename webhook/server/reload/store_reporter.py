"""Copies what a store counts to the metrics of a worker."""

from contextlib import suppress
from math import inf

from webhook.assembly import counters_of
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreError, StoreUnavailableError
from webhook.telemetry.store_metrics import StoreMetrics


class StoreReporter:
    """Reports the age, the revision and the counts of a store; never raises for its state."""

    def __init__(self, store: AuthStore, metrics: StoreMetrics) -> None:
        self._store = store
        self._metrics = metrics
        self._counters = counters_of(store)

    def report(self) -> None:
        """Copy what is known now. Never waits."""
        age, revision = inf, 0
        with suppress(StoreError, StoreUnavailableError):  # nothing was loaded yet
            revision = self._store.state.revision
            proof = self._store.backend.proven(revision)
            # SQLite is looked at before each answer.
            age = 0.0 if proof == inf else max(0.0, self._store.now() - proof)
        if self._counters is None:
            self._metrics.report(age, revision, {}, {})
        else:
            self._metrics.report(age, revision, self._counters.commits, self._counters.reloads)
