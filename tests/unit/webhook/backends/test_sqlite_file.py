"""A change of the store's file, or of what is at its path, is noticed by the next look."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from webhook.backends import sqlite_file
from webhook.backends.sqlite import SQLiteBackend
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreError, StoreUnavailableError

SETTLING_SECONDS = 0.12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder / "auth.db"


@pytest.fixture
def store(path: Path) -> Iterator[AuthStore]:
    found = AuthStore.loaded(SQLiteBackend(path))
    found.change(changes.add_user, "first")
    yield found
    found.close()


def settle(store: AuthStore) -> None:
    """Wait until one stat of the path is enough to know that nothing has changed."""
    time.sleep(SETTLING_SECONDS)
    store.refresh()


@pytest.mark.parametrize("step_ns", [50_000_000, 1_000_000_000], ids=["50 ms", "1 s"])
def test_a_commit_is_seen_for_any_resolution_of_the_file_systems_clock(
    store: AuthStore, path: Path, monkeypatch: pytest.MonkeyPatch, step_ns: int
) -> None:
    """Several commits have the same time of change."""

    def coarse(name: bytes) -> SimpleNamespace:
        found = Path(os.fsdecode(name)).stat()
        changed = found.st_ctime_ns // step_ns * step_ns
        return SimpleNamespace(st_ctime_ns=changed, st_ino=found.st_ino, st_dev=found.st_dev)

    monkeypatch.setattr(sqlite_file, "os", SimpleNamespace(**{**vars(os), "stat": coarse}))
    theirs = AuthStore.loaded(SQLiteBackend(path))
    for number in range(60):
        if number % 20 == 10:
            settle(store)
        theirs.change(changes.add_user, f"user{number}")
        store.refresh()
        store.refresh()
        assert f"user{number}" in store.state.users
    theirs.close()


def test_a_check_of_a_quiet_file_reads_nothing(
    store: AuthStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(store)

    def pread(*_: Any) -> NoReturn:
        raise AssertionError

    monkeypatch.setattr(sqlite_file, "os", SimpleNamespace(**{**vars(os), "pread": pread}))
    store.refresh()


def _move_over(path: Path) -> None:
    _copy(path).rename(path)


def _copy(path: Path) -> Path:
    return Path(shutil.copy2(path, path.with_name("copy.db")))


def _write_over(path: Path) -> None:
    copy = _copy(path)
    shutil.copy2(copy, path)


def _link_elsewhere(path: Path) -> None:
    copy = _copy(path)
    path.unlink()
    path.symlink_to(copy)


def _swap_folder(path: Path) -> None:
    other = path.parent.with_name("other")
    shutil.copytree(path.parent, other)
    path.parent.rename(path.parent.with_name("before"))
    other.rename(path.parent)


def _swap_link_to_folder(path: Path) -> None:
    """Replace the folder by two links, one after the other."""
    first, second = path.parent.with_name("first"), path.parent.with_name("second")
    shutil.copytree(path.parent, second)
    path.parent.rename(first)
    path.parent.symlink_to(first)
    link = path.parent.with_name("link")
    link.symlink_to(second)
    link.rename(path.parent)


REPLACED = [_move_over, _write_over, _link_elsewhere, _swap_folder, _swap_link_to_folder]


@pytest.mark.fault(17)
@pytest.mark.parametrize("replace", REPLACED)
def test_a_replacement_of_a_quiet_file_is_read_at_the_next_check(
    store: AuthStore, path: Path, replace: Callable[[Path], None]
) -> None:
    settle(store)
    replace(path)
    assert store._backend.unread()
    store.refresh()
    assert not store._backend.unread()
    theirs = AuthStore.loaded(SQLiteBackend(path))
    theirs.change(changes.add_user, "second")
    theirs.close()
    store.refresh()
    assert store.user_names() == ["first", "second"]


def _remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


BROKEN: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "moved away": lambda path: path.rename(path.with_name("away.db")),
    "its folder moved away": lambda path: path.parent.rename(path.parent.with_name("away")),
    "its folder removed": _remove_folder,
    "emptied": lambda path: os.truncate(path, 0),
    "cut": lambda path: os.truncate(path, 5000),
}


@pytest.mark.fault(17, 18)
@pytest.mark.parametrize("way", BROKEN)
def test_a_change_of_a_quiet_file_is_noticed_at_the_next_check(
    store: AuthStore, path: Path, way: str
) -> None:
    settle(store)
    BROKEN[way](path)
    for _ in range(2):
        with pytest.raises((StoreError, StoreUnavailableError), match=r"missing|damaged"):
            store.refresh()
