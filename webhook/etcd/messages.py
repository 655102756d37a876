"""Converts operations and answers to and from etcd's protobuf messages."""

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from webhook.etcd import rpc_pb2 as rpc
from webhook.etcd.operations import Compare, Delete, Get, Operation, Put, Target, Txn
from webhook.etcd.values import (
    Alarm,
    DeleteAnswer,
    Event,
    GrantedRange,
    Header,
    KeyValue,
    Member,
    MemberStatus,
    OperationAnswer,
    PutAnswer,
    RangeAnswer,
    TxnAnswer,
)


def range_request(get: Get, *, serializable: bool = False) -> rpc.RangeRequest:
    """Return the message of a read."""
    return rpc.RangeRequest(
        key=get.key,
        range_end=get.range_end,
        limit=get.limit,
        revision=get.revision,
        serializable=serializable,
        keys_only=get.keys_only,
        count_only=get.count_only,
    )


def put_request(put: Put) -> rpc.PutRequest:
    """Return the message of a write."""
    return rpc.PutRequest(key=put.key, value=put.value, lease=put.lease, prev_kv=put.prev_kv)


def delete_request(delete: Delete) -> rpc.DeleteRangeRequest:
    """Return the message of a deletion."""
    return rpc.DeleteRangeRequest(
        key=delete.key, range_end=delete.range_end, prev_kv=delete.prev_kv
    )


def txn_request(txn: Txn) -> rpc.TxnRequest:
    """Return the message of a transaction."""
    return rpc.TxnRequest(
        compare=map(_compare, txn.compares),
        success=map(_operation, txn.success),
        failure=map(_operation, txn.failure),
    )


def txn_size(
    compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
) -> int:
    """Return how many bytes the message of a transaction has.

    etcd refuses a request of more than ``--max-request-bytes``, by default 1.5 MiB.
    """
    return txn_request(Txn(compares, success, failure)).ByteSize()


def _compare(compare: Compare) -> rpc.Compare:
    message = rpc.Compare(
        result=rpc.Compare.CompareResult.Name(compare.relation),
        target=rpc.Compare.CompareTarget.Name(compare.target),
        key=compare.key,
        range_end=compare.range_end,
    )
    # A field of a oneof is set even to 0: etcd compares with 0 either way.
    setattr(message, _OPERANDS[compare.target], compare.operand)
    return message


_OPERANDS = {
    Target.VERSION: "version",
    Target.CREATE_REVISION: "create_revision",
    Target.MOD_REVISION: "mod_revision",
    Target.VALUE: "value",
    Target.LEASE: "lease",
}


def _operation(operation: Operation) -> rpc.RequestOp:
    match operation:
        case Put():
            return rpc.RequestOp(request_put=put_request(operation))
        case Delete():
            return rpc.RequestOp(request_delete_range=delete_request(operation))
        case Get():
            return rpc.RequestOp(request_range=range_request(operation))
        case Txn():
            return rpc.RequestOp(request_txn=txn_request(operation))


def header(message: rpc.ResponseHeader) -> Header:
    """Return the header of an answer."""
    return Header(message.cluster_id, message.member_id, message.revision, message.raft_term)


def key_value(message: rpc.KeyValue) -> KeyValue:
    """Return a key with its value."""
    return KeyValue(
        message.key,
        message.value,
        message.create_revision,
        message.mod_revision,
        message.version,
        message.lease,
    )


def range_answer(message: rpc.RangeResponse, head: Header, endpoint: str) -> RangeAnswer:
    """Return the keys of a range."""
    return RangeAnswer(
        head, tuple(map(key_value, message.kvs)), message.more, message.count, endpoint
    )


def put_answer(message: rpc.PutResponse, head: Header, endpoint: str) -> PutAnswer:
    """Return what a write replaced."""
    return PutAnswer(head, _previous(message), endpoint)


def delete_answer(message: rpc.DeleteRangeResponse, head: Header, endpoint: str) -> DeleteAnswer:
    """Return what a deletion removed."""
    return DeleteAnswer(head, message.deleted, tuple(map(key_value, message.prev_kvs)), endpoint)


def txn_answer(message: rpc.TxnResponse, head: Header, endpoint: str) -> TxnAnswer:
    """Return what a transaction did. Raises DecodeError for an answer to no operation."""
    answers = tuple(_operation_answer(answer, head, endpoint) for answer in message.responses)
    return TxnAnswer(head, message.succeeded, answers, endpoint)


def event(message: rpc.Event) -> Event:
    """Return a change of a key."""
    return Event(
        key_value(message.kv), message.type == rpc.Event.EventType.DELETE, _previous(message)
    )


def member_status(message: rpc.StatusResponse, endpoint: str) -> MemberStatus:
    """Return the state of a member."""
    return MemberStatus(
        header=header(message.header),
        endpoint=endpoint,
        version=message.version,
        db_size=message.dbSize,
        db_size_in_use=message.dbSizeInUse,
        db_quota=message.dbSizeQuota,
        leader=message.leader,
        raft_index=message.raftIndex,
        raft_applied_index=message.raftAppliedIndex,
        raft_term=message.raftTerm,
        errors=tuple(message.errors),
        is_learner=message.isLearner,
        storage_version=message.storageVersion,
    )


def alarms(message: rpc.AlarmResponse) -> tuple[Alarm, ...]:
    """Return alarms; a kind that is not known here by its number."""
    return tuple(
        Alarm(alarm.memberID, _ALARMS.get(alarm.alarm, str(alarm.alarm)))
        for alarm in message.alarms
    )


def members(message: rpc.MemberListResponse) -> tuple[Member, ...]:
    """Return the members of a cluster."""
    return tuple(
        Member(
            member.ID,
            member.name,
            tuple(member.peerURLs),
            tuple(member.clientURLs),
            member.isLearner,
        )
        for member in message.members
    )


def granted_ranges(message: rpc.AuthRoleGetResponse) -> tuple[GrantedRange, ...]:
    """Return what a role is permitted; a type that is not known here by its number."""
    return tuple(
        GrantedRange(
            _PERMISSIONS.get(granted.permType, str(granted.permType)),
            granted.key,
            granted.range_end,
        )
        for granted in message.perm
    )


_ALARMS = {number: name for name, number in rpc.AlarmType.items()}
_PERMISSIONS = {number: name for name, number in rpc.Permission.Type.items()}


def _operation_answer(message: rpc.ResponseOp, head: Header, endpoint: str) -> OperationAnswer:
    match message.WhichOneof("response"):
        case "response_range":
            return range_answer(message.response_range, head, endpoint)
        case "response_put":
            return put_answer(message.response_put, head, endpoint)
        case "response_delete_range":
            return delete_answer(message.response_delete_range, head, endpoint)
        case "response_txn":
            return txn_answer(message.response_txn, head, endpoint)
        case _:
            raise DecodeError("an answer of a transaction is not one to an operation")


def _previous(message: rpc.PutResponse | rpc.Event) -> KeyValue | None:
    return key_value(message.prev_kv) if message.HasField("prev_kv") else None
