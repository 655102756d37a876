"""The content of a store as one document: users, roles, groups, revocations and the state of auth.

``document_of`` returns the document of a state; ``document_reading`` reads one. Simple tokens are
not part of it. A section that is missing says nothing, unlike an empty one; ``auth`` is required
and comes last, so that truncated YAML is not a document.

Keys of permissions are text where they are UTF-8, and otherwise base64::

    - {permission: READ, prefix: /app/}
    - {permission: WRITE, key: AP8=, encoding: base64}
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping
from math import ceil, inf, isinf
from typing import Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from keys.messages import utc
from webhook.rbac.model import Permission, PermissionType, User
from webhook.rbac.ranges import OPEN_END, prefix_end
from webhook.rbac.records import REVOKED_JTI, REVOKED_SUBJECT, Lifetime, Revocation, text_id
from webhook.rbac.state import AuthState

API_VERSION: Final = "leeway.dev/v1"
KIND: Final = "Store"
NEVER: Final = "never"
LATEST: Final = 253_402_300_799
"""9999-12-31T23:59:59Z: the last time that a document can have."""
_EARLIEST: Final = -62_135_596_800
"""0001-01-01T00:00:00Z."""
_KINDS: Final[Mapping[PermissionType, Literal["READ", "WRITE", "READWRITE"]]] = {
    PermissionType.READ: "READ",
    PermissionType.WRITE: "WRITE",
    PermissionType.READWRITE: "READWRITE",
}
_Value = TypeVar("_Value")


class _Member(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    pass


class Metadata(_Member, kw_only=True):
    """The revisions that the store was at, and its position in the history of a store."""

    revision: int | UnsetType = UNSET
    auth_revision: int | UnsetType = UNSET
    position: str | UnsetType = UNSET


class LifetimeEntry(_Member, kw_only=True):
    """See ``Lifetime``."""

    seconds: float
    earlier_until: str | UnsetType = UNSET


class UserEntry(_Member, kw_only=True):
    """A user; without ``passwordHash`` and ``noPassword`` the password stays as it is."""

    name: str
    no_password: bool = False
    password_hash: str | UnsetType = UNSET
    roles: tuple[str, ...]


class PermissionEntry(_Member, kw_only=True):
    """A permission on a key, a range, a prefix, or all keys from one on."""

    permission: Literal["READ", "WRITE", "READWRITE"]
    key: str | UnsetType = UNSET
    range_end: str | UnsetType = UNSET
    prefix: str | UnsetType = UNSET
    from_key: str | UnsetType = UNSET
    encoding: Literal["base64"] | UnsetType = UNSET


class RoleEntry(_Member, kw_only=True):
    """A role."""

    name: str
    permissions: tuple[PermissionEntry, ...]


class GroupEntry(_Member, kw_only=True):
    """A group."""

    name: str
    roles: tuple[str, ...]


class RevocationEntry(_Member, kw_only=True):
    """A revocation of a ``jti`` or a ``subject``: see ``Revocation``."""

    jti: str | UnsetType = UNSET
    subject: str | UnsetType = UNSET
    before: str
    until: str


class AuthEntry(_Member, kw_only=True):
    """Whether auth is enabled."""

    enabled: bool


class Document(_Member, kw_only=True):
    """The members of a document, in the order in which they are written."""

    api_version: Literal["leeway.dev/v1"]
    kind: Literal["Store"]
    metadata: Metadata | UnsetType = UNSET
    token_lifetime: LifetimeEntry | UnsetType = UNSET
    users: tuple[UserEntry, ...] | UnsetType = UNSET
    roles: tuple[RoleEntry, ...] | UnsetType = UNSET
    groups: tuple[GroupEntry, ...] | UnsetType = UNSET
    revocations: tuple[RevocationEntry, ...] | UnsetType = UNSET
    auth: AuthEntry


def document_of(state: AuthState, position: str = "") -> Document:
    """Return the document of a state: equal content gives an equal document but for its metadata.

    ``position`` is that of the state (``Backend.position``).
    """
    with state.lock:
        revocations = revocations_of(state)
        return Document(
            api_version=API_VERSION,
            kind=KIND,
            metadata=Metadata(
                revision=state.revision,
                auth_revision=state.meta.revision,
                position=position or UNSET,
            ),
            token_lifetime=_written_lifetime(state.lifetime),
            users=tuple(map(_written_user, _by_name(state.users))),
            roles=tuple(
                RoleEntry(
                    name=role.name, permissions=tuple(map(_written_permission, role.permissions))
                )
                for role in _by_name(state.roles)
            ),
            groups=tuple(
                GroupEntry(name=group.name, roles=group.roles) for group in _by_name(state.groups)
            ),
            revocations=tuple(
                _written_revocation(what, name, revocations[what, name])
                for what, name in sorted(revocations, key=revocation_order)
            ),
            auth=AuthEntry(enabled=state.meta.enabled),
        )


def revocations_of(state: AuthState) -> dict[tuple[str, str], Revocation]:
    """Return the revocations of a state by kind and name, as in ``StoreContent``."""
    found = {(REVOKED_JTI, jti): entry for jti, entry in state.revoked_jtis.items()}
    found |= {(REVOKED_SUBJECT, name): entry for name, entry in state.revoked_subjects.items()}
    return found


def revocation_order(revocation: tuple[str, str]) -> tuple[str, bytes]:
    """Return the key by which revocations, given by kind and name, are sorted."""
    what, name = revocation
    return what, text_id(name)


def _by_name(entries: Mapping[str, _Value]) -> Iterable[_Value]:
    return (entries[name] for name in sorted(entries, key=text_id))


def whole_seconds(seconds: float) -> float:
    """Return a time (Unix seconds) as a document has it: rounded up to a whole second.

    One that no document can have is infinite.
    """
    return float(ceil(seconds)) if seconds <= LATEST else inf


def _written_lifetime(lifetime: Lifetime) -> LifetimeEntry:
    until = min(whole_seconds(lifetime.earlier_until), LATEST)
    seconds = lifetime.seconds
    return LifetimeEntry(
        seconds=int(seconds) if seconds.is_integer() else seconds,
        earlier_until=utc(until) if until else UNSET,
    )


def _written_user(user: User) -> UserEntry:
    if not user.password_hash:
        return UserEntry(name=user.name, no_password=True, roles=user.roles)
    text = user.password_hash.decode("utf-8", "backslashreplace")
    return UserEntry(name=user.name, password_hash=text, roles=user.roles)


def _written_permission(permission: Permission) -> PermissionEntry:
    key, end = permission.key, permission.range_end
    members = {"key": key}
    if (key, end) == (b"\0", OPEN_END):
        members = {"prefix": b""}
    elif end == OPEN_END:
        members = {"from_key": key}
    elif end and prefix_end(key) == end:
        members = {"prefix": key}
    elif end:
        members = {"key": key, "range_end": end}
    is_text = all(map(_is_text, members.values()))
    texts = {
        name: (value if is_text else b64encode(value)).decode("utf-8")
        for name, value in members.items()
    }
    return PermissionEntry(
        permission=_KINDS[permission.type],
        key=texts.get("key", UNSET),
        range_end=texts.get("range_end", UNSET),
        prefix=texts.get("prefix", UNSET),
        from_key=texts.get("from_key", UNSET),
        encoding=UNSET if is_text else "base64",
    )


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _written_revocation(what: str, name: str, revocation: Revocation) -> RevocationEntry:
    until = whole_seconds(revocation.until)
    return RevocationEntry(
        jti=name if what == REVOKED_JTI else UNSET,
        subject=name if what == REVOKED_SUBJECT else UNSET,
        before=utc(max(_EARLIEST, min(revocation.before, LATEST))),
        until=NEVER if isinf(until) else utc(until),
    )
