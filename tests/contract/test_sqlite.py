"""What only the SQLite backend promises."""

import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from webhook.backends import sqlite_position, sqlite_records
from webhook.backends.sqlite import SQLiteBackend
from webhook.backends.sqlite_schema import APPLICATION_ID, SCHEMA_VERSION
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import ForeignPositionError, StoreError, StoreUnavailableError
from webhook.rbac.records import ConflictError, Record

A, B = (Record("user", name, b"value of " + name) for name in (b"a", b"b"))
DAMAGED = r"damaged.*restore it from a backup"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def test_changes_that_do_not_reach_back_say_so(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_records, "_TOMBSTONES_KEPT", 10)
    backend = SQLiteBackend(database)
    live = Record("user", b"live", b"")
    revision = backend.commit(0, [live])
    for i in range(60):
        revision = backend.commit(revision, [Record("token", b"%d" % i, b"")])
        revision = backend.commit(revision, [Record("token", b"%d" % i, None)])
        assert backend.changes(revision - 1) == (revision, [Record("token", b"%d" % i, None)])
    assert backend.load() == (revision, [live])
    reaching = 0
    for after in range(revision + 1):
        feed = backend.changes(after)
        if feed is None:
            assert not reaching, "it reached back further before"
            continue
        # Following the feed and loading everything give the same state.
        reaching += 1
        gone = {r.id for r in feed[1] if r.value is None}
        begun = {b"%d" % i for i in range(60) if 2 + 2 * i <= after < 3 + 2 * i}
        assert begun <= gone
    assert 20 <= reaching <= 60
    assert backend.changes(0) is None
    backend.close()


def test_one_transaction_with_more_tombstones_than_are_kept(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_records, "_TOMBSTONES_KEPT", 10)
    ours, theirs = SQLiteBackend(database), SQLiteBackend(database)
    ours.commit(0, [Record("permission", b"%d" % i, b"\1") for i in range(100)])
    stale = theirs.load()[0]
    ours.commit(1, [Record("permission", b"%d" % i, None) for i in range(100)])
    news = theirs.changes(stale)
    assert news is None or len(news[1]) == 100
    assert theirs.load() == (2, [])
    assert theirs.changes(2) == (2, [])
    ours.close()
    theirs.close()


def test_changes_after_a_revision_that_was_never_read_are_loaded(database: Path) -> None:
    """Whether they continue it is not known: only its head would tell."""
    ours, theirs = SQLiteBackend(database), SQLiteBackend(database)
    ours.commit(ours.commit(0, [A]), [B])
    for wait in (True, False):
        assert theirs.changes(1, wait=wait) is None
    theirs.load()
    assert theirs.changes(1) == (2, [B])
    ours.close()
    theirs.close()


@pytest.mark.parametrize("others", [0, 1, 5])
def test_a_file_that_is_put_back_continues_what_is_in_use(database: Path, others: int) -> None:
    """Another one was loaded meanwhile, and refused."""
    ours = SQLiteBackend(database)
    revision = ours.commit(ours.commit(0, [A]), [B])
    ours.applied(revision)
    position = ours.position()
    other = SQLiteBackend(database.with_name("other.db"))
    theirs = 0
    for _ in range(others):
        theirs = other.commit(theirs, [A])
    other.close()
    database.rename(database.with_name("good.db"))
    database.with_name("other.db").rename(database)
    assert ours.load()[0] == theirs
    database.with_name("good.db").rename(database)
    assert ours.changes(revision, wait=False) == (revision, [])
    ours.applied(revision)
    assert not ours.unread()
    assert ours.position() == position
    assert ours.reaches(position)
    assert ours.commit(revision, [A]) == revision + 1
    ours.close()


def test_a_position_is_known_while_its_head_is_kept(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sqlite_position, sqlite_records):
        monkeypatch.setattr(module, "HEADS_KEPT", 8)
    ours, other = SQLiteBackend(database), SQLiteBackend(database.with_name("other.db"))
    revision = theirs = 0
    positions: list[tuple[str, str]] = []
    for i in range(20):
        revision = ours.commit(revision, [Record("user", b"%d" % (i % 9), b"")])
        theirs = other.commit(theirs, [])
        ours.applied(revision)
        other.applied(theirs)
        positions.append((ours.position(), other.position()))
    again = SQLiteBackend(database)
    again.applied(again.load()[0])
    for backend in (ours, again):
        assert all(backend.reaches(position) for position, _ in positions)
        # Eight are kept. The head of a position before them could be of this file.
        assert all(backend.reaches(foreign) for _, foreign in positions[:-8])
        for _, foreign in positions[-8:]:
            with pytest.raises(ForeignPositionError):
                backend.reaches(foreign)
    for backend in (ours, other, again):
        backend.close()


def test_sqlite_reports_no_change_without_a_commit(database: Path) -> None:
    ours, theirs = SQLiteBackend(database), SQLiteBackend(database)
    ours.applied(ours.load()[0])
    assert not ours.unread()
    theirs.load()
    with pytest.raises(ConflictError):
        theirs.commit(7, [A])
    assert not ours.unread()
    theirs.commit(0, [A])
    assert ours.unread()
    ours.changes(0)
    assert ours.unread()
    ours.applied(1)
    assert not ours.unread()
    ours.close()
    theirs.close()


_OTHER_PROCESS = """
import sys
from pathlib import Path
from webhook.backends.sqlite import SQLiteBackend
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
store = AuthStore.loaded(SQLiteBackend(Path(sys.argv[1])))
print("ready", flush=True)
for line in sys.stdin:
    name = line.strip()
    store.refresh()
    seen = name in store.state.users
    store.change(changes.add_user, name + "'s answer")
    print("seen" if seen else "not seen", flush=True)
"""


def test_sqlite_shows_commits_of_other_processes_at_once(database: Path) -> None:
    """Every request checks for changes, so a commit applies to the next request in any worker."""
    store = AuthStore.loaded(SQLiteBackend(database))
    with subprocess.Popen(
        [sys.executable, "-c", _OTHER_PROCESS, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        for number in range(20):
            name = f"user{number}"
            store.change(changes.add_user, name)
            other.stdin.write(name + "\n")
            other.stdin.flush()
            assert other.stdout.readline() == "seen\n"
            store.refresh()
            assert f"{name}'s answer" in store.state.users
        other.stdin.close()
    assert store.revision == 41
    store.close()


def test_sqlite_files_are_for_their_owner_only(database: Path) -> None:
    backend = SQLiteBackend(database)
    backend.commit(0, [A])
    files = sorted(database.parent.iterdir())
    assert [file.name for file in files] == ["store.db", "store.db-journal"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    backend.close()
    database.chmod(0o644)
    SQLiteBackend(database).close()
    assert stat.S_IMODE(database.stat().st_mode) == 0o600


def test_sqlite_modes(database: Path) -> None:
    backend = SQLiteBackend(database)
    backend.commit(0, [A])
    for name, value in (("journal_mode", "persist"), ("synchronous", 2), ("trusted_schema", 0)):
        assert backend._file.connection.execute(f"PRAGMA {name}").fetchone() == (value,)
    assert not database.with_name("store.db-wal").exists()
    backend.close()


def test_sqlite_creates_a_database_also_from_an_empty_file(database: Path) -> None:
    database.touch()
    backend = SQLiteBackend(database)
    assert backend.load() == (0, [])
    backend.close()
    with sqlite3.connect(database) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    connection.close()


def test_sqlite_keeps_an_existing_database(database: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="is missing; restore it"):
        SQLiteBackend(database, create=False)
    assert not database.exists()
    database.touch()
    with pytest.raises(StoreError, match=DAMAGED):
        SQLiteBackend(database, create=False)
    assert database.read_bytes() == b""
    SQLiteBackend(database).close()
    backend = SQLiteBackend(database, create=False)
    assert backend.load() == (0, [])
    backend.close()


def test_sqlite_of_a_later_version_is_refused_and_left_alone(database: Path) -> None:
    SQLiteBackend(database).close()
    change(database, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = database.read_bytes()
    with pytest.raises(StoreError, match=f"schema version {SCHEMA_VERSION + 1}.*use the version"):
        SQLiteBackend(database)
    assert database.read_bytes() == before


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE t (x)"],
        ["PRAGMA journal_mode = WAL", "CREATE TABLE t (x)"],
        ["PRAGMA application_id = 7"],
        ["PRAGMA user_version = 1"],
    ],
)
def test_sqlite_of_another_program_is_refused_and_left_alone(
    database: Path, statements: list[str]
) -> None:
    change(database, *statements)
    database.chmod(0o640)
    before = database.read_bytes()
    with pytest.raises(StoreError, match="not a database of Leeway"):
        SQLiteBackend(database)
    assert database.read_bytes() == before
    assert stat.S_IMODE(database.stat().st_mode) == 0o640


@pytest.mark.parametrize("content", [b"not a database, but a text" * 100, b"\0" * 4096, b"SQLite"])
def test_a_file_that_is_not_a_database_is_refused(database: Path, content: bytes) -> None:
    database.write_bytes(content)
    with pytest.raises(StoreError, match="restore it from a backup"):
        SQLiteBackend(database)
    assert database.read_bytes() == content


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET value = x'00'",
        "UPDATE records SET id = x'00'",
        "UPDATE records SET kind = 'role'",
        "UPDATE records SET value = NULL",
        "UPDATE records SET value = 'value of a'",
        "UPDATE records SET id = 'a'",
        "UPDATE records SET kind = CAST('user' AS BLOB)",
        "UPDATE records SET revision = 2",
        "UPDATE records SET revision = 1.5",
        "UPDATE records SET checksum = 'x'",
        "UPDATE store SET revision = 0",
        "UPDATE store SET revision = 9",
        "UPDATE store SET revision = 'x'",
        "UPDATE store SET compacted = 1",
        "UPDATE store SET checksum = checksum + 1",
        "DELETE FROM store",
        "INSERT INTO store SELECT * FROM store",
        "DROP TABLE records",
        "DROP INDEX records_by_revision",
        "CREATE TRIGGER t AFTER INSERT ON records BEGIN DELETE FROM store; END",
        "CREATE TABLE t (x)",
        "PRAGMA user_version = 0",
    ],
)
def test_sqlite_edited_by_hand_is_refused(database: Path, statement: str) -> None:
    backend = SQLiteBackend(database)
    backend.commit(0, [A])
    backend.close()
    change(database, statement)
    with pytest.raises(StoreError, match=DAMAGED):
        SQLiteBackend(database).load()


def test_sqlite_notices_damage_in_the_changes_too(database: Path) -> None:
    backend = SQLiteBackend(database)
    backend.commit(0, [A])
    change(database, "UPDATE records SET value = x'00'")
    with pytest.raises(StoreError, match="damaged"):
        backend.changes(0)
    change(database, "UPDATE store SET revision = 5")
    for operation in (lambda: backend.changes(1), lambda: backend.commit(1, [B])):
        with pytest.raises(StoreError, match="damaged"):
            operation()
    backend.close()


def test_sqlite_in_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match=r"cannot be made: No such file"):
        SQLiteBackend(tmp_path / "no" / "store.db")


def test_sqlite_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not a plain file"):
        SQLiteBackend(tmp_path)


def test_sqlite_created_by_many_processes_at_once(database: Path) -> None:
    opened: list[SQLiteBackend] = []
    failures: list[BaseException] = []
    together = threading.Barrier(8)

    def create() -> None:
        together.wait()
        try:
            opened.append(SQLiteBackend(database))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [backend.load() for backend in opened] == [(0, [])] * 8
    for backend in opened:
        backend.close()


def change(database: Path, *statements: str) -> None:
    connection = sqlite3.connect(database)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
