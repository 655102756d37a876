"""The highest revision of the store that any worker of this server knows.

Each worker follows a shared store by itself, so that a client could change something in one and be
answered from before its change by another. The workers therefore announce what they know in a file
that all of them have in memory, and none answers from less.

Invariants:

1. Each worker writes a slot of its own, so that no announcement is lost.
2. A worker is behind only what was announced after the moment as of which it knows everything. So
   nothing has to be reset: what a worker that is gone has announced, or what was announced of a
   history that is lost, stops counting with the next proof of each worker.
3. The time is written before the revision and read after it: who sees a revision sees its time.
"""

import fcntl
import mmap
import os
import sys
from pathlib import Path
from threading import Lock
from typing import Final

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
FILE_NAME: Final = "store-revisions"
SLOTS: Final = 1024
"""More than a server has workers, with those that replace them before they have ended."""
_LOWER_AFTER_SECONDS: Final = 1.0
_WORDS: Final = 1 + 2 * SLOTS
_WORD_BYTES: Final = 8


class SharedRevisions:
    """The revisions that the workers of one server announce; times are of CLOCK_BOOTTIME."""

    def __init__(self, folder: Path) -> None:
        """Open the file in a folder that all workers share, or make it. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(folder / FILE_NAME, flags, 0o600)
        try:
            os.ftruncate(self._file, _WORDS * _WORD_BYTES)
            self._memory = mmap.mmap(self._file, _WORDS * _WORD_BYTES)
            slot = self._claimed()
        except BaseException:
            os.close(self._file)
            raise
        words = memoryview(self._memory).cast("Q")
        # How many slots were ever used, then the revisions, then their times in nanoseconds.
        self._used = words[:1]
        self._revisions = words[1 : 1 + SLOTS]
        self._times = words[1 + SLOTS :]
        self._slot = slot
        self._announcing = Lock()
        self._own, self._announced = 0, 0.0
        self._live = self._revisions[:0]

    @classmethod
    def of_environment(cls) -> "SharedRevisions | None":
        """Return those of the folder that the environment names, None without one."""
        folder = os.environ.get(FOLDER_VARIABLE)
        return cls(Path(folder)) if folder else None

    def announce(self, revision: int, now: float) -> None:
        """Tell the other workers of a revision that this one has heard of at ``now``.

        A thread may announce what it has written before another one announces what came earlier; a
        revision that is lower than one of long ago is of a store that has lost its history.
        """
        with self._announcing:
            if revision == self._own or (
                revision < self._own and now - self._announced < _LOWER_AFTER_SECONDS
            ):
                return
            self._own, self._announced = revision, now
            self._times[self._slot] = max(0, int(now * 1e9))  # Invariant 3.
            self._revisions[self._slot] = revision

    def is_behind(self, revision: int, proof: float) -> bool:
        """Return whether another worker knows a later revision than one proven as of ``proof``."""
        used = self._used[0]
        if len(self._live) != used:
            self._live = self._revisions[:used]
        if max(self._live, default=0) <= revision:
            return False
        proven = proof * 1e9
        # Invariant 2.
        return any(
            known > revision and self._times[slot] >= proven
            for slot, known in enumerate(self._live)
        )

    def close(self) -> None:
        """Give the slot back; what it says stays."""
        for view in (self._live, self._used, self._revisions, self._times):
            view.release()
        os.close(self._file)

    def _claimed(self) -> int:
        """Return a slot that no other process has. Raises OSError where there is none."""
        for slot in range(SLOTS):
            try:
                # Of this process until it ends, however it does; no other process writes here.
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
            except (BlockingIOError, PermissionError):
                continue
            self._extend_to(slot + 1)
            return slot
        raise OSError(f"there are more than {SLOTS} workers")

    def _extend_to(self, used: int) -> None:
        # One process at a time, for two could both write their own number.
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, SLOTS)
        try:
            before = int.from_bytes(self._memory[:_WORD_BYTES], sys.byteorder)
            if used > before:
                self._memory[:_WORD_BYTES] = used.to_bytes(_WORD_BYTES, sys.byteorder)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, SLOTS)
