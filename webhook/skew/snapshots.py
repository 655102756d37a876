"""Shares what the workers know of clocks: each writes a file, and each reads all of them.

The folder is the one that the workers share for metrics. Its files are replaced atomically. The
file of a worker that has gone counts until the window has passed.
"""

import os
from pathlib import Path
from time import time
from typing import Final

from webhook.skew.tracker import WINDOW_SECONDS, Estimate, SkewTracker, estimate

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_PATTERN: Final = "skew-*.json"


class SkewFiles:
    """The snapshots of all workers, or only of this one if they share no folder."""

    def __init__(self, tracker: SkewTracker, folder: Path | None = None) -> None:
        self.tracker = tracker
        self._folder = folder
        self._own = b"[]"

    @classmethod
    def of_environment(cls, tracker: SkewTracker) -> "SkewFiles":
        """Use the folder that the environment names, if any."""
        folder = os.environ.get(FOLDER_VARIABLE)
        return cls(tracker, Path(folder) if folder else None)

    def take_snapshot(self) -> bool:
        """Take a snapshot if there is news, and return whether there was; then call ``write``.

        To be called in the event loop of the tracker.
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
        """Estimate every clock from what all workers had seen about a second ago."""
        now = time()
        return estimate(self._snapshots(now), now)

    def _snapshots(self, now: float) -> list[bytes]:
        if self._folder is None:
            return [self._own]
        found = []
        for path in sorted(self._folder.glob(_PATTERN)):
            try:
                if path.stat().st_mtime < now - 2 * WINDOW_SECONDS:
                    # Its worker has gone, or has seen nothing new for long.
                    path.unlink()
                    continue
                found.append(path.read_bytes())
            except FileNotFoundError:
                continue
        return found
