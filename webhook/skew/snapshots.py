"""Shares what the workers know of clocks: each writes a file, and each reads all of them.

The folder is the one that the workers share for metrics. Its files are replaced atomically. The
file of a worker that has gone counts until the window has passed. ``leeway signer`` is another
process, and shares what it knows in a file of the data directory.
"""

import os
from pathlib import Path
from time import time
from typing import Final

import msgspec

from keys.files import hand_over
from webhook.skew.tracker import WINDOW_SECONDS, Estimate, SkewTracker, estimate

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
SIGNER_FILE: Final = "signer-skew.json"
"""In the data directory."""
_PATTERN: Final = "skew-*.json"
_MAX_BYTES: Final = 1024 * 1024


class SkewFiles:
    """The snapshots of all workers, or only of this one if they share no folder.

    ``signer`` is the file of the signer, which need not exist.
    """

    def __init__(
        self, tracker: SkewTracker, folder: Path | None = None, signer: Path | None = None
    ) -> None:
        self.tracker = tracker
        self._folder = folder
        self._signer = signer
        self._own = b"[]"

    @classmethod
    def of_environment(cls, tracker: SkewTracker, signer: Path | None = None) -> "SkewFiles":
        """Use the folder that the environment names, if any."""
        folder = os.environ.get(FOLDER_VARIABLE)
        return cls(tracker, Path(folder) if folder else None, signer)

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
        write_snapshot(self._folder / f"skew-{os.getpid()}.json", self._own)

    def estimates(self) -> list[Estimate]:
        """Estimate every clock from what all workers had seen about a second ago."""
        now = time()
        return estimate(self._snapshots(now), now)

    def _snapshots(self, now: float) -> list[bytes]:
        found = [] if self._signer is None else read_snapshot(self._signer, now)
        if self._folder is None:
            return [*found, self._own]
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


def write_snapshot(path: Path, snapshot: bytes) -> None:
    """Replace a file, which only its owner can read, atomically. Raises OSError."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        # Root can sign for a server that runs as the owner of the folder.
        hand_over(descriptor, path.parent)
        file.write(snapshot)
    unfinished.replace(path)


def read_snapshot(path: Path, now: float) -> list[bytes]:
    """Read a file of another process: the snapshot, or none if it is missing, old or corrupt."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mtime < now - 2 * WINDOW_SECONDS:
                return []
            snapshot = file.read(_MAX_BYTES)
        estimate([snapshot], now)
    except (OSError, msgspec.MsgspecError):
        return []
    return [snapshot]
