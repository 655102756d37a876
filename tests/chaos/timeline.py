"""A value that changes, and what it was at any moment of a span of time."""

import time
from bisect import bisect_right
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Timeline(Generic[T]):
    """A value and its past, by the clock that never jumps."""

    def __init__(self, value: T) -> None:
        self._times = [float("-inf")]
        self._values = [value]

    @property
    def now(self) -> T:
        return self._values[-1]

    def set(self, value: T) -> None:
        self._times.append(time.monotonic())
        self._values.append(value)

    def during(self, begin: float, end: float) -> Sequence[T]:
        """Return every value that held at some moment from ``begin`` to ``end``."""
        first = bisect_right(self._times, begin) - 1
        return self._values[max(first, 0) : bisect_right(self._times, end)]
