"""Operations and answers, to and from etcd's messages."""

import pytest
from google.protobuf.message import DecodeError

from webhook.etcd import rpc_pb2 as rpc
from webhook.etcd.messages import alarms, granted_ranges, txn_answer, txn_request, txn_size
from webhook.etcd.operations import (
    Compare,
    Delete,
    Get,
    Operation,
    Put,
    Relation,
    Target,
    Txn,
    create_revision_is,
    lease_is,
    mod_revision_is,
    prefix_end,
    value_is,
    version_is,
)
from webhook.etcd.values import DeleteAnswer, Header, KeyValue, PutAnswer, RangeAnswer, TxnAnswer

HERE = "https://10.0.0.1:2379"
HEAD = Header(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        (mod_revision_is(b"k", 7), rpc.Compare(target="MOD", key=b"k", mod_revision=7)),
        (
            create_revision_is(b"a", 0, b"b"),
            rpc.Compare(target="CREATE", key=b"a", range_end=b"b", create_revision=0),
        ),
        (version_is(b"k", 2), rpc.Compare(target="VERSION", key=b"k", version=2)),
        (lease_is(b"k", 0), rpc.Compare(target="LEASE", key=b"k", lease=0)),
        (value_is(b"k", b""), rpc.Compare(target="VALUE", key=b"k", value=b"")),
        (
            Compare(Target.MOD_REVISION, b"k", 7, Relation.GREATER),
            rpc.Compare(target="MOD", result="GREATER", key=b"k", mod_revision=7),
        ),
        (
            Compare(Target.VALUE, b"k", b"v", Relation.NOT_EQUAL),
            rpc.Compare(target="VALUE", result="NOT_EQUAL", key=b"k", value=b"v"),
        ),
        (
            Compare(Target.VERSION, b"k", 1, Relation.LESS),
            rpc.Compare(target="VERSION", result="LESS", key=b"k", version=1),
        ),
    ],
    ids=["mod", "create", "version", "lease", "value", "greater", "not equal", "less"],
)
def test_compares(compare: Compare, message: rpc.Compare) -> None:
    assert list(txn_request(Txn([compare], [])).compare) == [message]


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (
            Get(b"a", b"b", 1, 2, keys_only=True, count_only=True),
            rpc.RequestOp(
                request_range=rpc.RangeRequest(
                    key=b"a", range_end=b"b", revision=1, limit=2, keys_only=True, count_only=True
                )
            ),
        ),
        (
            Put(b"a", b"v", 5, prev_kv=True),
            rpc.RequestOp(request_put=rpc.PutRequest(key=b"a", value=b"v", lease=5, prev_kv=True)),
        ),
        (
            Delete(b"a", b"b", prev_kv=True),
            rpc.RequestOp(
                request_delete_range=rpc.DeleteRangeRequest(key=b"a", range_end=b"b", prev_kv=True)
            ),
        ),
        (
            Txn([], [Put(b"a", b"")], [Get(b"a")]),
            rpc.RequestOp(
                request_txn=rpc.TxnRequest(
                    success=[rpc.RequestOp(request_put=rpc.PutRequest(key=b"a"))],
                    failure=[rpc.RequestOp(request_range=rpc.RangeRequest(key=b"a"))],
                )
            ),
        ),
    ],
    ids=["get", "put", "delete", "nested"],
)
def test_operations(operation: Operation, message: rpc.RequestOp) -> None:
    request = txn_request(Txn([], [operation], [operation]))
    assert list(request.success) == list(request.failure) == [message]


def test_the_size_of_a_transaction() -> None:
    compares, success, failure = [value_is(b"h", b"old")], [Put(b"h", b"x" * 1000)], [Get(b"h")]
    sent = txn_request(Txn(compares, success, failure)).SerializeToString()
    assert txn_size(compares, success, failure) == len(sent) > 1000


def test_the_answers_of_a_transaction() -> None:
    kv = rpc.KeyValue(key=b"k", value=b"v", mod_revision=2)
    message = rpc.TxnResponse(
        succeeded=True,
        responses=[
            rpc.ResponseOp(response_range=rpc.RangeResponse(kvs=[kv], more=True, count=9)),
            rpc.ResponseOp(response_put=rpc.PutResponse(prev_kv=kv)),
            rpc.ResponseOp(response_put=rpc.PutResponse()),
            rpc.ResponseOp(response_delete_range=rpc.DeleteRangeResponse(deleted=1, prev_kvs=[kv])),
            rpc.ResponseOp(response_txn=rpc.TxnResponse(succeeded=False)),
        ],
    )
    value = KeyValue(b"k", b"v", 0, 2, 0, 0)
    assert txn_answer(message, HEAD, HERE) == TxnAnswer(
        HEAD,
        True,
        (
            RangeAnswer(HEAD, (value,), True, 9, HERE),
            PutAnswer(HEAD, value, HERE),
            PutAnswer(HEAD, None, HERE),
            DeleteAnswer(HEAD, 1, (value,), HERE),
            TxnAnswer(HEAD, False, (), HERE),
        ),
        HERE,
    )


def test_an_answer_to_no_operation() -> None:
    with pytest.raises(DecodeError, match="not one to an operation"):
        txn_answer(rpc.TxnResponse(responses=[rpc.ResponseOp()]), HEAD, HERE)


def test_numbers_that_are_not_known_yet() -> None:
    # An alarm of type 9, and a permission of type 9.
    assert alarms(rpc.AlarmResponse.FromString(b"\x12\x04\x08\x05\x10\x09"))[0].kind == "9"
    role = rpc.AuthRoleGetResponse.FromString(b"\x12\x02\x08\x09")
    assert granted_ranges(role)[0].permission == "9"


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        (b"/leeway/", b"/leeway0"),
        (b"a\xff\xff", b"b"),
        (b"\xff\xff", b"\0"),
        (b"", b"\0"),
        (b"\xfe", b"\xff"),
    ],
)
def test_the_end_of_a_prefix(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end
