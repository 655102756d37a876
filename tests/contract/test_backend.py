"""The contract of a backend of the range engine: one suite that every backend passes."""

import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.memory_backend import MemoryBackend
from webhook.backends import sqlite_records
from webhook.backends.sqlite import SQLiteBackend
from webhook.backends.sqlite_schema import APPLICATION_ID, SCHEMA_VERSION
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreError, StoreUnavailableError
from webhook.rbac.records import Backend, ConflictError, Record

A, B, C = (Record("user", name, b"value of " + name) for name in (b"a", b"b", b"c"))
DAMAGED = r"damaged.*restore it from a backup"
GONE_A = Record("user", b"a", None)


class Place:
    """Where backends of one kind keep their data; ``open`` returns another backend on it."""

    def __init__(self, opener: Callable[[], Backend], kind: str) -> None:
        self._opener = opener
        self._opened: list[Backend] = []
        self.kind = kind

    def open(self) -> Backend:
        backend = self._opener()
        self._opened.append(backend)
        return backend

    def close(self) -> None:
        for backend in self._opened:
            backend.close()


@pytest.fixture(params=["memory", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "memory":
        shared = MemoryBackend()
        found = Place(lambda: shared, "memory")
    else:
        found = Place(lambda: SQLiteBackend(tmp_path / "store.db"), "sqlite")
    yield found
    found.close()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def contents(backend: Backend) -> tuple[int, set[Record]]:
    revision, records = backend.load()
    assert len(set(records)) == len(records)
    return revision, set(records)


def test_a_new_backend_is_empty(place: Place) -> None:
    backend = place.open()
    assert backend.load() == (0, [])
    assert backend.changes(0) == (0, [])


def test_committed_records_are_loaded(place: Place) -> None:
    backend = place.open()
    assert backend.commit(0, [A, B]) == 1
    assert contents(backend) == (1, {A, B})
    assert backend.commit(1, [C, Record("user", b"a", b"changed")]) == 2
    assert contents(backend) == (2, {Record("user", b"a", b"changed"), B, C})
    assert contents(place.open()) == contents(backend)


def test_a_commit_without_records_adds_a_revision(place: Place) -> None:
    backend = place.open()
    assert backend.commit(0, []) == 1
    assert backend.load() == (1, [])
    assert backend.changes(0) == (1, [])


def test_changes_are_those_after_a_revision(place: Place) -> None:
    backend = place.open()
    backend.commit(0, [A])
    backend.commit(1, [B])
    backend.commit(2, [Record("user", b"a", b"changed"), C])
    assert backend.changes(3) == (3, [])
    after = backend.changes(1)
    assert after is not None
    assert (after[0], set(after[1])) == (3, {B, C, Record("user", b"a", b"changed")})
    after = backend.changes(2)
    assert after is not None
    assert (after[0], set(after[1])) == (3, {C, Record("user", b"a", b"changed")})


@pytest.mark.parametrize("expected", [0, 2, 99, -1])
def test_a_commit_on_another_revision_is_a_conflict_and_writes_nothing(
    place: Place, expected: int
) -> None:
    backend = place.open()
    backend.commit(0, [A])
    with pytest.raises(ConflictError):
        backend.commit(expected, [B])
    assert contents(backend) == (1, {A})
    assert backend.commit(1, [B]) == 2


def test_one_of_two_writers_wins(place: Place) -> None:
    ours, theirs = place.open(), place.open()
    revision, _ = ours.load()
    theirs.commit(revision, [A])
    with pytest.raises(ConflictError):
        ours.commit(revision, [B])
    assert ours.changes(revision) == (1, [A])
    assert ours.commit(1, [B]) == 2
    assert contents(theirs) == (2, {A, B})


def test_deleted_records_are_in_changes_and_not_in_load(place: Place) -> None:
    backend = place.open()
    backend.commit(0, [A, B])
    backend.commit(1, [GONE_A])
    assert contents(backend) == (2, {B})
    assert backend.changes(1) == (2, [GONE_A])
    # It can be written again, and then exists.
    backend.commit(2, [A])
    assert backend.changes(1) == (3, [A])
    assert contents(backend) == (3, {A, B})


def test_one_id_in_two_kinds_names_two_records(place: Place) -> None:
    backend = place.open()
    records = {Record(kind, b"a", kind.encode()) for kind in ("user", "role", "token")}
    backend.commit(0, list(records))
    assert contents(backend) == (1, records)
    backend.commit(1, [Record("role", b"a", None)])
    assert contents(backend)[1] == {r for r in records if r.kind != "role"}


@pytest.mark.parametrize(
    ("records", "kept"),
    [
        ([A, Record("user", b"a", b"later")], Record("user", b"a", b"later")),
        ([A, GONE_A], GONE_A),
        ([GONE_A, A], A),
        ([A, B, GONE_A, Record("role", b"a", b""), A], A),
    ],
    ids=["two-values", "deleted-last", "deleted-first", "three"],
)
def test_the_last_of_several_records_of_one_id_counts(
    place: Place, records: list[Record], kept: Record
) -> None:
    backend = place.open()
    backend.commit(0, [C, Record("user", b"a", b"before")])
    assert backend.commit(1, records) == 2
    others = {record for record in records if (record.kind, record.id) != ("user", b"a")}
    changed = backend.changes(1)
    assert changed is not None
    assert len(changed[1]) == len(set(changed[1]))
    assert (changed[0], set(changed[1])) == (2, others | {kept})
    assert contents(place.open()) == (2, others | {C} | ({kept} - {GONE_A}))


BINARY = [b"", b"\0", b"\0\0", b"\xff", b"\x80\0\x80", b"a'b\"c;--", bytes(range(256)), b"\xed\xa0"]


def test_ids_and_values_are_arbitrary_bytes(place: Place) -> None:
    backend = place.open()
    records = {Record("user", record_id, value) for record_id in BINARY for value in BINARY[:1]}
    records |= {Record("role", b"%d" % i, value) for i, value in enumerate(BINARY)}
    records |= {Record("kind of é", b"x" * 5000, b"")}
    backend.commit(0, list(records))
    assert contents(backend) == (1, records)
    again = backend.changes(0)
    assert again is not None
    assert set(again[1]) == records


def test_large_values(place: Place) -> None:
    backend = place.open()
    large = {Record("user", b"%d" % size, b"\0" * size) for size in (4095, 4096, 65_537, 5_000_000)}
    backend.commit(0, list(large))
    assert contents(place.open()) == (1, large)


def test_many_records_in_one_commit(place: Place) -> None:
    backend = place.open()
    many = {Record("permission", b"%06d" % i, b"\1") for i in range(20_000)}
    backend.commit(0, list(many))
    assert contents(backend) == (1, many)


def test_changes_that_do_not_reach_back_say_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_records, "_TOMBSTONES_KEPT", 10)
    backend = place.open()
    live = [Record("user", b"live", b"")]
    revision = backend.commit(0, live)
    for i in range(60):
        revision = backend.commit(revision, [Record("token", b"%d" % i, b"")])
        revision = backend.commit(revision, [Record("token", b"%d" % i, None)])
        assert backend.changes(revision - 1) == (revision, [Record("token", b"%d" % i, None)])
    assert contents(backend) == (revision, set(live))
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
    assert reaching >= 20
    if place.kind == "sqlite":
        assert backend.changes(0) is None
        assert reaching <= 60


def test_one_transaction_with_more_tombstones_than_are_kept(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_records, "_TOMBSTONES_KEPT", 10)
    ours, theirs = place.open(), place.open()
    ours.commit(0, [Record("permission", b"%d" % i, b"\1") for i in range(100)])
    stale = theirs.load()[0]
    ours.commit(1, [Record("permission", b"%d" % i, None) for i in range(100)])
    news = theirs.changes(stale)
    assert news is None or len(news[1]) == 100
    assert theirs.load() == (2, [])
    assert theirs.changes(2) == (2, [])


def test_unread_commits_are_reported_until_they_are_read(place: Place) -> None:
    ours, theirs = place.open(), place.open()
    ours.applied(ours.load()[0])
    theirs.commit(0, [A])
    assert ours.unread()
    assert ours.changes(0) == (1, [A])
    assert ours.unread()  # changes that were read and not applied are not in use
    ours.applied(1)
    theirs.commit(1, [B])
    assert ours.unread()
    assert contents(ours) == (2, {A, B})


def test_any_thread_can_use_a_backend(place: Place) -> None:
    backend = place.open()
    failures: list[BaseException] = []
    written: list[int] = []

    def write(number: int) -> None:
        try:
            for i in range(25):
                while True:
                    revision, _ = backend.changes(0) or backend.load()
                    try:
                        backend.commit(revision, [Record("user", b"%d-%d" % (number, i), b"")])
                    except ConflictError:
                        continue
                    written.append(i)
                    backend.unread()
                    break
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(written) == 100
    revision, records = contents(backend)
    assert (revision, len(records)) == (100, 100)


@pytest.mark.parametrize("wait", [True, False])
def test_an_unlocked_backend_is_read_with_and_without_waiting(place: Place, wait: bool) -> None:
    backend = place.open()
    backend.commit(0, [A])
    assert backend.load() == backend.changes(0, wait=wait) == (1, [A])


# SQLite only.


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
