"""How much of the machine others used: a time limit means seconds of an idle machine.

The CPU seconds that other processes and other machines on the same host took, by the kernel's
counters. On a quiet machine there are none, and the time is what the clock on the wall says.
"""

import ctypes
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_CORES = os.cpu_count() or 1
_SHORTEST_SECONDS = 0.25
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
# Idle, and waiting for input and output.
_NOT_BUSY = (3, 4)


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds by a clock that never jumps, and the part of the machine that others had."""

    wall: float
    others: float

    @property
    def own(self) -> float:
        """Return the seconds without the part that the others had."""
        return self.wall * (1 - self.others)


@dataclass(slots=True)
class Stopwatch:
    """Runs from its creation."""

    started: float = field(default_factory=time.monotonic)
    _others: float = field(default_factory=lambda: _others_seconds())  # noqa: PLW0108 - it is below

    def read(self) -> Spent:
        wall = time.monotonic() - self.started
        others = _others_seconds() - self._others
        # The kernel counts in hundredths of a second: less than this cannot be measured.
        part = others / (_CORES * wall) if wall > _SHORTEST_SECONDS else 0.0
        return Spent(wall, min(max(part, 0.0), 0.95))


def adopt_orphans() -> None:
    """Have processes of ours whose parent is killed come to this one, so that they stay ours."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def bury(pid: int) -> bool:
    """Reap an adopted process, and return whether it has ended."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _others_seconds() -> float:
    """Return the CPU seconds of whatever is not ours."""
    return _machine_seconds() - _own_seconds(os.getpid())


def _machine_seconds() -> float:
    """Return the CPU seconds of all processes, and those that the host gave to others."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    return sum(int(f) for n, f in enumerate(fields) if n not in _NOT_BUSY) / _TICKS


def _own_seconds(pid: int) -> float:
    """Return the CPU seconds of a process, of all below it, and of those that it has buried."""
    seconds = 0.0
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        seconds = sum(map(int, fields[11:15])) / _TICKS
        for task in Path(f"/proc/{pid}/task").iterdir():
            children = (task / "children").read_text().split()
            seconds += sum(_own_seconds(int(child)) for child in children)
    return seconds
