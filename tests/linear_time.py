"""Whether the time of a call grows in proportion to its input."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from types import FrameType
from typing import Final

MAX_GROWTH: Final = 2.5
"""How much longer an input of twice the size may take. Quadratic time takes 4 times as long."""
# Short enough to be measured often without another process in between.
_LEAST_SECONDS: Final = 0.002
_MAX_ROUNDS: Final = 100
_BUDGET_SECONDS: Final = 10.0
Call = Callable[[], object]


def growth(call: Call, call_of_twice: Call) -> float:
    """Return how many times as long the second call takes, by the shortest of several rounds.

    Stops once that is at most ``MAX_GROWTH``. Returns infinity if everything together takes more
    than 10 s of CPU time, which includes calls that would never end: the engine of ``re`` handles
    signals while it backtracks. What else the machine does makes a round longer, never shorter;
    that cannot be said of CPU time in a virtual machine.
    """
    once = twice = float("inf")
    try:
        with _budget():
            count = _count_of(call)
            for _ in range(_MAX_ROUNDS):
                once = min(once, _seconds(call, count))
                twice = min(twice, _seconds(call_of_twice, count))
                if twice <= MAX_GROWTH * once:
                    break
    except _TooSlowError:
        return float("inf")
    return twice / once


def _count_of(call: Call) -> int:
    """Return how often to repeat a call so that its time can be measured."""
    count = 1
    while _seconds(call, count) < _LEAST_SECONDS:
        count *= 2
    return count


def _seconds(call: Call, count: int) -> float:
    started = perf_counter()
    for _ in range(count):
        call()
    return perf_counter() - started


class _TooSlowError(BaseException):
    pass


@contextmanager
def _budget() -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _TooSlowError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, _BUDGET_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
