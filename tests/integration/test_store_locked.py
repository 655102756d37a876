import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import assert_within, refresh_or_wait
from webhook.backends.sqlite import SQLiteBackend
from webhook.rbac import changes
from webhook.rbac.access import explain_access
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreLockedError, StoreUnavailableError
from webhook.rbac.model import Permission, PermissionType
from webhook.rbac.ranges import from_wire
from webhook.rbac.records import Backend, TokenRecord, token_record
from webhook.server.request.refreshing import Refreshing

TOKEN = token_record(b"d" * 32, TokenRecord("u", 0.0))
KEY = from_wire(b"k", b"")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AuthStore]:
    found = AuthStore.loaded(SQLiteBackend(tmp_path / "store.db"))
    found.change(changes.add_role, "r")
    found.change(changes.add_user, "u", b"hash")
    found.change(changes.grant_role, "u", "r")
    found.change(changes.grant_permission, "r", Permission(b"k", b"", PermissionType.READ))
    yield found
    found.close()


@pytest.fixture
def other(tmp_path: Path, store: AuthStore) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    yield connection
    connection.close()


def may_read(store: AuthStore) -> bool:
    return explain_access(store.state, "u", (), PermissionType.READ, KEY).allowed


@pytest.mark.bad_input(50)
@pytest.mark.parametrize("lock", ["EXCLUSIVE", "IMMEDIATE"])
def test_a_locked_database_can_be_read_but_not_written(
    store: AuthStore, other: sqlite3.Connection, lock: str
) -> None:
    other.execute(f"BEGIN {lock}")
    before = store.revision
    for _ in range(3):
        started = time.monotonic()
        for _ in range(100):
            store.refresh()
            assert may_read(store)
        assert_within(time.monotonic() - started, 1.0)
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError, match=r"cannot be used now.*try again"):
            store.change(changes.add_user, "new")
        with pytest.raises(StoreUnavailableError):
            store.change(lambda state: [TOKEN])
        assert_within(time.monotonic() - started, 2.0)
    assert store.revision == before
    other.execute("ROLLBACK")
    store.change(changes.add_user, "new")
    assert store.revision == before + 1
    # From then on short locks are waited for again.
    other.execute("BEGIN EXCLUSIVE")
    unlock = threading.Timer(0.4, lambda: None)
    unlock.start()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            store.change(changes.add_user, "waits")
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    unlock.join()
    other.execute("COMMIT")
    writer.join()
    assert not failures
    assert store.user("waits")


@pytest.mark.bad_input(50)
def test_each_of_many_writers_is_refused_within_2_s(
    store: AuthStore, other: sqlite3.Connection
) -> None:
    other.execute("BEGIN EXCLUSIVE")
    taken: list[float] = []
    refused: list[str] = []

    def write(number: int) -> None:
        started = time.monotonic()
        try:
            store.change(changes.add_user, f"user{number}")
        except StoreUnavailableError as error:
            refused.append(str(error))
        taken.append(time.monotonic() - started)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(20)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        started = time.monotonic()
        store.refresh()
        assert may_read(store)
        assert_within(time.monotonic() - started, 0.2)
        time.sleep(0.01)
    assert len(refused) == 20
    assert_within(max(taken), 2.0)
    other.execute("ROLLBACK")
    store.change(changes.add_user, "user0")


@pytest.mark.bad_input(50)
def test_opening_a_locked_database_says_so(
    tmp_path: Path, store: AuthStore, other: sqlite3.Connection
) -> None:
    other.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="locked"):
        AuthStore.loaded(SQLiteBackend(tmp_path / "store.db"))
    assert_within(time.monotonic() - started, 2.0)
    other.execute("ROLLBACK")
    # A database can be opened during a write.
    other.execute("BEGIN IMMEDIATE")
    reader = AuthStore.loaded(SQLiteBackend(tmp_path / "store.db"))
    assert may_read(reader)
    reader.close()


def test_changes_are_read_once_the_lock_is_released(
    tmp_path: Path, store: AuthStore, other: sqlite3.Connection
) -> None:
    theirs = AuthStore.loaded(SQLiteBackend(tmp_path / "store.db"))
    theirs.change(changes.revoke_permission, "r", b"k", b"")
    theirs.close()
    other.execute("BEGIN EXCLUSIVE")
    # It was acknowledged, so no answer can omit it.
    for _ in range(2):
        with pytest.raises(StoreLockedError, match="another process keeps locked"):
            store.refresh()
    other.execute("ROLLBACK")
    store.refresh()
    assert not may_read(store)


def test_an_unfinished_commit_is_not_a_change(
    tmp_path: Path, store: AuthStore, other: sqlite3.Connection
) -> None:
    other.execute("PRAGMA cache_size = 1")
    other.execute("BEGIN EXCLUSIVE")
    other.execute("CREATE TABLE filler (data)")
    for _ in range(200):
        other.execute("INSERT INTO filler VALUES (zeroblob(4000))")
    assert (tmp_path / "store.db").stat().st_size > 400_000  # Pages of it are in the file.
    for _ in range(2):
        store.refresh()
        assert may_read(store)
    other.execute("ROLLBACK")
    store.refresh()
    assert may_read(store)
    assert store.user("u")


READS: dict[str, Callable[[Backend], object]] = {
    "changes": lambda backend: backend.changes(0),
    "load": lambda backend: backend.load(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_refresh_never_waits(
    store: AuthStore, other: sqlite3.Connection, read: Callable[[Backend], object]
) -> None:
    backend = store.backend
    other.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="locked"):
        backend.changes(0, wait=False)
    assert_within(time.monotonic() - started, 0.2)
    other.execute("ROLLBACK")
    # That one did not wait; the next one does.
    other.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="locked"):
        read(backend)
    assert time.monotonic() - started > 1.0
    other.execute("ROLLBACK")


def test_changes_are_not_missed_after_a_failed_read(
    tmp_path: Path, store: AuthStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locked between the check for changes and the reading of them."""
    theirs = AuthStore.loaded(SQLiteBackend(tmp_path / "store.db"))
    theirs.change(changes.revoke_permission, "r", b"k", b"")
    theirs.close()
    backend = store._backend
    with monkeypatch.context() as patch:

        def locked(after: int, *, wait: bool = True) -> None:
            raise StoreLockedError("locked")

        patch.setattr(backend, "changes", locked)
        with pytest.raises(StoreLockedError):
            store.refresh()
    store.refresh()
    assert not may_read(store)


class Commits:
    """Another process makes an acknowledged commit, and then one that keeps the lock."""

    def __init__(self, path: Path, other: sqlite3.Connection) -> None:
        self.path, self.other = path, other

    def lock(self) -> None:
        theirs = AuthStore.loaded(SQLiteBackend(self.path))
        theirs.change(changes.revoke_permission, "r", b"k", b"")
        theirs.close()
        self.other.execute("BEGIN EXCLUSIVE")

    def unlock(self) -> None:
        self.other.execute("ROLLBACK")


@pytest.mark.fault(17, 18)
def test_requests_wait_for_changes_locked_by_a_slow_commit(
    tmp_path: Path, store: AuthStore, other: sqlite3.Connection
) -> None:
    """With 30 ms more for each fsync every tenth review was answered with 503."""
    commits = Commits(tmp_path / "store.db", other)
    refreshing = Refreshing(store)

    async def request() -> bool:
        await refresh_or_wait(store, refreshing)
        return may_read(store)

    async def run() -> list[bool]:
        commits.lock()
        asyncio.get_running_loop().call_later(0.3, commits.unlock)
        leaving = asyncio.create_task(request())
        waiting = asyncio.gather(*(request() for _ in range(50)))
        await asyncio.sleep(0.05)
        # A client that disconnects does not end the wait of the others.
        leaving.cancel()
        return await waiting

    # The event loop ends the lock: if a request waited on it, all would be refused.
    assert asyncio.run(run()) == [False] * 50


@pytest.mark.fault(17, 18)
def test_a_request_is_refused_if_changes_stay_locked_too_long(
    tmp_path: Path, store: AuthStore, other: sqlite3.Connection
) -> None:
    commits = Commits(tmp_path / "store.db", other)
    refreshing = Refreshing(store)

    async def refused() -> None:
        with pytest.raises(StoreLockedError, match="another process keeps locked"):
            await refresh_or_wait(store, refreshing)

    async def run() -> None:
        commits.lock()
        await asyncio.gather(refused(), refused())
        # Those that come later do not wait at all.
        before = time.monotonic()
        for _ in range(5):
            await refused()
        assert_within(time.monotonic() - before, 0.5)
        commits.unlock()
        await refresh_or_wait(store, refreshing)
        assert not may_read(store)

    asyncio.run(run())
