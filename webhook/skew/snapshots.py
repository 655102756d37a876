"""What each worker knows of clocks, in a file of its own that all of them read.

The folder is the one that the workers share for metrics; the files in it are whole or not there.
What a worker knew stays after it has gone, until the window has passed.
"""

import os
from pathlib import Path
from time import time
from typing import Final

from webhook.skew.tracker import WINDOW_SECONDS, Estimate, SkewTracker, estimate

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_PATTERN: Final = "skew-*.json"


class SkewFiles:
    """The snapshots of all workers; of this one alone where they share no folder."""

    def __init__(self, tracker: SkewTracker, folder: Path | None = None) -> None:
        self.tracker = tracker
        self._folder = folder
        self._own = b"[]"

    @classmethod
    def of_environment(cls, tracker: SkewTracker) -> "SkewFiles":
        """Share the folder that the environment names, if it names one."""
        folder = os.environ.get(FOLDER_VARIABLE)
        return cls(tracker, Path(folder) if folder else None)

    def take_snapshot(self) -> bool:
        """Take what the tracker knows, and say whether that is news, to be written then.

        To be called by the event loop that the tracker belongs to.
        """
        if not self.tracker.changed:
            return False
        self._own = self.tracker.snapshot(time())
        return True

    def write(self) -> None:
        """Write the last snapshot. Raises OSError."""
        if self._folder is None:
            return
        path = self._folder / f"skew-{os.getpid()}.json"
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_bytes(self._own)
        unfinished.replace(path)

    def estimates(self) -> list[Estimate]:
        """Estimate every clock from what all workers have seen, up to about a second ago."""
        now = time()
        return estimate(self._snapshots(now), now)

    def _snapshots(self, now: float) -> list[bytes]:
        if self._folder is None:
            return [self._own]
        found = []
        for path in sorted(self._folder.glob(_PATTERN)):
            try:
                if path.stat().st_mtime < now - 2 * WINDOW_SECONDS:
                    # Of a worker that has gone, or that has seen nothing new since.
                    path.unlink()
                    continue
                found.append(path.read_bytes())
            except FileNotFoundError:
                continue
        return found
