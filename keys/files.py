"""Private files: mode 0600, replaced atomically.

A credential that Leeway only reads can also be a file of a Pod's volume. The kubelet creates those
as links to ``..data``, with a mode of its own choice (0644 for a projected token, 0640 with an
fsGroup). They are private because only the Pod has the mount, so the mode only has to keep others
from writing.
"""

import fcntl
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from keys.errors import KeyFileError
from keys.messages import shown_path

_LOCK_POLL_SECONDS: Final = 0.01


def read_private_file(path: Path) -> bytes:
    """Read a file that only its owner can read.

    Raises KeyFileError if it is missing, empty, not a plain file, or accessible to others.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise KeyFileError(f"{shown_path(path)} is not a plain file")
            _refuse_open_mode(path, status.st_mode)
            data = file.read()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not data.strip():
        raise KeyFileError(f"{shown_path(path)} is empty; restore it or make a new one")
    return data


def read_credential_file(path: Path) -> bytes:
    """Read a private file, or one of a Pod's volume. Raises KeyFileError."""
    if not is_of_volume(path):
        return read_private_file(path)
    check_credential_file(path)
    return read_public_file(path)


def read_public_file(path: Path) -> bytes:
    """Read a file that is not private. Raises KeyFileError if it is missing or empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not data.strip():
        raise KeyFileError(f"{shown_path(path)} is empty; restore it")
    return data


def check_credential_file(path: Path) -> None:
    """Raise KeyFileError for a file that others can read, unless it is of a Pod's volume."""
    if not is_of_volume(path):
        check_private_file(path)
        return
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _unreadable(path, error) from error
    if mode & 0o022:
        raise KeyFileError(
            f"{shown_path(path)} can be written by group or others (mode "
            f"{stat.S_IMODE(mode):04o}); give its volume a defaultMode like 0440"
        )


def is_of_volume(path: Path) -> bool:
    """Return whether a path is a link like those that the kubelet creates in a volume.

    Source: kubernetes ``pkg/volume/util/atomic_writer.go``.
    """
    try:
        return path.readlink().parts[0] == "..data" and (path.parent / "..data").is_symlink()
    except OSError:
        return False


def check_private_file(path: Path) -> None:
    """Raise KeyFileError for a file that is accessible to others; it need not be readable."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _unreadable(path, error) from error
    _refuse_open_mode(path, mode)


def _refuse_open_mode(path: Path, mode: int) -> None:
    if mode & 0o077:
        name = shown_path(path)
        raise KeyFileError(
            f"{name} can be read by group or others (mode {stat.S_IMODE(mode):04o}, 0600 is "
            f"allowed); run `chmod 600 {name}`"
        )


def _unreadable(path: Path, error: OSError) -> KeyFileError:
    name = shown_path(path)
    if isinstance(error, FileNotFoundError):
        return KeyFileError(f"{name} is missing; restore it, or give the path of one that is there")
    return KeyFileError(
        f"{name} cannot be read: {error.strerror}; let the user that this runs as read it"
    )


def create_file(path: Path, data: bytes, mode: int = 0o600) -> bool:
    """Write a new file and its directory entry to disk; return False if the file exists."""
    return _link(_write_temporary(path, data, mode), path)


def write_own_file(path: Path, data: bytes, *, replace: bool) -> bool:
    """Write a private file that belongs to the user of this process, whoever owns the directory.

    Readers see the old or the new file. Without ``replace``, return False if the file exists.
    """
    temporary = _write_temporary(path, data, 0o600, is_own=True)
    if not replace:
        return _link(temporary, path)
    _rename(temporary, path)
    return True


def _link(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    _sync_directory(path.parent)
    return True


def make_folder(path: Path) -> None:
    """Create a folder, if it does not exist, that only the owner of its parent can use."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        hand_over(descriptor, path.parent)
    finally:
        os.close(descriptor)


def hand_over(descriptor: int, like: Path) -> None:
    """Change the owner of a file that root has just created to that of another file.

    Otherwise a server that runs as that owner could not use it. Links are not followed. Raises
    OSError if the owner cannot be changed.
    """
    if os.geteuid() == 0:
        owner = like.lstat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def replace_file(path: Path, data: bytes, mode: int | None = None) -> None:
    """Replace a file atomically: readers see the old or the new text, also after a power cut.

    The file keeps its mode, unless one is given, and its owner, if root replaces it. A new file has
    mode 0600.
    """
    _rename(_write_temporary(path, data, _mode_of(path) if mode is None else mode), path)


def _rename(temporary: Path, path: Path) -> None:
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
    _sync_directory(path.parent)


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Replace or create files that belong together, each like ``replace_file``.

    All are written before the first is renamed, so that a full disk changes nothing.
    """
    written: dict[Path, Path] = {}
    try:
        for path, data in contents.items():
            written[path] = _write_temporary(path, data, _mode_of(path))
        for path in list(written):
            written.pop(path).replace(path)
    finally:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)
    for directory in dict.fromkeys(path.parent for path in contents):
        _sync_directory(directory)


def _mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600


def _write_temporary(path: Path, data: bytes, mode: int, *, is_own: bool = False) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if not is_own:
                hand_over(file.fileno(), path if os.path.lexists(path) else path.parent)
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink()
        raise
    return temporary


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_folder(descriptor: int, folder: Path, seconds: float) -> None:
    """Take the lock of an open folder, which ends when the descriptor is closed.

    Raises TimeoutError, whose text is for people, if another process keeps it for so many seconds.
    """
    deadline = monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if monotonic() > deadline:
                raise TimeoutError(
                    f"{folder} is locked by another process for more than {seconds:g}s; see who "
                    "holds it with `lslocks`, and try again"
                ) from error
        sleep(_LOCK_POLL_SECONDS)
