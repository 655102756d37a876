"""Every metric that is kept, with bounded labels.

In a server of several workers prometheus_client keeps the values in files that all of them
share, in the folder named by ``PROMETHEUS_MULTIPROC_DIR``, which must be set before this module
is imported.
"""

import os
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

from webhook.errors import Reason
from webhook.outcome import Authenticated, Outcome

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_DURATION_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0)


class Metrics:
    """The metrics of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        reviews = Counter(
            "leeway_tokenreviews",
            "TokenReviews answered, by result (accepted or refused) and reason.",
            ["result", "reason"],
            registry=self.registry,
        )
        self._accepted = reviews.labels("accepted", "")
        self._refused = {reason: reviews.labels("refused", reason.value) for reason in Reason}
        self.review_duration = Histogram(
            "leeway_tokenreview_duration_seconds",
            "Time from the whole body of a TokenReview to its answer.",
            buckets=_DURATION_BUCKETS,
            registry=self.registry,
        )
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

    def _token_counter(self, kind: str, text: str) -> Counter:
        return Counter(f"serviceaccount_{kind}_tokens", text, registry=self.registry)

    def count_review(self, outcome: Outcome) -> None:
        """Count one answered TokenReview."""
        if not isinstance(outcome, Authenticated):
            self._refused[outcome.error.reason].inc()
            return
        self._accepted.inc()
        for claim in outcome.leeway_claims:
            self._by_leeway[claim].inc()
        if not outcome.claims.audiences:
            self._legacy.inc()
        elif outcome.stale_seconds is not None:
            self._stale.inc()
        else:
            self._valid.inc()

    def render(self) -> bytes:
        """Render the metrics of all workers in the Prometheus text format."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
