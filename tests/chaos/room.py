"""A file system without room left: a small one in memory, or else a limit on the size of files."""

import errno
import resource
import subprocess
from collections.abc import Iterable
from pathlib import Path

_SIZE = 64 * 1024 * 1024


class Room:
    """The folder of the store. Where mounting is allowed it is a file system of its own."""

    def __init__(self) -> None:
        self._folder = Path()
        self.is_mounted = False

    def open(self, folder: Path) -> None:
        """Make the folder."""
        folder.mkdir(mode=0o700)
        self._folder = folder
        command = [
            "mount",
            "-t",
            "tmpfs",
            "-o",
            f"size={_SIZE},mode=0700",
            "leeway-chaos",
            str(folder),
        ]
        self.is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0

    def close(self) -> None:
        """Remove the file system."""
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", self._folder], capture_output=True, check=False)

    def fill(self, pids: Iterable[int]) -> str:
        """Leave no room for what these processes write, and say how."""
        if not self.is_mounted:
            for pid in pids:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
            return "a limit on the size of files"
        with (self._folder / "filler").open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
        return "a file system in memory without room"

    def empty(self, pids: Iterable[int]) -> None:
        """Make room again."""
        (self._folder / "filler").unlink(missing_ok=True)
        if not self.is_mounted:
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            for pid in pids:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
