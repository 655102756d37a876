"""What happened while one fault was there: counted, and held to what is allowed."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from .contention import Spent, Stopwatch

REVIEW = "review"
WRITE = "write"
_SHOWN = 20
_MOST_OTHERS = 0.5


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without the answer that it wants.

    ``kind`` is ``refused``, ``reset``, ``timeout`` or ``503``; ``port`` the client's own; times
    are by the steady clock.
    """

    what: str
    kind: str
    begin: float
    end: float
    port: int


def nothing(_failure: Failure) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Measured:
    """What something took, and how many seconds it may take; a limit of 0 is none."""

    what: str
    spent: Spent
    limit: float = 0.0

    @property
    def is_judged(self) -> bool:
        """Whether so much of the machine was ours that the time says something of the server."""
        return self.limit > 0 and self.spent.others <= _MOST_OTHERS

    @property
    def is_over(self) -> bool:
        return self.is_judged and self.spent.own > self.limit

    def __str__(self) -> str:
        wall = f" ({self.spent.wall:.2f} s beside others that had {self.spent.others:.0%})"
        told = f"{self.what} {self.spent.own:.2f} s of {self.limit:g} s"
        if not self.is_judged:
            told = f"not judged: {told}"
        return told + wall if self.spent.others >= 0.01 else told


@dataclass
class Window:
    """One fault. ``permits`` says which failures are its own, and may be changed as it goes on."""

    row: int
    name: str
    after: int = 0
    """Of the time between two faults: the one before."""
    permits: Callable[[Failure], bool] = nothing
    injected: int = 0
    requests: int = 0
    lost: int = 0
    put_off: int = 0
    """Writes that were told to try again, though there was no fault in the store."""
    wrong_count: int = 0
    skipped: str = ""
    failed: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    watch: Stopwatch = field(default_factory=Stopwatch)

    def failure(self, failure: Failure) -> None:
        self.failed[f"{failure.what} {failure.kind}"] += 1
        if failure.kind == "503":
            self.refusals.append(failure.end - failure.begin)
        if self.permits(failure):
            return
        if failure.what == WRITE and failure.kind == "503":
            self.put_off += 1
        else:
            self.is_wrong(f"a {failure.what} failed that must not: {failure.kind}")

    def is_wrong(self, what: str) -> None:
        self.wrong_count += 1
        self._tell(what)

    def is_lost(self, what: str) -> None:
        self.lost += 1
        self._tell(f"lost: {what}")

    def _tell(self, what: str) -> None:
        if self.after:
            what = f"after {self.after}: {what}"
        if what in self.wrong or len(self.wrong) < _SHOWN:
            self.wrong[what] += 1

    def measure(self, what: str, spent: Spent, limit: float = 0.0) -> None:
        self.measured.append(Measured(what, spent, limit))

    def measure_beside(self, what: str, seconds: float, limit: float = 0.0) -> None:
        """Note seconds that were measured elsewhere, in the course of this window."""
        self.measure(what, Spent(seconds, self.watch.read().others), limit)

    @property
    def p99(self) -> float:
        """The 99th percentile of the reviews' seconds, from when each was due to its answer."""
        ordered = sorted(self.latencies)
        return ordered[len(ordered) * 99 // 100] if ordered else 0.0

    def close(self) -> None:
        """End it. Where others have the machine the store is held longer than a write waits."""
        if self.put_off and self.watch.read().others <= _MOST_OTHERS:
            self.is_wrong(f"{self.put_off} writes failed that must not: 503")

    @property
    def slowest(self) -> Measured | None:
        """The measurement that is nearest to its limit."""
        limited = [m for m in self.measured if m.is_judged] or [m for m in self.measured if m.limit]
        return max(limited, key=lambda m: m.spent.own / m.limit, default=None)

    @property
    def problems(self) -> list[str]:
        return [f"{what} ({count} times)" for what, count in self.wrong.items()]

    @property
    def over(self) -> list[str]:
        return [f"over its limit: {m}" for m in self.measured if m.is_over]
