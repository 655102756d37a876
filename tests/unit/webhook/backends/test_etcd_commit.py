"""A commit, whatever becomes of its requests: never twice, never both refused and there."""

import itertools
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.fake_etcd import (
    FakeClient,
    FakeEtcd,
    Fault,
    away,
    delivered_twice,
    failing,
    lost_after,
    lost_before,
)
from webhook.backends.etcd import EtcdBackend
from webhook.backends.etcd_commit import MAX_BYTES, MAX_RECORDS
from webhook.etcd.errors import Code, error_of_status
from webhook.etcd.values import TxnAnswer
from webhook.rbac.errors import (
    OutcomeUnknownError,
    StoreError,
    StoreUnavailableError,
    TooLargeError,
)
from webhook.rbac.records import ConflictError, Record

A, B = Record("user", b"a", b"1"), Record("user", b"b", b"2")
NO_SPACE = "etcdserver: mvcc: database space exceeded"
DEFINITE = [
    (Code.INVALID_ARGUMENT, "etcdserver: too many operations in txn request", TooLargeError),
    (Code.INVALID_ARGUMENT, "etcdserver: request is too large", TooLargeError),
    (Code.INVALID_ARGUMENT, "etcdserver: key is not provided", StoreUnavailableError),
    (Code.INVALID_ARGUMENT, "etcdserver: user name is empty", StoreUnavailableError),
    (Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", StoreUnavailableError),
    (Code.PERMISSION_DENIED, "etcdserver: permission denied", StoreUnavailableError),
    (Code.UNAUTHENTICATED, "etcdserver: invalid auth token", StoreUnavailableError),
    (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests", StoreUnavailableError),
]
UNKNOWN = [
    (code, text)
    for code, text in (
        *((code, "something") for code in Code if code is not Code.OK),
        (Code.UNAVAILABLE, "etcdserver: leader changed"),
        (Code.UNAVAILABLE, "etcdserver: request timed out"),
        (Code.UNKNOWN, "etcdserver: server stopped"),
        (Code.CANCELLED, "context canceled"),
        (Code.FAILED_PRECONDITION, "etcdserver: not a primary lessor"),
    )
]


class Clock:
    """Seconds that pass only while somebody sleeps, and with each look."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def backend_on(client: FakeClient, writer: str = "a/1") -> EtcdBackend:
    clock = Clock()
    return EtcdBackend(
        client, "/leeway", follow=False, writer=writer, clock=clock, pause=clock.sleep
    )


@pytest.fixture
def client() -> FakeClient:
    client = FakeEtcd().client()
    assert backend_on(client).initialise([])
    return client


@pytest.fixture
def backend(client: FakeClient) -> EtcdBackend:
    return backend_on(client)


def stored(client: FakeClient) -> set[Record]:
    return set(backend_on(client).load()[1])


def test_a_commit_is_one_transaction(client: FakeClient, backend: EtcdBackend) -> None:
    revision, records = backend.load()
    assert records == []
    assert backend.commit(revision, [A, B]) == revision + 1
    assert backend.changes(revision, wait=False) == (revision + 1, [A, B])
    assert stored(client) == {A, B}
    assert backend.counters.commits == {"committed": 1}


@pytest.mark.parametrize(
    "faults",
    [[delivered_twice], [lost_after], [lost_after, lost_before], [lost_after, delivered_twice]],
    ids=["repeated", "answer-lost", "fence-lost", "fence-repeated"],
)
def test_a_commit_that_is_there_is_reported_so(
    client: FakeClient, backend: EtcdBackend, faults: list[Fault]
) -> None:
    revision, _ = backend.load()
    client.faults.extend(faults)
    assert backend.commit(revision, [A]) == revision + 1
    assert client.etcd.revision == revision + 1
    # Others have not seen anything of it, and it is not made again.
    assert backend.changes(revision) == (revision + 1, [A])


@pytest.mark.parametrize(
    "faults", [[lost_before], [lost_before, lost_before]], ids=["request-lost", "fence-lost"]
)
def test_a_fence_that_is_there_proves_that_the_change_is_not(
    client: FakeClient, backend: EtcdBackend, faults: list[Fault]
) -> None:
    revision, _ = backend.load()
    late: list[Callable[[], TxnAnswer]] = []

    def keep(deliver: Callable[[], TxnAnswer]) -> TxnAnswer:
        late.append(deliver)
        raise away()

    client.faults.extend([keep, *faults[1:]])
    with pytest.raises(StoreUnavailableError, match=r"was not made.*try again") as caught:
        backend.commit(revision, [A])
    assert type(caught.value) is StoreUnavailableError
    # The request arrives late, from a leader that was stopped (etcd-store.md, history 1).
    assert not late[0]().succeeded
    assert stored(client) == set()
    assert backend.counters.commits == {"not_written": 1}


@pytest.mark.parametrize("is_repeated", [False, True])
def test_a_fence_that_was_overtaken_by_the_change(
    client: FakeClient, backend: EtcdBackend, is_repeated: bool
) -> None:
    revision, _ = backend.load()
    late: list[Callable[[], TxnAnswer]] = []

    def keep(deliver: Callable[[], TxnAnswer]) -> TxnAnswer:
        late.append(deliver)
        raise away()

    def first_the_other(deliver: Callable[[], TxnAnswer]) -> TxnAnswer:
        late[0]()
        return delivered_twice(deliver) if is_repeated else deliver()

    client.faults.extend([keep, first_the_other])
    assert backend.commit(revision, [A]) == revision + 1
    assert stored(client) == {A}


def test_a_fence_whose_answer_is_lost_counts_as_another_commit(
    client: FakeClient, backend: EtcdBackend
) -> None:
    revision, _ = backend.load()
    client.faults.extend([lost_before, lost_after])
    with pytest.raises(ConflictError):
        backend.commit(revision, [A])
    assert stored(client) == set()


def others_commit(client: FakeClient, times: int) -> None:
    faults = list(client.faults)
    client.faults.clear()
    other = backend_on(client, "b/2")
    revision, _ = other.load()
    for number in range(times):
        revision = other.commit(revision, [Record("token", b"%d" % number, b"")])
    client.faults.extend(faults)


@pytest.mark.parametrize("times", [1, 2, 63])
@pytest.mark.parametrize("compacted", [False, True])
def test_the_ring_tells_who_followed(
    client: FakeClient, backend: EtcdBackend, times: int, compacted: bool
) -> None:
    revision, _ = backend.load()

    def then_others(deliver: Callable[[], TxnAnswer]) -> TxnAnswer:
        deliver()
        others_commit(client, times)
        if compacted:
            client.etcd.compact()
        raise away()

    client.faults.append(then_others)
    assert backend.commit(revision, [A]) == revision + 1
    assert A in stored(client)

    revision, _ = backend.load()

    def others_first(deliver: Callable[[], TxnAnswer]) -> TxnAnswer:
        others_commit(client, times)
        return delivered_twice(deliver)

    client.faults.append(others_first)
    with pytest.raises(ConflictError):
        backend.commit(revision, [B])
    assert B not in stored(client)


def test_more_commits_than_the_ring_has_leave_the_outcome_unknown(
    client: FakeClient, backend: EtcdBackend
) -> None:
    revision, _ = backend.load()

    def then_others(deliver: Callable[[], TxnAnswer]) -> TxnAnswer:
        deliver()
        others_commit(client, 65)
        raise away()

    client.faults.append(then_others)
    with pytest.raises(OutcomeUnknownError, match=r"not known whether.*look before you repeat"):
        backend.commit(revision, [A])
    assert backend.counters.commits == {"unknown": 1}


@pytest.mark.parametrize("is_there", [False, True])
def test_a_server_knows_more_commits_than_the_ring_has(client: FakeClient, is_there: bool) -> None:
    server = EtcdBackend(client, "/leeway", follow=True, writer="a/1")
    try:
        revision, _ = server.load()

        def among_others(deliver: Callable[[], TxnAnswer]) -> TxnAnswer:
            if is_there:
                deliver()
            others_commit(client, 100)
            raise away()

        client.faults.append(among_others)
        if is_there:
            assert server.commit(revision, [A]) == revision + 1
        else:
            with pytest.raises(ConflictError):
                server.commit(revision, [A])
    finally:
        server.close()


def test_an_etcd_that_never_answers_leaves_the_outcome_unknown(
    client: FakeClient, backend: EtcdBackend
) -> None:
    revision, _ = backend.load()
    started = backend._clock()
    client.faults.extend([lost_before] * 1000)
    with pytest.raises(OutcomeUnknownError, match="did not answer in time"):
        backend.commit(revision, [A])
    assert 4.0 < backend._clock() - started < 6.0


@pytest.mark.parametrize(("code", "text", "kind"), DEFINITE)
def test_definite_errors_of_the_first_request(
    client: FakeClient, backend: EtcdBackend, code: Code, text: str, kind: type[Exception]
) -> None:
    revision, _ = backend.load()
    client.faults.append(
        failing(error_of_status(code, text, "http://one", "a Txn"), executed=False)
    )
    with pytest.raises(kind) as caught:
        backend.commit(revision, [A])
    assert type(caught.value) is kind
    assert client.etcd.revision == revision
    assert backend.commit(revision, [A]) == revision + 1


@pytest.mark.parametrize("executed", [False, True], ids=["not-executed", "executed"])
@pytest.mark.parametrize(("code", "text"), UNKNOWN)
def test_other_errors_of_the_first_request_are_resolved(
    client: FakeClient, backend: EtcdBackend, code: Code, text: str, executed: bool
) -> None:
    revision, _ = backend.load()
    error = error_of_status(code, text, "http://one", "a Txn")
    client.faults.append(failing(error, executed=executed))
    if executed:
        assert backend.commit(revision, [A]) == revision + 1
    else:
        with pytest.raises(StoreUnavailableError, match="was not made"):
            backend.commit(revision, [A])
    assert stored(client) == ({A} if executed else set())


@pytest.mark.parametrize("executed", [False, True], ids=["not-executed", "executed"])
@pytest.mark.parametrize(
    ("code", "text"), [*UNKNOWN, *((code, text) for code, text, _ in DEFINITE)]
)
def test_an_error_of_the_fence_says_nothing_of_the_change(
    client: FakeClient, backend: EtcdBackend, code: Code, text: str, executed: bool
) -> None:
    revision, _ = backend.load()
    error = error_of_status(code, text, "http://one", "a Txn")
    client.faults.extend([lost_after if executed else lost_before, failing(error, executed=False)])
    if executed:
        assert backend.commit(revision, [A]) == revision + 1
    else:
        with pytest.raises(StoreUnavailableError, match="was not made"):
            backend.commit(revision, [A])
    assert stored(client) == ({A} if executed else set())


@pytest.mark.bad_input(69)
@pytest.mark.parametrize("executed", [False, True], ids=["not-executed", "executed"])
def test_a_full_database_may_have_taken_the_change(
    client: FakeClient, backend: EtcdBackend, executed: bool
) -> None:
    """While the alarm is on etcd refuses a fence too, so the head is read."""
    revision, _ = backend.load()
    error = error_of_status(Code.RESOURCE_EXHAUSTED, NO_SPACE, "http://one", "a Txn")
    client.faults.extend([failing(error, executed=executed), lost_before])
    if executed:
        assert backend.commit(revision, [A]) == revision + 1
    else:
        with pytest.raises(StoreUnavailableError, match=r"is full.*NOSPACE"):
            backend.commit(revision, [A])
    assert client.etcd.revision == revision + executed
    assert stored(client) == ({A} if executed else set())


def test_a_fence_that_does_not_fit_leaves_the_outcome_unknown(
    client: FakeClient, backend: EtcdBackend
) -> None:
    revision, _ = backend.load()
    error = error_of_status(Code.RESOURCE_EXHAUSTED, NO_SPACE, "http://one", "a Txn")
    client.faults.append(lost_after)
    client.faults.extend([failing(error, executed=False)] * 1000)
    with pytest.raises(OutcomeUnknownError, match="space exceeded"):
        backend.commit(revision, [A])


@pytest.mark.parametrize("what", ["deleted", "another", "damaged"])
def test_a_store_that_is_gone_leaves_the_outcome_unknown(
    client: FakeClient, backend: EtcdBackend, what: str
) -> None:
    revision, _ = backend.load()

    def gone(deliver: Callable[[], TxnAnswer]) -> TxnAnswer:
        if what == "damaged":
            client.etcd.put(b"/leeway/v1/head", b"junk")
            return deliver()
        client.etcd.delete(b"/leeway/", b"/leeway0")
        if what == "another":
            assert backend_on(client.etcd.client()).initialise([])
        return deliver()

    client.faults.append(gone)
    with pytest.raises(OutcomeUnknownError):
        backend.commit(revision, [A])


def test_a_record_is_written_once(client: FakeClient, backend: EtcdBackend) -> None:
    """etcd refuses a key that a transaction names twice."""
    revision = backend.commit(backend.load()[0], [A])
    gone = Record("user", b"a", None)
    again = Record("user", b"a", b"again")
    revision = backend.commit(revision, [gone, B, again])
    assert stored(client) == {again, B}
    backend.commit(revision, [again, gone])
    assert stored(client) == {B}


@pytest.mark.parametrize("count", [120, 121, 128, MAX_RECORDS])
def test_as_many_records_as_a_transaction_takes(
    client: FakeClient, backend: EtcdBackend, count: int
) -> None:
    records = [Record("permission", b"%d" % number, b"\1") for number in range(count)]
    revision = backend.commit(backend.load()[0], records)
    assert stored(client) == set(records)
    backend.commit(revision, [record._replace(value=None) for record in records])
    assert stored(client) == set()


@pytest.mark.parametrize(
    "records",
    [
        [Record("permission", b"%d" % number, b"\1") for number in range(MAX_RECORDS + 1)],
        [Record("user", b"a", bytes(MAX_BYTES))],
        [Record("user", bytes(MAX_BYTES // 2), b"")],
        [Record("user", b"%d" % number, bytes(1000)) for number in range(1600)],
    ],
    ids=["records", "value", "id", "sum"],
)
def test_what_is_too_large_is_not_sent(
    client: FakeClient, backend: EtcdBackend, records: list[Record]
) -> None:
    revision, _ = backend.load()
    client.faults.append(lost_before)
    with pytest.raises(TooLargeError, match=r"at most 4032 records and \d+ bytes"):
        backend.commit(revision, records)
    assert len(client.faults) == 1
    assert backend.counters.commits == {"too_large": 1}


def test_a_revision_that_was_not_handed_out_is_a_conflict(
    client: FakeClient, backend: EtcdBackend
) -> None:
    with pytest.raises(ConflictError):
        backend.commit(client.etcd.revision, [A])
    revision, _ = backend.load()
    for other in (0, -1, revision - 1, revision + 1):
        with pytest.raises(ConflictError):
            backend.commit(other, [A])
    assert client.etcd.revision == revision


# Making a store.


@pytest.mark.parametrize(
    "faults",
    [[], [delivered_twice], [lost_after], [lost_before], [lost_before, lost_after, lost_before]],
    ids=["plain", "repeated", "answer-lost", "request-lost", "all"],
)
def test_a_store_is_made_once(faults: list[Fault]) -> None:
    client = FakeEtcd().client()
    client.faults.extend(faults)
    assert backend_on(client).initialise([A, B])
    assert client.etcd.revision == 2
    assert stored(client) == {A, B}
    assert not backend_on(client).initialise([A])
    assert stored(client) == {A, B}


def test_a_store_that_others_used_since_is_still_ours() -> None:
    client = FakeEtcd().client()

    def then_others(deliver: Callable[[], TxnAnswer]) -> TxnAnswer:
        deliver()
        others_commit(client, 3)
        raise away()

    client.faults.append(then_others)
    assert backend_on(client).initialise([A])


@pytest.mark.parametrize("key", [b"/leeway/x", b"/leeway/v1/user/ann", b"/leeway/v9/x"])
def test_no_store_is_made_where_something_is(key: bytes) -> None:
    client = FakeEtcd().client()
    client.etcd.put(key, b"")
    with pytest.raises(StoreError, match=r"keys under /leeway/ in etcd, and no store"):
        backend_on(client).initialise([A])
    assert client.etcd.keys() == {key: b""}


def test_no_store_is_made_where_one_is_damaged() -> None:
    client = FakeEtcd().client()
    client.etcd.put(b"/leeway/v1/head", b"junk")
    assert not backend_on(client).initialise([A])
    with pytest.raises(StoreError, match="cannot be used"):
        backend_on(client).load()


def test_a_neighbour_does_not_matter() -> None:
    client = FakeEtcd().client()
    client.etcd.put(b"/leeway", b"")
    client.etcd.put(b"/leeway0", b"")
    client.etcd.put(b"/leeway-2/x", b"")
    assert backend_on(client).initialise([A])


# Three writers, every request with a fate of its own.


@pytest.mark.parametrize("seed", range(20))
def test_no_fate_of_requests_loses_or_repeats_a_change(client: FakeClient, seed: int) -> None:
    import random

    fates = random.Random(seed)
    late: list[Callable[[], TxnAnswer]] = []

    def fate(deliver: Callable[[], TxnAnswer]) -> TxnAnswer:
        if late and fates.random() < 0.3:
            late.pop(fates.randrange(len(late)))()
        match fates.randrange(8):
            case 0:
                return delivered_twice(deliver)
            case 1:
                return lost_before(deliver)
            case 2:
                return lost_after(deliver)
            case 3:
                late.append(deliver)
                raise away()
            case 4:
                client.etcd.compact()
                return deliver()
            case _:
                return deliver()

    writers = [backend_on(client, f"{name}/1") for name in "abc"]
    numbers = itertools.count()
    acknowledged, refused, unknown = set[int](), set[int](), set[int]()
    for _ in range(150):
        writer = fates.choice(writers)
        client.faults.clear()
        revision, records = writer.load()
        total = sum(1 for record in records if record.kind == "user")
        number = next(numbers)
        # A change that counts: if it were made twice, the count would show it.
        change = [
            Record("user", b"%d" % number, b""),
            Record("meta", b"count", b"%d" % (total + 1)),
        ]
        client.faults.extend([fate] * 1000)
        if fates.random() < 0.3:
            client.faults.clear()
            with suppress(ConflictError):
                fates.choice(writers).commit(revision, [])
            client.faults.extend([fate] * 1000)
        try:
            writer.commit(revision, change)
            acknowledged.add(number)
        except OutcomeUnknownError:
            unknown.add(number)
        except (ConflictError, StoreUnavailableError):
            refused.add(number)
    client.faults.clear()
    for deliver in late:
        deliver()
    found = stored(client)
    there = {int(record.id) for record in found if record.kind == "user"}
    assert acknowledged <= there <= acknowledged | unknown
    assert not refused & there
    assert Record("meta", b"count", b"%d" % len(there)) in found
    assert len(acknowledged) > 20
    assert refused
