"""Whether the time of a call grows in proportion to its input."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import process_time
from types import FrameType
from typing import Final

MAX_GROWTH: Final = 2.5
"""How much longer an input of twice the size may take. Quadratic time takes 4 times as long."""
_LEAST_SECONDS: Final = 0.01
_MAX_ROUNDS: Final = 25
_BUDGET_SECONDS: Final = 10.0
Call = Callable[[], object]


def growth(call: Call, call_of_twice: Call) -> float:
    """Return how many times as long the second call takes, by the CPU time of several rounds.

    Stops once that is at most ``MAX_GROWTH``. Returns infinity if everything together takes more
    than 10 s of CPU time, which includes calls that would never end: the engine of ``re`` handles
    signals while it backtracks. Medians, because a virtual machine takes the time that was stolen
    from it off at some later moment: what is measured may be too short as well as too long.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    try:
        with _budget():
            count = _count_of(call)
            for _ in range(_MAX_ROUNDS):
                for each, found in zip((call, call_of_twice), seconds, strict=True):
                    found.append(_seconds(each, count))
                if median(seconds[1]) <= MAX_GROWTH * median(seconds[0]):
                    break
    except _TooSlowError:
        return float("inf")
    return median(seconds[1]) / max(median(seconds[0]), 1e-9)


def _count_of(call: Call) -> int:
    """Return how often to repeat a call so that its time can be measured."""
    count = 1
    while _seconds(call, count) < _LEAST_SECONDS:
        count *= 2
    return count


def _seconds(call: Call, count: int) -> float:
    started = process_time()
    for _ in range(count):
        call()
    return process_time() - started


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
