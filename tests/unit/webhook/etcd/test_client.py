"""Which endpoint gets a request, how often, and what each method sends and returns."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import grpc
import pytest

from tests.scripted_etcd import HEADER, HOST, ScriptedEtcd, closed_port, until_cancelled
from webhook.etcd import rpc_pb2 as rpc
from webhook.etcd.client import EtcdClient
from webhook.etcd.errors import (
    Code,
    CompactedError,
    EtcdError,
    NoAnswerError,
    NotSentError,
    PermissionDeniedError,
    RefusedError,
)
from webhook.etcd.operations import Get, Put, mod_revision_is
from webhook.etcd.values import (
    Alarm,
    AuthStatus,
    GrantedRange,
    Header,
    KeyValue,
    Lease,
    Member,
    MemberStatus,
)

HEAD = Header(1, 2, 10, 3)
KV = rpc.KeyValue(key=b"k", value=b"v", create_revision=1, mod_revision=2, version=3, lease=4)
VALUE = KeyValue(b"k", b"v", 1, 2, 3, 4)
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
# A limit that only a fault reaches.
LONG = 20.0


@pytest.fixture
def members() -> Iterator[list[ScriptedEtcd]]:
    """Three members that answer Range and Txn."""
    with ExitStack() as stack:
        found = [stack.enter_context(ScriptedEtcd()) for _ in range(3)]
        for member in found:
            member.on["Range"] = lambda *_: rpc.RangeResponse(header=HEADER, kvs=[KV], count=1)
            member.on["Txn"] = lambda *_: rpc.TxnResponse(header=HEADER, succeeded=True)
        yield found


@pytest.fixture
def client(members: list[ScriptedEtcd]) -> Iterator[EtcdClient]:
    client = EtcdClient([member.url for member in members])
    yield client
    client.close()


def read(client: EtcdClient) -> str:
    """Read, and return which endpoint answered."""
    return client.range(b"k", timeout=LONG).endpoint


def read_hedged(client: EtcdClient) -> str:
    return client.range(b"k", timeout=LONG, hedge=LONG).endpoint


def write(client: EtcdClient) -> str:
    return client.txn([], [Put(b"k", b"v")], timeout=LONG).endpoint


def silent(_request: object, context: grpc.ServicerContext) -> rpc.RangeResponse:
    until_cancelled(context)
    return rpc.RangeResponse()


def test_no_io_before_the_first_call() -> None:
    EtcdClient(["https://nowhere.invalid:2379"]).close()


@pytest.mark.parametrize("urls", [[], ["10.0.0.1:2379"], ["https://10.0.0.1"]])
def test_urls_that_are_no_endpoints(urls: list[str]) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        EtcdClient(urls)


def test_the_order_of_endpoints() -> None:
    client = EtcdClient(["http://a:1", "http://b:1", "http://a:1"])
    assert client.endpoints == ("http://a:1", "http://b:1")
    assert client.endpoint == "http://a:1"
    assert client.next_endpoint("http://a:1") == "http://b:1"
    assert client.next_endpoint("http://b:1") == "http://a:1"


@pytest.mark.parametrize("call", [read, read_hedged, write])
def test_the_endpoint_that_answered_last_is_tried_first(
    call: Callable[[EtcdClient], str], members: list[ScriptedEtcd]
) -> None:
    dead = f"http://{HOST}:{closed_port()}"
    client = EtcdClient([dead, members[0].url, members[1].url])
    assert [call(client) for _ in range(3)] == [members[0].url] * 3
    assert client.endpoint == members[0].url
    assert members[1].calls == []
    client.close()


@pytest.mark.parametrize("call", [read, read_hedged])
@pytest.mark.parametrize(
    ("code", "text"),
    [
        (UNAVAILABLE, "etcdserver: no leader"),
        (UNAVAILABLE, "etcdserver: request timed out"),
        (grpc.StatusCode.UNKNOWN, "etcdserver: not a primary lessor"),
        (grpc.StatusCode.INTERNAL, "stream was reset"),
        (grpc.StatusCode.CANCELLED, "context canceled"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests"),
        (grpc.StatusCode.DATA_LOSS, "etcdserver: corrupt"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_read_goes_to_the_next_endpoint(
    call: Callable[[EtcdClient], str],
    code: grpc.StatusCode,
    text: str,
    members: list[ScriptedEtcd],
    client: EtcdClient,
) -> None:
    members[0].refuse("Range", code, text)
    assert call(client) == members[1].url
    assert members[2].calls == []


@pytest.mark.parametrize("hedge", [None, LONG])
@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (
            grpc.StatusCode.OUT_OF_RANGE,
            "etcdserver: mvcc: required revision has been compacted",
            CompactedError,
        ),
        (grpc.StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", PermissionDeniedError),
        (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided", RefusedError),
        (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty", RefusedError),
    ],
    ids=["compacted", "denied", "no key", "no user"],
)
def test_a_refusal_is_the_answer(
    hedge: float | None,
    code: grpc.StatusCode,
    text: str,
    kind: type[EtcdError],
    members: list[ScriptedEtcd],
    client: EtcdClient,
) -> None:
    members[0].refuse("Range", code, text)
    with pytest.raises(kind, match=text) as caught:
        client.range(b"k", timeout=LONG, hedge=hedge)
    assert caught.value.endpoint == members[0].url
    assert members[1].calls == []
    assert client.endpoint == members[0].url


def test_an_answer_that_cannot_be_read(members: list[ScriptedEtcd], client: EtcdClient) -> None:
    members[0].on["Range"] = lambda *_: b"\xff\xff"
    assert read(client) == members[1].url
    members[1].on["Range"] = members[2].on["Range"] = members[0].on["Range"]
    with pytest.raises(NoAnswerError, match="cannot be read"):
        client.range(b"k", timeout=LONG)
    with pytest.raises(NoAnswerError, match="cannot be read"):
        client.range(b"k", timeout=LONG, hedge=LONG)


def test_a_silent_endpoint_takes_its_share_of_the_time(
    members: list[ScriptedEtcd], client: EtcdClient
) -> None:
    members[0].on["Range"] = silent
    assert client.range(b"k", timeout=3.0).endpoint == members[1].url
    assert client.range(b"k", timeout=3.0).endpoint == members[1].url
    assert members[0].names() == ["Range"]


def test_nobody_answers(members: list[ScriptedEtcd], client: EtcdClient) -> None:
    for member in members:
        member.on["Range"] = silent
    for hedge in (None, 0.05):
        with pytest.raises(NoAnswerError) as caught:
            client.range(b"k", timeout=0.6, hedge=hedge)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        assert not caught.value.is_definite
        assert all(member.url in str(caught.value) for member in members)


def test_a_read_waits_for_the_end_of_an_election(
    members: list[ScriptedEtcd], client: EtcdClient
) -> None:
    rounds = 0

    def elect(_request: object, context: grpc.ServicerContext) -> rpc.RangeResponse:
        nonlocal rounds
        rounds += 1
        if rounds < 10:
            context.abort(UNAVAILABLE, "etcdserver: no leader")
        return rpc.RangeResponse(header=HEADER)

    for member in members:
        member.on["Range"] = elect
    assert client.range(b"k", timeout=LONG).header == HEAD
    assert rounds == 10


def test_a_pinned_read_asks_nobody_else(members: list[ScriptedEtcd], client: EtcdClient) -> None:
    members[2].refuse("Range", grpc.StatusCode.UNKNOWN, "no")
    with pytest.raises(NoAnswerError):
        client.range(b"k", timeout=LONG, endpoint=members[2].url)
    assert client.range(b"k", timeout=LONG, endpoint=members[1].url).endpoint == members[1].url
    assert members[0].calls == []
    assert client.endpoint == members[0].url


def test_a_hedged_read_asks_the_next_endpoint_and_takes_the_first_answer(
    members: list[ScriptedEtcd], client: EtcdClient
) -> None:
    go_on = threading.Event()

    def slow(_request: object, _context: grpc.ServicerContext) -> rpc.RangeResponse:
        go_on.wait(LONG)
        return rpc.RangeResponse(header=HEADER, count=7)

    members[0].on["Range"] = members[1].on["Range"] = slow
    assert client.range(b"k", timeout=LONG, hedge=0.02).endpoint == members[2].url
    assert client.endpoint == members[2].url
    go_on.set()


def test_a_slow_answer_counts_if_no_other_is_faster(
    members: list[ScriptedEtcd], client: EtcdClient
) -> None:
    others = threading.Event()

    def slow(_request: object, _context: grpc.ServicerContext) -> rpc.RangeResponse:
        others.wait(LONG)
        return rpc.RangeResponse(header=HEADER, count=7)

    def last(_request: object, context: grpc.ServicerContext) -> rpc.RangeResponse:
        others.set()
        return silent(_request, context)

    members[0].on["Range"], members[1].on["Range"], members[2].on["Range"] = slow, silent, last
    answer = client.range(b"k", timeout=LONG, hedge=0.02)
    assert (answer.endpoint, answer.count) == (members[0].url, 7)


@pytest.mark.parametrize(
    ("code", "text", "is_definite"),
    [
        (UNAVAILABLE, "etcdserver: no leader", False),
        (UNAVAILABLE, "etcdserver: request timed out", False),
        (UNAVAILABLE, "Socket closed", False),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "context deadline exceeded", False),
        (grpc.StatusCode.CANCELLED, "context canceled", False),
        (grpc.StatusCode.UNKNOWN, "etcdserver: server stopped", False),
        (grpc.StatusCode.INTERNAL, "stream was reset", False),
        (grpc.StatusCode.ABORTED, "", False),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "etcdserver: mvcc: database space exceeded",
            False,
        ),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", True),
        (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large", True),
        (grpc.StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", True),
        (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty", True),
        (grpc.StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token", True),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_write_is_sent_once(
    code: grpc.StatusCode,
    text: str,
    is_definite: bool,
    members: list[ScriptedEtcd],
    client: EtcdClient,
) -> None:
    members[0].refuse("Txn", code, text)
    with pytest.raises(EtcdError) as caught:
        write(client)
    assert caught.value.is_definite is is_definite
    assert caught.value.endpoint == members[0].url
    assert len(members[0].of("Txn")) == 1
    assert members[1].calls == members[2].calls == []


def test_after_an_unknown_outcome_the_next_endpoint_comes_first(
    members: list[ScriptedEtcd], client: EtcdClient
) -> None:
    members[0].refuse("Txn", UNAVAILABLE, "etcdserver: request timed out")
    with pytest.raises(NoAnswerError):
        write(client)
    assert client.endpoint == members[1].url
    assert write(client) == members[1].url


def test_a_write_whose_answer_cannot_be_read(
    members: list[ScriptedEtcd], client: EtcdClient
) -> None:
    members[0].on["Txn"] = lambda *_: b"\xff\xff"
    with pytest.raises(NoAnswerError, match="cannot be read") as caught:
        write(client)
    assert not caught.value.is_definite
    assert members[1].of("Txn") == []


def test_a_write_that_was_not_sent_goes_to_the_next_endpoint(members: list[ScriptedEtcd]) -> None:
    dead = [f"http://{HOST}:{closed_port()}" for _ in range(2)]
    client = EtcdClient([*dead, members[0].url])
    assert write(client) == members[0].url
    assert len(members[0].of("Txn")) == 1
    client.close()
    client = EtcdClient(dead)
    with pytest.raises(NotSentError, match="no endpoint of etcd can be reached") as caught:
        write(client)
    assert caught.value.is_definite
    assert all(url in str(caught.value) for url in dead)
    client.close()


def test_a_member_that_may_be_stopped_is_probed_before_a_write(
    members: list[ScriptedEtcd], client: EtcdClient
) -> None:
    """Sent to a stopped member, a write would arrive when that goes on."""
    for member in members[:2]:
        member.on["Status"] = silent
    assert client.txn([], [], timeout=6.0).endpoint == members[2].url
    assert members[0].names() == members[1].names() == ["Status"]
    assert members[2].names() == ["Status", "Txn"]
    client.txn([], [], timeout=LONG)
    assert members[2].names() == ["Status", "Txn", "Txn"]


def test_any_answer_to_the_probe_will_do(members: list[ScriptedEtcd], client: EtcdClient) -> None:
    members[0].refuse("Status", grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty")
    assert write(client) == members[0].url


def test_a_failure_has_the_endpoint_probed_again(
    members: list[ScriptedEtcd], client: EtcdClient
) -> None:
    first = members[0].url
    client.txn([], [], timeout=LONG)
    works = members[0].on["Txn"]
    members[0].refuse("Txn", UNAVAILABLE, "etcdserver: no leader")
    with pytest.raises(NoAnswerError):
        client.txn([], [], timeout=LONG, endpoint=first)
    members[0].on["Txn"] = works
    client.txn([], [], timeout=LONG, endpoint=first)
    assert members[0].names() == ["Status", "Txn", "Txn", "Status", "Txn"]


def test_a_member_that_comes_back_is_used_again(members: list[ScriptedEtcd]) -> None:
    client = EtcdClient([members[0].url])
    works = members[0].on["Range"]
    members[0].refuse("Range", grpc.StatusCode.UNKNOWN, "no")
    with pytest.raises(NoAnswerError):
        read(client)
    members[0].on["Range"] = works
    assert read(client) == members[0].url
    client.close()


def test_a_transaction_whose_answers_are_none(
    members: list[ScriptedEtcd], client: EtcdClient
) -> None:
    members[0].on["Txn"] = lambda *_: rpc.TxnResponse(responses=[rpc.ResponseOp()])
    with pytest.raises(NoAnswerError, match="cannot be read") as caught:
        write(client)
    assert not caught.value.is_definite


@pytest.mark.parametrize("hedge", [None, LONG])
def test_no_time_at_all(
    hedge: float | None, members: list[ScriptedEtcd], client: EtcdClient
) -> None:
    with pytest.raises(EtcdError) as caught:
        client.range(b"k", timeout=0.0, hedge=hedge)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    with pytest.raises(NotSentError, match="it took too long"):
        client.txn([], [], timeout=0.0)
    assert [member.of("Txn") for member in members] == [[], [], []]


@pytest.mark.parametrize("call", [read, read_hedged, write])
def test_a_client_that_is_closed_between_two_steps_of_a_call(
    call: Callable[[EtcdClient], str], members: list[ScriptedEtcd], client: EtcdClient
) -> None:
    """The channel that a call has got can be closed before it uses it."""
    call(client)
    with client._channels.connection(members[0].url) as connection:
        connection.close()
    with pytest.raises(NotSentError, match="closed"):
        client.range(b"k", timeout=LONG, endpoint=members[0].url)
    with pytest.raises(NotSentError, match="closed"):
        client.put(b"k", b"", timeout=LONG, endpoint=members[0].url)
    with pytest.raises(NotSentError, match="closed"):
        client.watch(b"k", timeout=LONG, endpoint=members[0].url)
    assert call(client) == members[1].url


@pytest.mark.parametrize("call", [read, read_hedged, write])
def test_a_closed_client(
    call: Callable[[EtcdClient], str], members: list[ScriptedEtcd], client: EtcdClient
) -> None:
    call(client)
    client.close()
    with pytest.raises(NotSentError, match="closed"):
        call(client)
    with pytest.raises(NotSentError, match="closed"):
        client.watch(b"k")


def test_close_ends_what_is_under_way(members: list[ScriptedEtcd], client: EtcdClient) -> None:
    began = threading.Event()

    def hang(request: object, context: grpc.ServicerContext) -> rpc.RangeResponse:
        began.set()
        return silent(request, context)

    members[0].on["Range"] = hang
    errors: list[EtcdError] = []

    def call() -> None:
        try:
            client.range(b"k", timeout=LONG, endpoint=members[0].url)
        except EtcdError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert began.wait(LONG)
    client.close()
    thread.join(LONG)
    assert [type(error) for error in errors] == [NoAnswerError]


def test_threads_share_a_client(members: list[ScriptedEtcd], client: EtcdClient) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.extend(read(client) for _ in range(20)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [members[0].url] * 160


NO_HEADER = rpc.ResponseHeader()


@pytest.mark.parametrize(
    ("name", "call", "request_", "answer", "value"),
    [
        (
            "Range",
            lambda c: (
                c.range(
                    b"a",
                    b"b",
                    revision=5,
                    limit=6,
                    serializable=True,
                    keys_only=True,
                    count_only=True,
                ).kvs
            ),
            rpc.RangeRequest(
                key=b"a",
                range_end=b"b",
                revision=5,
                limit=6,
                serializable=True,
                keys_only=True,
                count_only=True,
            ),
            rpc.RangeResponse(header=HEADER, kvs=[KV, KV]),
            (VALUE, VALUE),
        ),
        (
            "Put",
            lambda c: c.put(b"a", b"b", lease=7, prev_kv=True).previous,
            rpc.PutRequest(key=b"a", value=b"b", lease=7, prev_kv=True),
            rpc.PutResponse(header=HEADER, prev_kv=KV),
            VALUE,
        ),
        (
            "Put",
            lambda c: c.put(b"a", b"b").previous,
            rpc.PutRequest(key=b"a", value=b"b"),
            rpc.PutResponse(header=HEADER),
            None,
        ),
        (
            "DeleteRange",
            lambda c: c.delete(b"a", b"b", prev_kv=True).previous,
            rpc.DeleteRangeRequest(key=b"a", range_end=b"b", prev_kv=True),
            rpc.DeleteRangeResponse(header=HEADER, deleted=1, prev_kvs=[KV]),
            (VALUE,),
        ),
        (
            "Compact",
            lambda c: c.compact(9, physical=True),
            rpc.CompactionRequest(revision=9, physical=True),
            rpc.CompactionResponse(header=HEADER),
            HEAD,
        ),
        (
            "LeaseGrant",
            lambda c: c.grant_lease(60, lease=5),
            rpc.LeaseGrantRequest(TTL=60, ID=5),
            rpc.LeaseGrantResponse(header=HEADER, ID=5, TTL=60),
            Lease(5, 60, 60),
        ),
        (
            "LeaseRevoke",
            lambda c: c.revoke_lease(5),
            rpc.LeaseRevokeRequest(ID=5),
            rpc.LeaseRevokeResponse(header=HEADER),
            HEAD,
        ),
        (
            "LeaseKeepAlive",
            lambda c: c.keep_lease_alive(5),
            rpc.LeaseKeepAliveRequest(ID=5),
            rpc.LeaseKeepAliveResponse(header=HEADER, ID=5, TTL=60),
            Lease(5, 60),
        ),
        (
            "LeaseTimeToLive",
            lambda c: c.lease(5, keys=True),
            rpc.LeaseTimeToLiveRequest(ID=5, keys=True),
            rpc.LeaseTimeToLiveResponse(header=HEADER, ID=5, TTL=9, grantedTTL=60, keys=[b"k"]),
            Lease(5, 9, 60, (b"k",)),
        ),
        (
            "Alarm",
            lambda c: c.alarms(),
            rpc.AlarmRequest(),
            rpc.AlarmResponse(
                header=HEADER,
                alarms=[
                    rpc.AlarmMember(memberID=1, alarm="NOSPACE"),
                    rpc.AlarmMember(memberID=2, alarm="CORRUPT"),
                ],
            ),
            (Alarm(1, "NOSPACE"), Alarm(2, "CORRUPT")),
        ),
        (
            "MemberList",
            lambda c: c.members(),
            rpc.MemberListRequest(linearizable=True),
            rpc.MemberListResponse(
                header=HEADER,
                members=[
                    rpc.Member(
                        ID=1, name="m", peerURLs=["p"], clientURLs=["c", "d"], isLearner=True
                    )
                ],
            ),
            (Member(1, "m", ("p",), ("c", "d"), True),),
        ),
        (
            "AuthStatus",
            lambda c: c.auth_status(),
            rpc.AuthStatusRequest(),
            rpc.AuthStatusResponse(header=HEADER, enabled=True, authRevision=8),
            AuthStatus(HEAD, True, 8),
        ),
        (
            "UserGet",
            lambda c: c.user_roles("u"),
            rpc.AuthUserGetRequest(name="u"),
            rpc.AuthUserGetResponse(header=HEADER, roles=["a", "b"]),
            ("a", "b"),
        ),
        (
            "RoleGet",
            lambda c: c.role_permissions("r"),
            rpc.AuthRoleGetRequest(role="r"),
            rpc.AuthRoleGetResponse(
                header=HEADER,
                perm=[rpc.Permission(permType="READWRITE", key=b"a", range_end=b"b")],
            ),
            (GrantedRange("READWRITE", b"a", b"b"),),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_sent_and_returned(
    name: str,
    call: Callable[[EtcdClient], object],
    request_: object,
    answer: rpc.RangeResponse,
    value: object,
    members: list[ScriptedEtcd],
    client: EtcdClient,
) -> None:
    members[0].on[name] = lambda *_: answer
    assert call(client) == value
    (sent,) = members[0].of(name)
    assert sent.request == request_
    assert sent.metadata["hasleader"] == "true"
    assert "token" not in sent.metadata


def test_the_status_of_a_member(members: list[ScriptedEtcd], client: EtcdClient) -> None:
    members[1].on["Status"] = lambda *_: rpc.StatusResponse(
        header=HEADER,
        version="3.6.13",
        dbSize=1,
        dbSizeInUse=2,
        dbSizeQuota=3,
        leader=4,
        raftIndex=5,
        raftAppliedIndex=6,
        raftTerm=7,
        errors=["memberID:2 alarm:NOSPACE"],
        isLearner=True,
        storageVersion="3.6.0",
    )
    assert client.status(members[1].url) == MemberStatus(
        HEAD, members[1].url, "3.6.13", 1, 2, 3, 4, 5, 6, 7,
        ("memberID:2 alarm:NOSPACE",), True, "3.6.0",
    )  # fmt: skip
    assert "hasleader" not in members[1].calls[0].metadata


def test_a_transaction(members: list[ScriptedEtcd], client: EtcdClient) -> None:
    compares, success, failure = [mod_revision_is(b"h", 0)], [Put(b"h", b"v")], [Get(b"h")]
    answer = client.txn(compares, success, failure)
    assert (answer.header, answer.succeeded, answer.answers) == (HEAD, True, ())
    (sent,) = members[0].of("Txn")
    assert sent.path == "/etcdserverpb.KV/Txn"
    assert sent.request == rpc.TxnRequest(
        compare=[rpc.Compare(target="MOD", key=b"h", mod_revision=0)],
        success=[rpc.RequestOp(request_put=rpc.PutRequest(key=b"h", value=b"v"))],
        failure=[rpc.RequestOp(request_range=rpc.RangeRequest(key=b"h"))],
    )


def test_a_client_without_a_user_does_not_log_in(
    members: list[ScriptedEtcd], client: EtcdClient
) -> None:
    client.authenticate()
    assert members[0].calls == []


@pytest.mark.parametrize("times", [1, 2, 3])
def test_the_revision_of_the_auth_store_can_be_old_with_a_certificate_too(
    times: int, members: list[ScriptedEtcd], client: EtcdClient
) -> None:
    """It was refused before it was executed, so it is sent again, twice at most."""
    refusals = 0

    def refuse(_request: object, context: grpc.ServicerContext) -> rpc.TxnResponse:
        nonlocal refusals
        refusals += 1
        if refusals <= times:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: revision of auth store is old"
            )
        return rpc.TxnResponse(header=HEADER)

    members[0].on["Txn"] = refuse
    if times <= 2:
        assert write(client) == members[0].url
    else:
        with pytest.raises(RefusedError, match="is old"):
            write(client)
    assert refusals == min(times + 1, 3)
