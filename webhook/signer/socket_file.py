"""The file of the Unix socket: its folder, its mode, and whether another process listens on it.

Invariants:

1. The permissions of the folder and of the file are the only protection, so a folder in which
   others can write is refused, and the file has its mode before anybody can connect to it: it is
   bound under another name, and renamed.
2. A socket on which a process listens is never replaced, and what is not a socket is never removed.
"""

import contextlib
import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from keys.files import lock_folder
from webhook.config.groups import find_group
from webhook.errors import ConfigurationError, DataDirectoryError
from webhook.telemetry.logs import LOGGER

_FOLDER_MODE: Final = 0o750
_CONNECT_SECONDS: Final = 2.0
_LOCK_SECONDS: Final = 5.0
_logger = logging.getLogger(LOGGER)


class SocketFile:
    """The file at ``path``; ``group`` is the number of the group that can connect to it.

    Without a group only the owner and root can.
    """

    def __init__(self, path: Path, group: int | None = None) -> None:
        self.path = path
        self.group = group
        self._identity: tuple[int, int] | None = None

    def problem(self) -> str:
        """Return why nobody can connect; empty if the file is still the one that was created."""
        try:
            is_ours = self._identity == _identity(self.path)
        except OSError as error:
            return f"{self.path}: {error.strerror}; restart the signer"
        return "" if is_ours else f"{self.path} is not this signer's any more; restart the signer"

    def remove(self) -> None:
        """Remove the file, unless it is another one by now (invariant 2)."""
        with contextlib.suppress(FileNotFoundError):
            if self._identity == _identity(self.path):
                self.path.unlink()

    @contextlib.contextmanager
    def claimed(self) -> Iterator[Path]:
        """Yield the name to bind to; then the socket gets its mode, and then its own name.

        Raises DataDirectoryError if the folder or what is there now does not allow that.
        """
        folder = self._open_folder()
        try:
            # If two signers start together, the second sees the socket of the first.
            self._lock(folder)
            self._refuse_used()
            temporary = self._free_name()
            try:
                before = os.umask(0o177)
                try:
                    yield temporary
                finally:
                    os.umask(before)
                self._give_to_group(temporary)  # Invariant 1.
                temporary.chmod(0o600 if self.group is None else 0o660)
                self._identity = _identity(temporary)
                temporary.rename(self.path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        finally:
            os.close(folder)

    def _open_folder(self) -> int:
        """Open the folder, which is created if it is missing."""
        folder = self.path.parent
        try:
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=_FOLDER_MODE)
                self._prepare(folder)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise DataDirectoryError(
                f"{folder}, the folder of the signer's socket, cannot be used: {error.strerror}; "
                "create it, owned by the user that this runs as, or set signer.socket"
            ) from error
        status = os.fstat(descriptor)
        problem = _problem_of(folder, status)
        if problem:
            os.close(descriptor)
            raise DataDirectoryError(problem)
        if self.group is not None and not _can_enter(status, self.group):
            _logger.warning(
                "group %d, of signer.group, cannot enter %s (group %d, mode %04o), so it cannot "
                "connect; run `chgrp %d %s`, with mode 0750",
                self.group,
                folder,
                status.st_gid,
                stat.S_IMODE(status.st_mode),
                self.group,
                folder,
            )
        return descriptor

    def _prepare(self, folder: Path) -> None:
        try:
            folder.chmod(_FOLDER_MODE)
            self._give_to_group(folder)
        except BaseException:
            # The next start would take it as it is.
            folder.rmdir()
            raise

    def _give_to_group(self, path: Path) -> None:
        if self.group is None:
            return
        try:
            os.chown(path, -1, self.group)
        except PermissionError as error:
            raise DataDirectoryError(
                f"{self.path} cannot be given to group {self.group}; let the user that this runs "
                "as be a member of it, or set signer.group"
            ) from error

    def _free_name(self) -> Path:
        # Not longer than the final one, which can have the longest length that is allowed.
        length = min(12, len(os.fsencode(self.path.name)))
        while True:
            name = self.path.with_name(os.urandom(6).hex()[:length])
            if not os.path.lexists(name):
                return name

    def _lock(self, folder: int) -> None:
        # Every process that can read the folder can hold its lock, so the wait is limited.
        try:
            lock_folder(folder, self.path.parent, _LOCK_SECONDS)
        except TimeoutError as error:
            raise DataDirectoryError(str(error)) from error

    def _refuse_used(self) -> None:
        # Invariant 2.
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise DataDirectoryError(
                f"{self.path} exists and is not a socket; remove it, or set signer.socket"
            )
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_CONNECT_SECONDS)
            try:
                client.connect(str(self.path))
            except ConnectionRefusedError:
                return  # Stale: its process has ended.
            except OSError as error:
                why = error.strerror or str(error)
                raise DataDirectoryError(
                    f"{self.path} exists, and it is not known whether a process listens on it: "
                    f"{why}; remove it if none does"
                ) from error
        raise DataDirectoryError(
            f"another process listens on {self.path}; stop it, or set signer.socket"
        )


def _problem_of(folder: Path, status: os.stat_result) -> str:
    """Return how another user could replace a socket in a folder, empty if none can."""
    # Invariant 1.
    user, mode = os.geteuid(), stat.S_IMODE(status.st_mode)
    if status.st_uid not in (0, user):
        return (
            f"{folder} belongs to user {status.st_uid}, who could replace the signer's socket, "
            f"and this runs as user {user}; a signer of user {status.st_uid} may be running "
            "already: stop it, and run one or the other, with a folder of its own user"
        )
    if mode & 0o022:
        return (
            f"users other than the signer's can write in {folder} (mode {mode:04o}), and could "
            "replace its socket; a folder of its own with mode 0750 is right"
        )
    return ""


def _can_enter(status: os.stat_result, group: int) -> bool:
    return bool(status.st_mode & (0o010 if status.st_gid == group else 0o001))


def _identity(path: Path) -> tuple[int, int]:
    # The number of an inode is not used again while the signer has its socket open.
    status = path.lstat()
    return status.st_dev, status.st_ino


def group_id(group: str) -> int | None:
    """Return the number of ``signer.group``, None if it is not set.

    Raises ConfigurationError if this system has no such group.
    """
    if not group:
        return None
    number = find_group(group)
    if number is None:
        raise ConfigurationError(
            f"signer.group is {group!r}, which is not a group of this system; create it, or give "
            "another one"
        )
    return number
