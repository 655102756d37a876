"""A process as the kernel sees it: its resident memory and the processor time that it used."""

import os
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")


class ProcessorTime(NamedTuple):
    """Seconds in the program itself and in the kernel on its behalf, of all threads."""

    user: float
    kernel: float


def resident_bytes(pid: int) -> int:
    """Return VmRSS. Raises FileNotFoundError if there is no such process."""
    status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    return next(
        int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")
    )


def processor_time(pid: int) -> ProcessorTime:
    """Return utime and stime, of proc(5), in steps of a clock tick (10 ms as a rule)."""
    # The name of the program, in parentheses, can contain spaces.
    fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    return ProcessorTime(int(fields[11]) / _TICKS, int(fields[12]) / _TICKS)
