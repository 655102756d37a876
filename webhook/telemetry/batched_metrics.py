"""Counts in this process, and passes on to prometheus_client in lots.

One ``inc`` there is a write to a file that workers share, and costs as much as a check of a token.
A histogram has no way to be told of many values at once but its own parts; a test notices when
they move.

Invariants:

1. Each count is passed on once.
2. What is counted is passed on by the next ``pass_on``, which ``later`` has been asked to call.
"""

from bisect import bisect_left
from collections.abc import Callable
from threading import Lock
from typing import Final

from prometheus_client import Counter, Histogram

Later = Callable[[Callable[[], None]], object]


class Lots:
    """What counters and a histogram of seconds are to count, until it is passed on.

    Safe for threads, as far as ``later`` is.
    """

    def __init__(self, histogram: Histogram, later: Later) -> None:
        self._histogram = histogram
        self._later = later
        self._lock = Lock()
        self._bounds: Final[list[float]] = histogram._upper_bounds  # noqa: SLF001 - see the docstring
        self._is_due = False
        self._take()

    def count(self, *counters: Counter, seconds: float | None = None) -> None:
        """Count one on each counter, and observe a duration."""
        with self._lock:
            counts = self._counts
            for counter in counters:
                counts[counter] = counts.get(counter, 0) + 1
            if seconds is not None:
                self._seconds += seconds
                self._observed[bisect_left(self._bounds, seconds)] += 1
            is_due, self._is_due = self._is_due, True
        if not is_due:
            self._later(self.pass_on)

    def pass_on(self) -> None:
        """Pass on what has been counted."""
        with self._lock:
            counts, observed, seconds = self._counts, self._observed, self._seconds
            self._is_due = False
            self._take()
        for counter, count in counts.items():
            counter.inc(count)
        # In the order of ``Histogram.observe``.
        self._histogram._sum.inc(seconds)  # noqa: SLF001
        for bucket, count in zip(self._histogram._buckets, observed, strict=True):  # noqa: SLF001
            if count:
                bucket.inc(count)

    def _take(self) -> None:
        self._counts: dict[Counter, int] = {}
        self._observed = [0] * len(self._bounds)
        self._seconds = 0.0
