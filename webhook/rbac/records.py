"""How the engine's state is written down: records, each a kind, an id and a value.

Invariants:

1. Every value that can be written can be read back, and nothing else is accepted.
2. Revisions of the store grow with every transaction; the auth revision is a record of its own.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from webhook.rbac.model import Group, Permission, PermissionType, User

META: Final = "meta"
USER: Final = "user"
ROLE: Final = "role"
PERMISSION: Final = "permission"
GROUP: Final = "group"
TOKEN: Final = "token"
REVOCATION: Final = "revocation"
LIFETIME: Final = "lifetime"

AUTH_ID: Final = b"auth"
LIFETIME_ID: Final = b"own"
REVOKED_JTI: Final = "jti"
REVOKED_SUBJECT: Final = "subject"


class Record(NamedTuple):
    """One record; a value of None says that it is gone."""

    kind: str
    id: bytes
    value: bytes | None


class ConflictError(Exception):
    """Somebody else wrote first: read the changes, and decide again."""


class ReplacedError(Exception):
    """What is stored is not what was in use with commits added to it: load all of it."""


class Backend(Protocol):
    """Persistence: transactions that compare a revision, and a change feed.

    Every method may be called from any thread. Those that read or write raise StoreUnavailableError
    where the data cannot be reached now, StoreLockedError where somebody else keeps it locked, and
    StoreError where it is damaged.
    """

    def load(self, *, wait: bool = True) -> tuple[int, list[Record]]:
        """Return the revision and every record of it.

        Without ``wait``, raises StoreLockedError at once where somebody else is writing.
        """

    def changes(self, after: int, *, wait: bool = True) -> tuple[int, list[Record]] | None:
        """Return the revision and the records changed after ``after``, the gone ones included.

        None means that the feed does not reach back that far: load everything again. Without
        ``wait``, raises StoreLockedError at once where somebody else is writing. Raises
        ReplacedError where ``after`` is in use (``applied``) and is not of the past of this data.
        """

    @property
    def is_writing(self) -> bool:
        """Whether a commit of this process is under way, and keeps all others from theirs."""

    def applied(self) -> None:
        """Take note that what ``load``, ``changes`` or ``commit`` dealt with last is in use."""

    def unread(self) -> int:
        """Return, quickly and without ever waiting, how many commits are not in use (``applied``).

        The last of them may still be being made. A large number stands for data that was replaced,
        or cannot be reached.
        """

    def misses_commit(self) -> bool:
        """Return whether a commit that has ended may not be in use, where ``unread`` is not 0."""

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        """Write all records, or none, and return the new revision.

        Raises ConflictError where the revision is no longer ``expected``, StoreUnavailableError
        where the data cannot be written now.
        """

    def close(self) -> None:
        """Let go of files and locks."""


class AuthMeta(msgspec.Struct, frozen=True):
    """Whether auth is enabled, and the auth revision."""

    enabled: bool = False
    revision: int = 1


class TokenRecord(msgspec.Struct, frozen=True):
    """A simple token: whose it is, and when it was last used (Unix seconds)."""

    user: str
    used: float


class Revocation(msgspec.Struct, frozen=True, gc=False):
    """A revocation: ``before`` is the last Unix second whose tokens it revokes.

    After ``until`` (Unix seconds, infinite for never) there is no token left that it concerns.
    """

    before: int
    until: float


class Lifetime(msgspec.Struct, frozen=True):
    """How long tokens signed here live.

    ``seconds`` is the longest lifetime that is granted. What was granted under earlier, longer
    settings has expired by ``earlier_until`` (Unix seconds).
    """

    seconds: float = 0.0
    earlier_until: float = 0.0


class _UserValue(msgspec.Struct):
    password_hash: bytes
    roles: tuple[str, ...]
    generation: int


def text_id(name: str) -> bytes:
    """Return the id of a record that has a name. Raises UnicodeEncodeError for what is no text."""
    return name.encode("utf-8")


def text_of(record_id: bytes) -> str:
    """Return the name that an id stands for."""
    return record_id.decode("utf-8")


def meta_record(meta: AuthMeta) -> Record:
    """Write the state of auth down."""
    return Record(META, AUTH_ID, msgspec.msgpack.encode(meta))


def read_meta(value: bytes) -> AuthMeta:
    """Read the state of auth."""
    return msgspec.msgpack.decode(value, type=AuthMeta)


def user_record(user: User) -> Record:
    """Write a user down."""
    value = _UserValue(user.password_hash, user.roles, user.generation)
    return Record(USER, text_id(user.name), msgspec.msgpack.encode(value))


def read_user(record_id: bytes, value: bytes) -> User:
    """Read a user."""
    found = msgspec.msgpack.decode(value, type=_UserValue)
    return User(text_of(record_id), found.password_hash, found.roles, found.generation)


def group_record(group: Group) -> Record:
    """Write a group down; one without roles is gone."""
    value = msgspec.msgpack.encode(group.roles) if group.roles else None
    return Record(GROUP, text_id(group.name), value)


def read_group(record_id: bytes, value: bytes) -> Group:
    """Read a group."""
    return Group(text_of(record_id), msgspec.msgpack.decode(value, type=tuple[str, ...]))


def role_record(name: str) -> Record:
    """Write down that a role exists; its permissions are records of their own."""
    return Record(ROLE, text_id(name), b"")


def permission_id(role: str, key: bytes, range_end: bytes) -> bytes:
    """Return the id of a role's permission on a range."""
    return msgspec.msgpack.encode((role, key, range_end))


def permission_record(role: str, permission: Permission) -> Record:
    """Write a permission of a role down."""
    record_id = permission_id(role, permission.key, permission.range_end)
    return Record(PERMISSION, record_id, bytes([permission.type]))


def read_permission_id(record_id: bytes) -> tuple[str, bytes, bytes]:
    """Read whose permission a record is, and on which key and range end."""
    return msgspec.msgpack.decode(record_id, type=tuple[str, bytes, bytes])


def read_permission_type(value: bytes) -> PermissionType:
    """Read what a permission lets do."""
    return PermissionType(value[0])


def token_record(digest: bytes, token: TokenRecord | None) -> Record:
    """Write a simple token down by the SHA-256 of it, or that it is gone."""
    return Record(TOKEN, digest, None if token is None else msgspec.msgpack.encode(token))


def read_token(value: bytes) -> TokenRecord:
    """Read a simple token."""
    return msgspec.msgpack.decode(value, type=TokenRecord)


def revocation_record(what: str, name: str, revocation: Revocation | None) -> Record:
    """Write the revocation of a jti or of a subject down, or that it is gone."""
    value = None if revocation is None else msgspec.msgpack.encode(revocation)
    return Record(REVOCATION, text_id(f"{what}:{name}"), value)


def read_revocation_id(record_id: bytes) -> tuple[str, str]:
    """Read what a revocation is about: REVOKED_JTI or REVOKED_SUBJECT, and its name."""
    what, _, name = text_of(record_id).partition(":")
    return what, name


def read_revocation(value: bytes) -> Revocation:
    """Read a revocation."""
    return msgspec.msgpack.decode(value, type=Revocation)


def lifetime_record(lifetime: Lifetime) -> Record:
    """Write down how long tokens live."""
    return Record(LIFETIME, LIFETIME_ID, msgspec.msgpack.encode(lifetime))


def read_lifetime(value: bytes) -> Lifetime:
    """Read how long tokens live."""
    return msgspec.msgpack.decode(value, type=Lifetime)
