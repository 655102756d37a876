"""The records that the engine stores, and the protocol of the backends that store them.

The revision of a store grows with every transaction; the auth revision is a value in a record.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol, TypeVar

import msgspec

from webhook.rbac.model import Group, Permission, User

META: Final = "meta"
USER: Final = "user"
ROLE: Final = "role"
PERMISSION: Final = "permission"
GROUP: Final = "group"
TOKEN: Final = "token"
REVOCATION: Final = "revocation"
LIFETIME: Final = "lifetime"
KEY: Final = "key"
SCHEDULE: Final = "schedule"
REPLICA: Final = "replica"
SEALED: Final = frozenset((KEY, SCHEDULE, REPLICA))
"""The kinds of records about signing keys, whose values only ``keys`` reads."""
KINDS: Final = SEALED | {META, USER, ROLE, PERMISSION, GROUP, TOKEN, REVOCATION, LIFETIME}

AUTH_ID: Final = b"auth"
LIFETIME_ID: Final = b"own"
REVOKED_JTI: Final = "jti"
REVOKED_SUBJECT: Final = "subject"


class Record(NamedTuple):
    """One record; a value of None means that it was deleted."""

    kind: str
    id: bytes
    value: bytes | None


class ConflictError(Exception):
    """Another process wrote first: read the changes, and decide again."""


class ReplacedError(Exception):
    """The stored data does not continue the data in use: load all of it."""


class BasisLostError(Exception):
    """An answer rests on a state that may lack something acknowledged: decide it again."""


class Backend(Protocol):
    """Stores records: transactions that compare a revision, and a change feed.

    Revisions are opaque: the next one is greater, and that is all. 0 is a store without a commit.

    Any thread may call any method. ``load``, ``commit`` and ``changes`` may wait for a disk, a lock
    or the network, and are called by one thread at a time; the event loop calls only ``changes``
    without ``wait`` and what never waits, also meanwhile. Methods that read or write raise
    StoreUnavailableError if the data cannot be reached now, StoreLockedError if that will pass by
    itself, NotInitialisedError if there is no store, and StoreError if it is damaged.
    """

    @property
    def store_id(self) -> str:
        """What tells this store from others of its kind; empty before it was read."""

    @property
    def place(self) -> str:
        """Where the data is, for messages."""

    @property
    def max_records(self) -> int | None:
        """How many records a commit may have at most, None for any number."""

    @property
    def max_staleness(self) -> float:
        """For how many seconds a proof holds (``proven``)."""

    @property
    def clock_difference(self) -> float:
        """Others' clock minus ours in seconds, the farthest seen of late; 0 where all share one."""

    def load(self) -> tuple[int, list[Record]]:
        """Return the revision and every record of it."""

    def changes(self, after: int, *, wait: bool = True) -> tuple[int, list[Record]] | None:
        """Return a revision and the records changed after ``after`` up to it, deleted ones too.

        With ``wait`` everything is in it that anybody was told is written before this call.
        Without, it is what is here already, and nothing is waited for: StoreLockedError if commits
        that have ended cannot be read now, ``after`` and no records if one is in progress.

        None means that the feed does not reach back that far: load everything again. Raises
        ReplacedError if the data is not a continuation of what ``after`` was returned for.
        """

    def applied(self, revision: int, /) -> None:
        """Record which state is in use: that of a revision which was returned before."""

    def unread(self) -> int:
        """Return how many commits are here that are not in use (``applied``). Never waits.

        The last of them may be in progress. A large number means that the data was replaced or
        cannot be reached.
        """

    def problem(self) -> str:
        """Return why nothing newer is known, for messages, empty if all is well. Never waits."""

    def proven(self, revision: int, /) -> float:
        """Return a moment before which everything acknowledged is in a state. Never waits.

        The state is that of ``revision``, which is in use. The moment is in the seconds of
        CLOCK_BOOTTIME: infinite if ``unread`` finds every commit that has ended, and negative
        infinity if there is no proof.
        """

    def wanted(self) -> None:
        """Ask for a proof that is of a moment after this call. Never waits."""

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        """Write all records, or none, and return the new revision.

        Of several records with the same kind and id the last counts. The caller holds no lock that
        readers need. Raises ConflictError if the revision is no longer ``expected``, TooLargeError
        before anything was sent, and OutcomeUnknownError if the commit may have happened, or may
        still happen.
        """

    def position(self) -> str:
        """Return the position in the history of this store that is in use, as an opaque text."""

    def reaches(self, position: str) -> bool:
        """Return whether what is in use contains what had been written at a position. Never waits.

        Raises ForeignPositionError for one of another store, or of a history that is gone.
        """

    def close(self) -> None:
        """Release files, locks and connections."""


class AuthMeta(msgspec.Struct, frozen=True):
    """Whether auth is enabled, the auth revision, and which auth tokens have ended.

    Simple tokens of an epoch other than ``token_epoch`` have ended, and so have JWT auth tokens of
    an auth revision before ``floor``.
    """

    enabled: bool = False
    revision: int = 1
    token_epoch: int = 0
    floor: int = 0

    def bumped(self) -> "AuthMeta":
        """Return it with the next auth revision."""
        return msgspec.structs.replace(self, revision=self.revision + 1)


class TokenRecord(msgspec.Struct, frozen=True):
    """A simple token: whose it is, when it was last used (Unix seconds), and its epoch.

    See ``AuthMeta.token_epoch``. Records of earlier versions have the epoch 0.
    """

    user: str
    used: float
    epoch: int = 0


class Revocation(msgspec.Struct, frozen=True, gc=False):
    """A revocation of the tokens issued up to the Unix second ``before``.

    After ``until`` (Unix seconds, infinite for never) all of them have expired.
    """

    before: int
    until: float


class Lifetime(msgspec.Struct, frozen=True):
    """How long tokens signed here live.

    ``seconds`` is the longest lifetime that is granted. Tokens granted under earlier, longer
    settings have expired by ``earlier_until`` (Unix seconds).
    """

    seconds: float = 0.0
    earlier_until: float = 0.0


_Value = TypeVar("_Value", AuthMeta, TokenRecord, Revocation, Lifetime)


class _UserValue(msgspec.Struct):
    password_hash: bytes
    roles: tuple[str, ...]
    generation: int


def text_id(name: str) -> bytes:
    """Return the id of a record with a name. Raises UnicodeEncodeError for surrogates."""
    return name.encode("utf-8")


def text_of(record_id: bytes) -> str:
    """Return the name in an id."""
    return record_id.decode("utf-8")


def read_value(value: bytes, kind: type[_Value]) -> _Value:
    """Read the value of a record that is a struct."""
    return msgspec.msgpack.decode(value, type=kind)


def meta_record(meta: AuthMeta) -> Record:
    """Return the record of the state of auth."""
    return Record(META, AUTH_ID, msgspec.msgpack.encode(meta))


def user_record(user: User) -> Record:
    """Return the record of a user."""
    value = _UserValue(user.password_hash, user.roles, user.generation)
    return Record(USER, text_id(user.name), msgspec.msgpack.encode(value))


def read_user(record_id: bytes, value: bytes) -> User:
    """Read a user."""
    found = msgspec.msgpack.decode(value, type=_UserValue)
    return User(text_of(record_id), found.password_hash, found.roles, found.generation)


def group_record(group: Group) -> Record:
    """Return the record of a group; one without roles is deleted."""
    value = msgspec.msgpack.encode(group.roles) if group.roles else None
    return Record(GROUP, text_id(group.name), value)


def read_group(record_id: bytes, value: bytes) -> Group:
    """Read a group."""
    return Group(text_of(record_id), msgspec.msgpack.decode(value, type=tuple[str, ...]))


def role_record(name: str) -> Record:
    """Return the record of a role; its permissions have records of their own."""
    return Record(ROLE, text_id(name), b"")


def permission_id(role: str, key: bytes, range_end: bytes) -> bytes:
    """Return the id of a role's permission on a range."""
    return msgspec.msgpack.encode((role, key, range_end))


def permission_record(role: str, permission: Permission) -> Record:
    """Return the record of a permission of a role."""
    record_id = permission_id(role, permission.key, permission.range_end)
    return Record(PERMISSION, record_id, bytes([permission.type]))


def read_permission_id(record_id: bytes) -> tuple[str, bytes, bytes]:
    """Read the role, the key and the range end of a permission."""
    return msgspec.msgpack.decode(record_id, type=tuple[str, bytes, bytes])


def token_record(digest: bytes, token: TokenRecord | None) -> Record:
    """Return the record of a simple token, by its SHA-256; None deletes it."""
    return Record(TOKEN, digest, None if token is None else msgspec.msgpack.encode(token))


def revocation_record(what: str, name: str, revocation: Revocation | None) -> Record:
    """Return the record of a revocation of a jti or a subject; None deletes it."""
    value = None if revocation is None else msgspec.msgpack.encode(revocation)
    return Record(REVOCATION, text_id(f"{what}:{name}"), value)


def read_revocation_id(record_id: bytes) -> tuple[str, str]:
    """Read what is revoked: REVOKED_JTI or REVOKED_SUBJECT, and its name."""
    what, _, name = text_of(record_id).partition(":")
    return what, name


def lifetime_record(lifetime: Lifetime) -> Record:
    """Return the record of the lifetime of tokens."""
    return Record(LIFETIME, LIFETIME_ID, msgspec.msgpack.encode(lifetime))
