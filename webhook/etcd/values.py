"""etcd's answers, as values that do not change. Ids and revisions are its own; TTLs are seconds."""

from typing import TypeAlias

import msgspec


class Header(msgspec.Struct, frozen=True):
    """Who answered, and the revision of the whole store at that time."""

    cluster_id: int
    member_id: int
    revision: int
    raft_term: int


class KeyValue(msgspec.Struct, frozen=True, gc=False):
    """A key with its value. Of a deleted key, ``key`` and ``mod_revision`` are known."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


class RangeAnswer(msgspec.Struct, frozen=True):
    """The keys of a range. ``count`` is how many there are without the limit.

    ``endpoint`` is the URL of the member that answered, here and in the other answers.
    """

    header: Header
    kvs: tuple[KeyValue, ...]
    more: bool
    count: int
    endpoint: str


class PutAnswer(msgspec.Struct, frozen=True):
    """A key was written; ``previous`` is what it had, if that was requested."""

    header: Header
    previous: KeyValue | None
    endpoint: str


class DeleteAnswer(msgspec.Struct, frozen=True):
    """Keys were deleted; ``previous`` is what they had, if that was requested."""

    header: Header
    deleted: int
    previous: tuple[KeyValue, ...]
    endpoint: str


class TxnAnswer(msgspec.Struct, frozen=True):
    """Which branch of a transaction was executed, with one answer for each operation of it.

    The headers of the answers are that of the transaction.
    """

    header: Header
    succeeded: bool
    answers: "tuple[OperationAnswer, ...]"
    endpoint: str


OperationAnswer: TypeAlias = RangeAnswer | PutAnswer | DeleteAnswer | TxnAnswer


class Event(msgspec.Struct, frozen=True):
    """A change of a key; ``previous`` is what it had, if that was requested and not compacted."""

    kv: KeyValue
    is_delete: bool
    previous: KeyValue | None


class WatchBatch(msgspec.Struct, frozen=True):
    """Events of one or more revisions, each of them complete.

    Without events it is progress: there was none up to the revision of the header. With events,
    more up to that revision may follow.
    """

    header: Header
    events: tuple[Event, ...]


class Lease(msgspec.Struct, frozen=True):
    """A lease: how long it lasts from now on (-1: there is none), and what was granted.

    ``granted_ttl`` is 0 and ``keys`` empty where they were not requested.
    """

    id: int
    ttl: int
    granted_ttl: int = 0
    keys: tuple[bytes, ...] = ()


class MemberStatus(msgspec.Struct, frozen=True):
    """One member as it sees itself; sizes in bytes.

    ``db_quota`` is 0 and ``storage_version`` empty before etcd 3.6. ``leader`` is 0 without one.
    """

    header: Header
    endpoint: str
    version: str
    db_size: int
    db_size_in_use: int
    db_quota: int
    leader: int
    raft_index: int
    raft_applied_index: int
    raft_term: int
    errors: tuple[str, ...]
    is_learner: bool
    storage_version: str


class Alarm(msgspec.Struct, frozen=True):
    """An alarm of a member: ``NOSPACE`` or ``CORRUPT``."""

    member_id: int
    kind: str


class Member(msgspec.Struct, frozen=True):
    """A member of the cluster. Without a name it has not started yet."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool


class AuthStatus(msgspec.Struct, frozen=True):
    """Whether etcd's own auth is enabled, and its revision."""

    header: Header
    enabled: bool
    auth_revision: int


class GrantedRange(msgspec.Struct, frozen=True):
    """What a role is permitted: ``READ``, ``WRITE`` or ``READWRITE`` on a key or range."""

    permission: str
    key: bytes
    range_end: bytes
