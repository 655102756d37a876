"""A store whose file is replaced at moments that no test of a server can choose."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.memory_backend import MemoryBackend
from tests.support import refresh_as_requests_do
from webhook.backends import sqlite as sqlite_backend
from webhook.backends import sqlite_records
from webhook.backends.sqlite import SQLiteBackend
from webhook.rbac import changes, revocations
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreError, StoreUnavailableError
from webhook.rbac.replaced import lacking
from webhook.rbac.revocations import Lifetimes
from webhook.rbac.state import AuthState

NOBODY = 65534
LIFETIMES = Lifetimes(3600.0)
NOW = 1_800_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "auth.db"


@pytest.fixture
def store(path: Path) -> Iterator[AuthStore]:
    found = AuthStore.loaded(SQLiteBackend(path))
    found.change(changes.add_user, "first")
    yield found
    found.close()


def other_store(path: Path, *users: str) -> Path:
    other = AuthStore.loaded(SQLiteBackend(path))
    for user in users:
        other.change(changes.add_user, user)
    other.close()
    return path


def users_in(path: Path) -> list[str]:
    store = AuthStore.loaded(SQLiteBackend(path, read_only=True))
    names = store.user_names()
    store.close()
    return names


@pytest.mark.bad_input(60)
@pytest.mark.fault(17)
@pytest.mark.parametrize("moment", ["before it is written", "before it is acknowledged"])
def test_a_change_goes_into_the_file_at_the_path(
    store: AuthStore, path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    other = other_store(path.with_name("other.db"), "theirs")
    written = sqlite_records.write_records

    def replacing(*arguments: Any) -> bytes:
        monkeypatch.undo()
        if moment == "before it is written":
            other.rename(path)
        head = written(*arguments)
        if moment == "before it is acknowledged":
            other.rename(path)
        return head

    monkeypatch.setattr(sqlite_backend, "write_records", replacing)
    store.change(changes.add_user, "new")
    assert users_in(path) == store.user_names() == ["new", "theirs"]


@pytest.mark.bad_input(60)
@pytest.mark.fault(17)
@pytest.mark.parametrize("way", [os.rename, shutil.copyfile], ids=["another file", "in place"])
@pytest.mark.parametrize("users", [1, 2, 300])
def test_another_store_is_never_read_as_changes_of_this_one(
    store: AuthStore, path: Path, way: Callable[[Path, Path], object], users: int
) -> None:
    """Two stores of one revision differ only in their heads."""
    seen: list[tuple[AuthState, AuthState]] = []
    store.on_replaced = lambda before, after: seen.append((before, after))
    names = [f"theirs{number:03}" for number in range(users)]
    way(other_store(path.with_name("other.db"), *names), path)
    refresh_as_requests_do(store)
    assert store.user_names() == names
    ((before, after),) = seen
    assert lacking(before, after) == ["user first"]
    store.change(changes.add_user, "a")
    assert users_in(path) == ["a", *names]


@pytest.mark.fault(17)
def test_a_copy_of_the_same_data_is_the_same_store(store: AuthStore, path: Path) -> None:
    seen: list[AuthState] = []
    store.on_replaced = lambda before, _after: seen.append(before)
    for name in ("1.db", "2.db"):
        shutil.copyfile(path, path.with_name(name))
        path.with_name(name).rename(path)
        store.refresh()
    store.change(changes.add_user, "second")
    assert users_in(path) == ["first", "second"]
    assert seen == []


@pytest.mark.bad_input(60)
@pytest.mark.fault(17)
@pytest.mark.skipif(os.getuid() != 0, reason="gives a file to another user")
def test_a_store_without_read_permission() -> None:
    # Not below tmp_path, which that user cannot reach.
    with TemporaryDirectory() as folder:
        path = other_store(Path(folder, "auth.db"), "first")
        for entry in (Path(folder), *Path(folder).iterdir()):
            os.chown(entry, NOBODY, NOBODY)
        assert _as_nobody(lambda: _watch_mode(path)) == 0


def _as_nobody(run: Callable[[], int]) -> int:
    ask, say = os.pipe()
    child = os.fork()
    if not child:
        # Nothing is imported from here on: the interpreter may be out of reach for that user.
        code = 1
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            code = run()
        finally:
            os.write(say, b"x")
            os._exit(code)
    os.close(say)
    os.read(ask, 1)
    os.close(ask)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _watch_mode(path: Path) -> int:
    store = AuthStore.loaded(SQLiteBackend(path))
    path.chmod(0)
    for _ in range(2):
        try:
            store.refresh()
        except StoreUnavailableError as error:
            if "cannot be read: Permission denied" not in str(error):
                return 2
        else:
            return 3
    path.chmod(0o600)
    store.refresh()
    return 0 if store.user_names() == ["first"] else 4


@pytest.mark.fault(17)
def test_missing_changes_of_a_store_are_named_briefly() -> None:
    before, after = _state(), _state()
    for number in range(13):
        before.change(changes.add_user, f"u{number:02}")
    before.change(revocations.revoke_jti, "j", LIFETIMES, NOW)
    for store, now in ((before, NOW), (after, NOW - 60)):
        store.change(
            revocations.revoke_subject, "system:serviceaccount:a:b", LIFETIMES, now, is_account=True
        )
    assert lacking(before.state, after.state) == [
        "revoked jti j",
        "revoked subject system:serviceaccount:a:b",
        "user u00, u01, u02, u03, u04, u05, u06, u07, u08, u09 and 3 more",
    ]
    assert lacking(after.state, before.state) == []


def _state() -> AuthStore:
    return AuthStore.loaded(MemoryBackend())


@pytest.mark.fault(17)
def test_a_store_that_was_never_written_is_refused(store: AuthStore, path: Path) -> None:
    other_store(path.with_name("other.db")).rename(path)
    for _ in range(2):
        with pytest.raises(StoreError, match="nothing was ever written"):
            refresh_as_requests_do(store)
    with pytest.raises(StoreError, match="nothing was ever written"):
        store.change(changes.add_user, "second")
