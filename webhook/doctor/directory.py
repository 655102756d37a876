"""Checks the modes and owners of the files in a data directory."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from keys.files import is_of_volume
from webhook.config.paths import PRIVATE_FOLDERS
from webhook.doctor.findings import Verdict, command, failure, ok
from webhook.errors import DataDirectoryError

_PRIVATE: Final = ("keys/*", "tls/*.key", "kubeconfig/*")


class FileFacts(NamedTuple):
    """The mode and owner of a file; ``is_of_volume`` as in ``keys.files``."""

    path: Path
    mode: int
    owner: int
    is_of_volume: bool = False


def facts_of(path: Path) -> FileFacts:
    """Return the facts of a file. Raises OSError."""
    status = path.stat()
    return FileFacts(path, stat.S_IMODE(status.st_mode), status.st_uid, is_of_volume(path))


def open_directory(data_dir: Path) -> FileFacts:
    """Return the facts of a data directory. Raises DataDirectoryError if it cannot be read."""
    if not data_dir.is_dir():
        raise DataDirectoryError.none_at(data_dir)
    if not os.access(data_dir, os.R_OK | os.X_OK):
        raise DataDirectoryError(
            f"{data_dir} cannot be read by this user; run the command as its owner"
        )
    return facts_of(data_dir)


def private_files(
    data_dir: Path, store: Path | None, credentials: Iterable[Path] = ()
) -> list[FileFacts]:
    """Return the facts of every file that only its owner may read.

    ``store`` is the database, ``credentials`` are the files that the configuration names.
    """
    paths = [path for pattern in _PRIVATE for path in sorted(data_dir.glob(pattern))]
    if store is not None:
        paths += [store, store.with_name(f"{store.name}-journal")]
    paths += [path for path in credentials if path not in paths]
    return [facts_of(path) for path in paths if path.is_file()]


def check_directory(found: FileFacts) -> Verdict:
    """Check that only its owner can enter a data directory and write in its folders."""
    for folder in (found.path / name for name in PRIVATE_FOLDERS):
        if folder.is_dir() and (mode := facts_of(folder).mode) & 0o022:
            finding = f"group or others can write in {folder} (mode {mode:04o}, 0700 is right)"
            return failure(finding, command("chmod", "700", folder))
    if found.mode & 0o077:
        finding = f"{found.path} is open to group or others (mode {found.mode:04o}, 0700 is right)"
        return failure(finding, command("chmod", "700", found.path))
    return ok(f"{found.path}, mode {found.mode:04o}")


def check_modes(files: Iterable[FileFacts], owner: int) -> Verdict:
    """Check that private files have mode 0600 or less, and the owner of their directory."""
    files = list(files)
    others = [file for file in files if file.owner != owner and not file.is_of_volume]
    if others:
        finding = f"{_named(others)} of another user than the data directory's (uid {owner})"
        return failure(finding, command("chown", owner, *(file.path for file in others)))
    too_open = [file for file in files if file.mode & (0o022 if file.is_of_volume else 0o177)]
    if too_open:
        modes = ", ".join(sorted({f"{file.mode:04o}" for file in too_open}))
        finding = f"{_named(too_open)} of mode {modes}, 0600 is right"
        return failure(finding, command("chmod", "600", *(file.path for file in too_open)))
    return ok(f"{len(files)} files, none open to others")


def _named(files: list[FileFacts]) -> str:
    names = ", ".join(f"{file.path.parent.name}/{file.path.name}" for file in files[:3])
    rest = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return f"{names}{rest} {'is' if len(files) == 1 else 'are'}"
