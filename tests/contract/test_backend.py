"""The contract of a backend of the range engine: one suite that every backend passes.

Revisions are opaque: what is expected of one comes from what the backend returned.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime

import pytest

from tests.contract.places import PLACES, Place
from tests.support import wait_until
from webhook.rbac import changes
from webhook.rbac.errors import (
    ForeignPositionError,
    StoreLockedError,
    StoreUnavailableError,
    TooLargeError,
)
from webhook.rbac.records import Backend, ConflictError, Record

A, B, C = (Record("user", name, b"value of " + name) for name in (b"a", b"b", b"c"))
CHANGED_A, GONE_A = Record("user", b"a", b"changed"), Record("user", b"a", None)

Opener = Callable[[], Place]


@pytest.fixture(params=PLACES)
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    opened: list[Place] = []

    def make() -> Place:
        folder = tmp_path / str(len(opened))
        folder.mkdir()
        opened.append(PLACES[request.param](request, folder))
        return opened[-1]

    yield make
    for place in opened:
        place.close()


@pytest.fixture
def place(new_place: Opener) -> Place:
    return new_place()


def contents(backend: Backend) -> tuple[int, set[Record]]:
    revision, records = backend.load()
    assert len(set(records)) == len(records)
    return revision, set(records)


def followed(found: tuple[int, Sequence[Record]] | None) -> tuple[int, set[Record]]:
    """Return a revision and its records, each of which is there once."""
    assert found is not None
    assert len({(record.kind, record.id) for record in found[1]}) == len(found[1])
    return found[0], set(found[1])


def test_a_new_backend_is_empty(place: Place) -> None:
    backend = place.open()
    revision, records = backend.load()
    assert records == []
    backend.applied(revision)
    assert backend.changes(revision) == (revision, [])
    assert backend.load() == (revision, [])


def test_committed_records_are_loaded(place: Place) -> None:
    backend, start = place.used()
    first = backend.commit(start, [A, B])
    assert first > start
    assert contents(backend) == (first, {A, B})
    second = backend.commit(first, [C, CHANGED_A])
    assert second > first
    assert contents(backend) == (second, {CHANGED_A, B, C})
    assert contents(place.open()) == contents(backend)


def test_a_commit_without_records_adds_a_revision(place: Place) -> None:
    backend, start = place.used()
    revision = backend.commit(start, [])
    assert revision > start
    assert backend.changes(start) == (revision, [])
    assert backend.load() == (revision, [])


def test_changes_are_those_after_a_revision(place: Place) -> None:
    backend, start = place.used()
    first = backend.commit(start, [A])
    second = backend.commit(first, [B])
    third = backend.commit(second, [CHANGED_A, C])
    assert backend.changes(third) == (third, [])
    assert followed(backend.changes(first)) == (third, {B, C, CHANGED_A})
    assert followed(backend.changes(second)) == (third, {C, CHANGED_A})
    assert followed(backend.changes(start)) == (third, {B, C, CHANGED_A})


@pytest.mark.parametrize("of", ["nothing", "an earlier one", "a later one", "a negative one"])
def test_a_commit_on_another_revision_is_a_conflict_and_writes_nothing(
    place: Place, of: str
) -> None:
    backend, start = place.used()
    revision = backend.commit(backend.commit(start, []), [A])
    others = {
        "nothing": 0,
        "an earlier one": start,
        "a later one": revision + 1,
        "a negative one": -1,
    }
    with pytest.raises(ConflictError):
        backend.commit(others[of], [B])
    assert contents(backend) == (revision, {A})
    assert backend.commit(revision, [B]) > revision


def test_one_of_two_writers_wins(place: Place) -> None:
    (ours, start), (theirs, theirs_start) = place.used(), place.used()
    assert start == theirs_start
    first = theirs.commit(start, [A])
    with pytest.raises(ConflictError):
        ours.commit(start, [B])
    # After a conflict the feed has what refused.
    assert ours.changes(start) == (first, [A])
    second = ours.commit(first, [B])
    assert contents(theirs) == (second, {A, B})


def test_one_of_many_writers_wins_each_revision(place: Place) -> None:
    writers = [place.used() for _ in range(4)]
    start = writers[0][1]
    won: list[tuple[int, bytes]] = []
    failures: list[BaseException] = []

    def write(number: int, backend: Backend, revision: int) -> None:
        try:
            for i in range(10):
                name = b"%d-%d" % (number, i)
                while True:
                    try:
                        revision = backend.commit(revision, [Record("user", name, b"")])
                    except ConflictError:
                        revision, _ = backend.changes(revision) or backend.load()
                    except StoreLockedError:
                        pass  # SQLite is not fair.
                    else:
                        won.append((revision, name))
                        break
        except BaseException as error:
            failures.append(error)

    run_together([partial(write, number, *writer) for number, writer in enumerate(writers)])
    assert not failures
    assert len({revision for revision, _ in won}) == len(won) == 40
    last, records = contents(place.open())
    assert last == max(won)[0] > start
    assert {record.id for record in records} == {name for _, name in won}


def run_together(jobs: Iterable[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_deleted_records_are_in_changes_and_not_in_load(place: Place) -> None:
    backend, start = place.used()
    first = backend.commit(start, [A, B])
    second = backend.commit(first, [GONE_A])
    assert contents(backend) == (second, {B})
    assert backend.changes(first) == (second, [GONE_A])
    # It can be written again, and then exists.
    third = backend.commit(second, [A])
    assert backend.changes(first) == (third, [A])
    assert contents(backend) == (third, {A, B})


def test_what_is_not_there_can_be_deleted(place: Place) -> None:
    backend, start = place.used()
    revision = backend.commit(start, [GONE_A, B])
    assert contents(backend) == (revision, {B})


def test_one_id_in_two_kinds_names_two_records(place: Place) -> None:
    backend, start = place.used()
    records = {Record(kind, b"a", kind.encode()) for kind in ("user", "role", "token")}
    first = backend.commit(start, list(records))
    assert contents(backend) == (first, records)
    backend.commit(first, [Record("role", b"a", None)])
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
    backend, start = place.used()
    first = backend.commit(start, [C, Record("user", b"a", b"before")])
    second = backend.commit(first, records)
    others = {record for record in records if (record.kind, record.id) != ("user", b"a")}
    assert followed(backend.changes(first)) == (second, others | {kept})
    assert contents(place.open()) == (second, others | {C} | ({kept} - {GONE_A}))


BINARY = [b"", b"\0", b"\0\0", b"\xff", b"\x80\0\x80", b"a'b\"c;--", bytes(range(256)), b"\xed\xa0"]


def test_ids_and_values_are_arbitrary_bytes(place: Place) -> None:
    backend, start = place.used()
    records = {Record("user", record_id, value) for record_id in BINARY for value in BINARY[:1]}
    records |= {Record("role", b"%d" % i, value) for i, value in enumerate(BINARY)}
    records |= {Record("token", b"x" * 5000, b"")}
    revision = backend.commit(start, list(records))
    assert followed(backend.changes(start)) == (revision, records)
    assert contents(place.open()) == (revision, records)


SIZES = (4095, 4096, 65_537, 5_000_000)


def test_large_values(place: Place) -> None:
    backend, start = place.used()
    sizes = [size for size in SIZES if backend.max_records is None or size < 1_000_000]
    large = {Record("user", b"%d" % size, b"\0" * size) for size in sizes}
    revision = backend.commit(start, list(large))
    assert followed(backend.changes(start)) == (revision, large)
    assert contents(place.open()) == (revision, large)


def test_many_records_in_one_commit(place: Place) -> None:
    backend, start = place.used()
    count = 20_000 if backend.max_records is None else backend.max_records
    many = {Record("permission", b"%06d" % i, b"\1") for i in range(count)}
    # Each is there twice: the last one counts, and as one.
    first = [Record("permission", record.id, None) for record in many]
    revision = backend.commit(start, [*first, *many])
    assert contents(backend) == (revision, many)


@pytest.mark.parametrize("what", ["records", "bytes"])
def test_what_does_not_fit_is_refused_and_writes_nothing(place: Place, what: str) -> None:
    backend, start = place.used()
    if backend.max_records is None:
        pytest.skip("it has no limit")
    many = [Record("permission", b"%06d" % i, b"\1") for i in range(backend.max_records + 1)]
    large = [Record("user", b"%d" % i, b"\0" * 1_000_000) for i in range(8)]
    with pytest.raises(TooLargeError):
        backend.commit(start, many if what == "records" else large)
    assert backend.changes(start) == (start, [])
    assert backend.commit(start, [A]) > start


def test_following_gives_what_loading_gives(place: Place) -> None:
    (writer, revision), (reader, seen) = place.used(), place.used()
    known: dict[tuple[str, bytes], Record] = {}
    for i in range(60):
        name = b"%d" % (i % 7)
        revision = writer.commit(revision, [Record("token", name, b"%d" % i), A])
        revision = writer.commit(revision, [Record("token", name, None if i % 3 else b"kept")])
        if i % 4 == 0:
            found = reader.changes(seen)
            if found is None:
                known, found = {}, reader.load()
            seen = found[0]
            reader.applied(seen)
            known |= {(record.kind, record.id): record for record in found[1]}
            live = {record for record in known.values() if record.value is not None}
            assert (seen, live) == contents(place.open())
            assert seen == revision


def test_changes_have_everything_that_was_acknowledged(place: Place) -> None:
    (ours, seen), (theirs, revision) = place.used(), place.used()
    for i in range(30):
        record = Record("user", b"%d" % i, b"")
        revision = theirs.commit(revision, [record])
        assert ours.changes(seen) == (revision, [record])
        seen = revision
        ours.applied(seen)


def test_changes_that_are_here_are_read_without_waiting(place: Place) -> None:
    (ours, seen), (theirs, revision) = place.used(), place.used()
    assert ours.changes(seen, wait=False) == (seen, [])
    revision = theirs.commit(revision, [A])
    wait_until(ours.unread)
    wait_until(lambda: ours.changes(seen, wait=False) == (revision, [A]))
    # Of its own, too.
    own = ours.commit(revision, [B])
    assert ours.changes(revision, wait=False) == (own, [B])


def test_unread_commits_are_reported_until_they_are_in_use(place: Place) -> None:
    (ours, start), (theirs, _) = place.used(), place.used()
    first = theirs.commit(start, [A])
    assert ours.changes(start) == (first, [A])
    assert ours.unread()  # Changes that were read and not applied are not in use.
    ours.applied(first)
    if place.kind != "memory":
        assert not ours.unread()
    second = theirs.commit(first, [B])
    wait_until(ours.unread)
    assert contents(ours) == (second, {A, B})
    assert ours.unread()
    ours.applied(second)
    if place.kind != "memory":
        assert not ours.unread()


def test_a_backend_is_read_by_other_threads_while_one_writes(place: Place) -> None:
    backend, revision = place.used()
    failures: list[BaseException] = []
    is_done = threading.Event()
    seen: list[int] = []

    def look() -> None:
        try:
            while not is_done.is_set():
                backend.unread()
                backend.proven(revision)
                backend.position()
                try:
                    found = backend.changes(revision, wait=False)
                except StoreLockedError:
                    continue
                if found is not None:
                    seen.append(found[0])
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    last, written = revision, {revision}
    for i in range(60):
        last = backend.commit(last, [Record("user", b"%d" % i, b"")])
        written.add(last)
        wait_until(lambda: len(seen) > 3 or failures)
        seen.clear()
        assert backend.changes(last) == (last, [])
    is_done.set()
    for reader in readers:
        reader.join()
    assert not failures
    assert set(seen) <= written
    assert len(contents(place.open())[1]) == 60


def test_a_proof_reaches_the_present(place: Place) -> None:
    backend, revision = place.used()

    def is_proven() -> bool:
        return backend.proven(revision) >= now

    for _ in range(3):
        now = clock_gettime(CLOCK_BOOTTIME)
        backend.wanted()
        wait_until(is_proven)
        revision = backend.commit(revision, [A])
        backend.applied(revision)
    # A commit is a proof as well.
    assert is_proven()


def test_positions_are_reached_in_order(new_place: Opener) -> None:
    place, elsewhere = new_place(), new_place()
    (ours, start), (theirs, _) = place.used(), place.used()
    at_first = ours.position()
    assert at_first
    assert at_first.isascii()
    assert at_first.isprintable()
    first = theirs.commit(start, [A])
    theirs.applied(first)
    later = theirs.position()
    assert theirs.reaches(at_first)
    assert theirs.reaches(later)
    if place.kind != "memory":
        assert not ours.reaches(later)
    assert ours.changes(start) == (first, [A])
    ours.applied(first)
    assert ours.reaches(later)
    assert ours.reaches(at_first)
    # Another store with as many commits.
    other, revision = elsewhere.used()
    other.applied(other.commit(revision, [A]))
    assert other.position() != later
    with pytest.raises(ForeignPositionError, match="use one"):
        ours.reaches(other.position())


@pytest.mark.parametrize(
    "position",
    ["", "0", "1", "-1", "x" * 100_000, "sqlite-", "\0", "é", "1.5", "0" * 33, "memory-1", "18e9"],
    ids=lambda value: repr(value[:10]),
)
def test_a_text_that_is_no_position_is_foreign(place: Place, position: str) -> None:
    backend, _ = place.used()
    with pytest.raises(ForeignPositionError, match="use one"):
        backend.reaches(position)


def test_stores_see_each_others_changes(place: Place) -> None:
    ours, theirs = place.store(), place.store()

    def shows(name: str) -> bool:
        try:
            return name in ours.basis().state.roles
        except StoreUnavailableError:
            return False

    for i in range(20):
        ours.change(changes.add_role, f"{i}")
        # A change is decided on everything that was acknowledged before it.
        theirs.change(changes.delete_role, f"{i}")
        theirs.change(changes.add_role, f"their {i}")
        wait_until(partial(shows, f"their {i}"))
    assert ours.role_names() == theirs.role_names() == sorted(f"their {i}" for i in range(20))
