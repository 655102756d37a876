"""Every metric, with bounded labels.

In a server with several workers prometheus_client keeps the values in files that they share, in the
folder named by ``PROMETHEUS_MULTIPROC_DIR``, which must be set before this module is imported.
"""

import os
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock
from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from webhook.errors import HandshakeFailure, Reason
from webhook.skew.tracker import Estimate
from webhook.telemetry.store_metrics import StoreMetrics
from webhook.token.outcome import Authenticated, Outcome

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
Limit = Literal["login", "connection", "file"]
"""What is limited in number."""
LIMITS: Final[tuple[Limit, ...]] = get_args(Limit)
_DURATION_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0)


class BatchedMetrics:
    """Collects counts and durations in memory, and writes them to prometheus_client in batches.

    A write there goes to a file and takes 1 to 3 µs; see docs/adr/0006-batched-metrics.md. Counts
    are written with the next ``flush``, which ``later`` is given to call. Thread-safe.
    """

    def __init__(self, histogram: Histogram, later: Callable[[Callable[[], None]], object]) -> None:
        self._histogram = histogram
        self._later = later
        self._pending: deque[tuple[tuple[Counter, ...], float | None]] = deque()
        self._is_scheduled = False
        self._lock = Lock()

    def count(self, counters: tuple[Counter, ...], seconds: float | None = None) -> None:
        """Add one to each counter, and observe a duration."""
        self._pending.append((counters, seconds))
        if not self._is_scheduled:
            self._is_scheduled = True
            self._later(self.flush)

    def flush(self) -> None:
        """Write what has been collected."""
        # prometheus_client can observe one value at a time only, so its own parts are used.
        buckets, bounds = self._histogram._buckets, self._histogram._upper_bounds  # noqa: SLF001
        counts: dict[tuple[Counter, ...], int] = {}
        observed, total = [0] * len(bounds), 0.0
        self._is_scheduled = False
        with self._lock:
            while self._pending:
                counters, seconds = self._pending.popleft()
                counts[counters] = counts.get(counters, 0) + 1
                if seconds is not None:
                    observed[bisect_left(bounds, seconds)] += 1
                    total += seconds
            for counters, count in counts.items():
                for counter in counters:
                    counter.inc(count)
            self._histogram._sum.inc(total)  # noqa: SLF001
            for bucket, count in zip(buckets, observed, strict=True):
                if count:
                    bucket.inc(count)


class _SharedFiles(MultiProcessCollector):
    """The metrics of all workers, without the files that a worker is just creating."""

    def collect(self) -> Iterable[Metric]:
        files = [str(path) for path in Path(self._path).glob("*.db") if path.stat().st_size]
        merged: Iterable[Metric] = self.merge(files)  # type: ignore[no-untyped-call]
        return merged


class _Computed(Collector):
    """Gauges that are computed when the metrics are rendered, from what all workers share."""

    def __init__(
        self,
        skew: Callable[[], Iterable[Estimate]],
        auth_revision: Callable[[], int],
        key_age: Callable[[], float],
    ) -> None:
        self._skew = skew
        self._auth_revision = auth_revision
        self._key_age = key_age

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return the gauges. Clocks have a series for each claim of an issuer; nodes have none."""
        skew = GaugeMetricFamily(
            "leeway_token_skew_seconds",
            "How far a claim of the newest token of the last 15 minutes was ahead of this server's "
            "clock when it was used: more than 5 is a clock that is wrong, less than -5 a token "
            "that was old, from which nothing is known of a clock.",
            labels=["issuer", "claim"],
        )
        for estimate in self._skew():
            if not estimate.node:
                skew.add_metric([estimate.issuer, estimate.claim], estimate.ahead)
        yield skew
        yield GaugeMetricFamily(
            "leeway_auth_revision",
            "The auth revision: it grows by one with each change of users, roles and permissions.",
            self._auth_revision(),
        )
        yield GaugeMetricFamily(
            "leeway_signing_key_age_seconds",
            "Time since the active key became active, 0 without one.",
            self._key_age(),
        )


class Metrics:
    """The metrics of one application.

    ``skew`` returns estimates of clocks from what all workers have seen, ``key_age`` the age of the
    active signing key in seconds. ``later`` schedules a function to be called soon: only then do
    the counts of the hot path reach the files that workers share.

    >>> metrics = Metrics()
    >>> metrics.count_permission_check(allowed=True)
    >>> b'leeway_permission_checks_total{allowed="true"} 1.0' in metrics.render()
    True
    """

    def __init__(
        self,
        skew: Callable[[], Iterable[Estimate]] = tuple,
        auth_revision: Callable[[], int] = lambda: 0,
        key_age: Callable[[], float] = lambda: 0.0,
        later: Callable[[Callable[[], None]], object] = lambda call: call(),
    ) -> None:
        self.registry = CollectorRegistry()
        self._computed = _Computed(skew, auth_revision, key_age)
        self.registry.register(self._computed)
        reviews = Counter(
            "leeway_tokenreviews",
            "TokenReviews answered, by result (accepted, refused, or error where the objects of a "
            "token could not be looked up) and reason.",
            ["result", "reason"],
            registry=self.registry,
        )
        self._accepted = reviews.labels("accepted", "")
        self._refused = {
            reason: reviews.labels("error" if reason is Reason.LOOKUP_FAILED else "refused", reason)
            for reason in Reason
        }
        duration = Histogram(
            "leeway_tokenreview_duration_seconds",
            "Time from the complete body of a TokenReview to its answer.",
            buckets=_DURATION_BUCKETS,
            registry=self.registry,
        )
        self._batched = BatchedMetrics(duration, later)
        by_leeway = Counter(
            "leeway_accepted_by_leeway",
            "Tokens accepted only thanks to the leeway, by the claim that needed it.",
            ["claim"],
            registry=self.registry,
        )
        self._by_leeway = {claim: by_leeway.labels(claim) for claim in ("nbf", "exp", "iat")}
        self._valid = self._token_counter("valid", "Projected service account tokens used.")
        self._stale = self._token_counter("stale", "Tokens used after their warnafter.")
        self._legacy = self._token_counter("legacy", "Tokens without an audience used.")

        self.tokens_issued = Counter(
            "leeway_tokens_issued", "Tokens signed for TokenRequests.", registry=self.registry
        )

        self._over_limit = Counter(
            "leeway_over_limit",
            "Log-ins (login) and connections without a client certificate (connection) that were "
            "refused or closed because there were too many of them, and times that connections had "
            "to wait for a file descriptor (file).",
            ["what"],
            registry=self.registry,
        )
        for what in LIMITS:
            self._over_limit.labels(what)

        handshakes = Counter(
            "leeway_tls_handshakes_failed",
            "TLS handshakes that failed, by the reason.",
            ["reason"],
            registry=self.registry,
        )
        self._handshakes = {failure: handshakes.labels(failure) for failure in HandshakeFailure}

        checks = Counter(
            "leeway_permission_checks",
            "Questions about permissions answered in reviews, by the answer.",
            ["allowed"],
            registry=self.registry,
        )
        self._checks = {allowed: checks.labels(str(allowed).lower()) for allowed in (True, False)}
        self._issuers: set[str] = set()
        self._keys_failing = Gauge(
            "leeway_issuer_keys_failing",
            "1 while the keys of a trusted issuer cannot be fetched or read again, else 0.",
            ["issuer"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )

        self._reload_failing = Gauge(
            "leeway_reload_failing",
            "1 while changed files (of configuration, tls, signing-keys, issuer-keys or objects) "
            "cannot be loaded and those from before are in use, else 0.",
            ["what"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )

        self.store = StoreMetrics(self.registry)

    def count_over_limit(self, what: Limit) -> None:
        """Count one that was refused, closed or delayed because there were too many."""
        self._over_limit.labels(what).inc()

    def count_failed_handshake(self, failure: HandshakeFailure) -> None:
        """Count a TLS handshake that failed."""
        self._handshakes[failure].inc()

    def report_reload(self, what: str, *, failing: bool) -> None:
        """Record whether changed files could not be loaded."""
        self._reload_failing.labels(what).set(failing)

    def report_issuer_keys(self, issuer: str, failing: bool) -> None:
        """Record whether the keys of a trusted issuer could not be renewed."""
        self._issuers.add(issuer)
        self._keys_failing.labels(issuer).set(failing)

    def report_trusted(self, issuers: Iterable[str]) -> None:
        """Record that only these issuers are trusted now, so that no keys of others are failing.

        The series of the others stay, at 0: a series that workers share cannot be removed.
        """
        for issuer in self._issuers.difference(issuers):
            self._keys_failing.labels(issuer).set(0)

    def _token_counter(self, kind: str, text: str) -> Counter:
        return Counter(f"serviceaccount_{kind}_tokens", text, registry=self.registry)

    def count_review(self, outcome: Outcome, seconds: float) -> None:
        """Count a TokenReview, answered after ``seconds``."""
        if not isinstance(outcome, Authenticated):
            self._batched.count((self._refused[outcome.error.reason],), seconds)
            return
        if not outcome.claims.audiences:
            kind = self._legacy
        elif outcome.stale_seconds is not None:
            kind = self._stale
        else:
            kind = self._valid
        counters: tuple[Counter, ...] = (self._accepted, kind)
        if outcome.leeway_claims:
            counters += tuple(self._by_leeway[claim] for claim in outcome.leeway_claims)
        self._batched.count(counters, seconds)

    def count_permission_check(self, *, allowed: bool) -> None:
        """Count one answer of a review about a permission."""
        self._batched.count((self._checks[allowed],))

    def flush(self) -> None:
        """Write the counts of the hot path to the files that workers share."""
        self._batched.flush()

    def render(self) -> bytes:
        """Render the metrics of all workers in the Prometheus text format."""
        self._batched.flush()
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        _SharedFiles(registry)  # type: ignore[no-untyped-call]
        registry.register(self._computed)
        return generate_latest(registry)
