"""The server's clock, which can be stepped while it runs: ``clock.c`` in each of its processes."""

import shutil
import struct
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from .timeline import Timeline

_SOURCE = Path(__file__).with_name("clock.c")


class SteppedClock:
    """A wall clock that is some whole seconds ahead of the right one."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._library = folder / "clock.so"
        self.offsets: Timeline[int] = Timeline(0)
        self._file.write_bytes(struct.pack("q", 0))
        self.missing = "" if shutil.which("cc") else "there is no C compiler; install gcc"
        """Why it cannot be stepped; then it is the right one."""
        if self.missing:
            return
        command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(self._library), str(_SOURCE), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)

    def environment(self) -> Mapping[str, str]:
        """Return the environment of a process with this clock."""
        if self.missing:
            return {}
        return {"LD_PRELOAD": str(self._library), "TEST_CHAOS_CLOCK": str(self._file)}

    def step(self, ahead: int) -> None:
        """Set the clock that many seconds ahead of the right one, at once and in every process."""
        # In place, as it is mapped. Noted first, so that requests meanwhile may see either.
        self.offsets.set(ahead)
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", ahead))

    def now(self) -> float:
        return time.time() + self.offsets.now
