"""The metrics of ``leeway signer``, with bounded labels."""

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

OK: Final = "ok"
_DURATION_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class SignerMetrics:
    """The metrics of one process. ``results`` are all results of a call, by method.

    >>> metrics = SignerMetrics({"Sign": ["TooLarge"]})
    >>> metrics.count("Sign", OK, 0.001)
    >>> b'leeway_signer_requests_total{method="Sign",result="ok"} 1.0' in metrics.render()
    True
    """

    def __init__(self, results: Mapping[str, Iterable[str]]) -> None:
        self.registry = CollectorRegistry()
        requests = Counter(
            "leeway_signer_requests",
            "Calls of kube-apiserver, by method and result: ok, or why it was refused.",
            ["method", "result"],
            registry=self.registry,
        )
        self._requests = {
            (method, result): requests.labels(method, result)
            for method, refusals in results.items()
            for result in (OK, *refusals)
        }
        self._duration = Histogram(
            "leeway_signer_duration_seconds",
            "Time to check claims and to sign or refuse them, without the time that a call waits.",
            buckets=_DURATION_BUCKETS,
            registry=self.registry,
        )
        self._failing = Gauge(
            "leeway_reload_failing",
            "1 while changed files (of configuration or signing-keys) cannot be loaded and those "
            "from before are in use, or while the socket is gone, else 0.",
            ["what"],
            registry=self.registry,
        )
        for what in ("configuration", "signing-keys", "socket"):
            self.report_failing(what, failing=False)

    def report_failing(self, what: str, *, failing: bool) -> None:
        """Record whether changed files cannot be loaded, or the socket is gone."""
        self._failing.labels(what).set(failing)

    def count(self, method: str, result: str, seconds: float | None = None) -> None:
        """Count a call, and with ``seconds`` observe how long it took."""
        self._requests[method, result].inc()
        if seconds is not None:
            self._duration.observe(seconds)

    def render(self) -> bytes:
        """Render the metrics in the Prometheus text format."""
        return generate_latest(self.registry)
