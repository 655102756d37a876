"""The content of a store as one document: users, roles, groups, revocations and the state of auth.

``document_of`` returns the document of a state, ``read_document`` the content of a document. Simple
tokens are not part of it. A section that is missing says nothing, unlike an empty one; ``auth`` is
required and comes last, so that truncated YAML is not a document.

Keys of permissions are text where they are UTF-8, and otherwise base64::

    - {permission: READ, prefix: /app/}
    - {permission: WRITE, key: AP8=, encoding: base64}
"""

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import ceil, inf, isfinite, isinf
from typing import Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from keys.messages import could_be_secret, describe_validation, path_and_text, shown, utc
from webhook.rbac.errors import DocumentError
from webhook.rbac.model import Group, Permission, PermissionType, Role, User, cost_of
from webhook.rbac.ranges import OPEN_END, prefix_end
from webhook.rbac.records import REVOKED_JTI, REVOKED_SUBJECT, Lifetime, Revocation, text_id
from webhook.rbac.state import AuthState

API_VERSION: Final = "leeway.dev/v1"
KIND: Final = "Store"
MAX_REVISION: Final = 1 << 62
_NEVER: Final = "never"
_MAX_COST: Final = 16
"""The maximum of ``auth.bcryptCost``: one user above it would make every refusal slower."""
_MAX_JTI_LENGTH: Final = 256
_MAX_LIFETIME: Final = 1 << 32
_LATEST: Final = 9000
"""Tokens expire before this year, so that the end of their revocations is a year that exists."""
# The last character of a salt encodes two bits, the others six.
_HASH: Final = re.compile(r"\$2[abxy]\$[0-9]{2}\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_HASH_START: Final = "$2"
_UNKNOWN: Final = "Object contains unknown field `"
_LONGEST: Final = len(_UNKNOWN) + 20
_ALLOWED: Final = {
    "apiVersion": API_VERSION,
    "kind": KIND,
    "permission": "READ, WRITE and READWRITE",
    "encoding": "base64",
}
_KINDS: Final[Mapping[PermissionType, Literal["READ", "WRITE", "READWRITE"]]] = {
    PermissionType.READ: "READ",
    PermissionType.WRITE: "WRITE",
    PermissionType.READWRITE: "READWRITE",
}
_Value = TypeVar("_Value")
_Written = TypeVar("_Written")


class _Member(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    pass


class _Metadata(_Member, kw_only=True):
    revision: int | UnsetType = UNSET
    auth_revision: int | UnsetType = UNSET


class _Lifetime(_Member, kw_only=True):
    seconds: float
    earlier_until: str | UnsetType = UNSET


class _User(_Member, kw_only=True):
    name: str
    no_password: bool = False
    password_hash: str | UnsetType = UNSET
    roles: tuple[str, ...]


class _Permission(_Member, kw_only=True):
    permission: Literal["READ", "WRITE", "READWRITE"]
    key: str | UnsetType = UNSET
    range_end: str | UnsetType = UNSET
    prefix: str | UnsetType = UNSET
    from_key: str | UnsetType = UNSET
    encoding: Literal["base64"] | UnsetType = UNSET


class _Role(_Member, kw_only=True):
    name: str
    permissions: tuple[_Permission, ...]


class _Group(_Member, kw_only=True):
    name: str
    roles: tuple[str, ...]


class _Revocation(_Member, kw_only=True):
    jti: str | UnsetType = UNSET
    subject: str | UnsetType = UNSET
    before: str
    until: str


class _Auth(_Member, kw_only=True):
    enabled: bool


class Document(_Member, kw_only=True):
    """The members of a document, in the order in which they are written."""

    api_version: Literal["leeway.dev/v1"]
    kind: Literal["Store"]
    metadata: _Metadata | UnsetType = UNSET
    token_lifetime: _Lifetime | UnsetType = UNSET
    users: tuple[_User, ...] | UnsetType = UNSET
    roles: tuple[_Role, ...] | UnsetType = UNSET
    groups: tuple[_Group, ...] | UnsetType = UNSET
    revocations: tuple[_Revocation, ...] | UnsetType = UNSET
    auth: _Auth


@dataclass(frozen=True, slots=True)
class WantedUser:
    """A user of a document. An empty hash means no password, None that it stays as it is."""

    name: str
    password_hash: bytes | None
    roles: tuple[str, ...]

    def __repr__(self) -> str:
        return f"WantedUser({self.name!r}, roles={self.roles!r})"


@dataclass(frozen=True, slots=True)
class StoreContent:
    """The content of a document; None for a section that it does not have.

    ``auth_revision`` is that of the store that was exported, 0 if it is unknown. Revocations go by
    kind (REVOKED_JTI or REVOKED_SUBJECT) and name. The lists keep the order of the document.
    """

    enabled: bool
    auth_revision: int
    lifetime: Lifetime | None
    users: Mapping[str, WantedUser] | None
    roles: Mapping[str, Role] | None
    groups: Mapping[str, Group] | None
    revocations: Mapping[tuple[str, str], Revocation] | None


def document_of(state: AuthState) -> Document:
    """Return the document of a state: equal content gives an equal document."""
    with state.lock:
        revocations = revocations_of(state)
        return Document(
            api_version=API_VERSION,
            kind=KIND,
            metadata=_Metadata(revision=state.revision, auth_revision=state.meta.revision),
            token_lifetime=_written_lifetime(state.lifetime),
            users=tuple(map(_written_user, _by_name(state.users))),
            roles=tuple(
                _Role(name=role.name, permissions=tuple(map(_written_permission, role.permissions)))
                for role in _by_name(state.roles)
            ),
            groups=tuple(
                _Group(name=group.name, roles=group.roles) for group in _by_name(state.groups)
            ),
            revocations=tuple(
                _written_revocation(what, name, revocations[what, name])
                for what, name in sorted(revocations, key=revocation_order)
            ),
            auth=_Auth(enabled=state.meta.enabled),
        )


def read_document(members: object) -> StoreContent:
    """Return the content of a document that was decoded from JSON or YAML.

    Raises DocumentError for unknown members, wrong types, a name or a range that is listed twice, a
    range that contains no key, and a hash that bcrypt could not check; it has the path of the field
    and no secret. Whether roles exist depends on the store, so ``plan_import`` checks that.
    """
    _require_text(members)
    try:
        document = msgspec.convert(members, Document)
    except msgspec.ValidationError as error:
        raise DocumentError(_described(error)) from error
    metadata = document.metadata or _Metadata()
    revision = metadata.auth_revision or 0
    for name, found in (("revision", metadata.revision or 0), ("authRevision", revision)):
        if not 0 <= found <= MAX_REVISION:
            raise DocumentError(f"metadata.{name} is {found}; 0 to {MAX_REVISION} are allowed")
    return StoreContent(
        document.auth.enabled,
        revision,
        None if document.token_lifetime is UNSET else _read_lifetime(document.token_lifetime),
        _read_each("users", document.users, _read_user, lambda user: user.name),
        _read_each("roles", document.roles, _read_role, lambda role: role.name),
        _read_each("groups", document.groups, _read_group, lambda group: group.name),
        _read_revocations(document.revocations),
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
    """Return a time (Unix seconds) as a document has it: rounded up to a whole second."""
    return seconds if isinf(seconds) else float(ceil(seconds))


def _written_lifetime(lifetime: Lifetime) -> _Lifetime:
    until = whole_seconds(lifetime.earlier_until)
    seconds = lifetime.seconds
    return _Lifetime(
        seconds=int(seconds) if seconds.is_integer() else seconds,
        earlier_until=utc(until) if until else UNSET,
    )


def _read_lifetime(written: _Lifetime) -> Lifetime:
    if not (isfinite(written.seconds) and 0 <= written.seconds <= _MAX_LIFETIME):
        raise DocumentError(f"tokenLifetime.seconds must be a number from 0 to {_MAX_LIFETIME}")
    if written.earlier_until is UNSET:
        return Lifetime(written.seconds)
    path = "tokenLifetime.earlierUntil"
    until = _read_time(written.earlier_until, path)
    if until >= datetime.fromisoformat(f"{_LATEST}-01-01T00:00:00Z").timestamp():
        raise DocumentError(f"{path} is too late; a time before the year {_LATEST} is allowed")
    return Lifetime(written.seconds, float(until))


def _written_user(user: User) -> _User:
    if not user.password_hash:
        return _User(name=user.name, no_password=True, roles=user.roles)
    text = user.password_hash.decode("utf-8", "backslashreplace")
    return _User(name=user.name, password_hash=text, roles=user.roles)


def _read_user(written: _User, path: str) -> WantedUser:
    password_hash = b"" if written.no_password else None
    if written.password_hash is not UNSET:
        if written.no_password:
            raise DocumentError(f"{path} has a passwordHash and noPassword; keep one of the two")
        if not _HASH.fullmatch(written.password_hash):
            raise DocumentError(
                f"{path}.passwordHash is not a bcrypt hash, which begins with $2b$ and has 60 "
                "characters; leave it out to keep the password, or write noPassword: true"
            )
        password_hash = written.password_hash.encode("ascii")
        if not 4 <= int(written.password_hash[4:6]) <= _MAX_COST:
            raise DocumentError(
                f"{path}.passwordHash has the cost {cost_of(password_hash)}; 4 to {_MAX_COST} are "
                "allowed, since checking one of a higher cost takes minutes"
            )
    return WantedUser(written.name, password_hash, _read_names(written.roles, f"{path}.roles"))


def _written_permission(permission: Permission) -> _Permission:
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
    return _Permission(
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


def _read_permission(written: _Permission, path: str) -> Permission:
    key, end, prefix, start = (
        None if text is UNSET else _read_key(text, f"{path}.{name}", written.encoding)
        for name, text in (
            ("key", written.key),
            ("rangeEnd", written.range_end),
            ("prefix", written.prefix),
            ("fromKey", written.from_key),
        )
    )
    if (key is not None) + (prefix is not None) + (start is not None) != 1:
        raise DocumentError(f"{path} must have one of key, prefix and fromKey")
    if end is not None and key is None:
        raise DocumentError(f"{path}.rangeEnd belongs to a key; leave it out")
    if key is None:
        # As with --prefix and --from-key.
        key = prefix or start or b"\0"
        end = prefix_end(prefix) if prefix else OPEN_END
    permission = Permission(key, end or b"", PermissionType[written.permission])
    if not permission.is_valid:
        raise DocumentError(
            f"{path}: etcd's rules allow no such permission: the key is empty, or rangeEnd does "
            "not come after it"
        )
    return permission


def _read_key(text: str, path: str, encoding: str | UnsetType) -> bytes:
    if encoding is UNSET:
        return text.encode("utf-8")
    try:
        data = b64decode(text, validate=True)
    except (Base64Error, ValueError) as error:
        raise DocumentError(f"{path} is not base64 with padding") from error
    if b64encode(data).decode("ascii") != text:
        raise DocumentError(f"{path} is not base64 with padding")
    return data


def _read_role(written: _Role, path: str) -> Role:
    permissions: dict[tuple[bytes, bytes], Permission] = {}
    for index, entry in enumerate(written.permissions):
        where = f"{path}.permissions[{index}]"
        permission = _read_permission(entry, where)
        span = (permission.key, permission.range_end)
        if span in permissions:
            raise DocumentError(f"{where} is on the same range as another one; keep one of them")
        permissions[span] = permission
    return Role(written.name, tuple(sorted(permissions.values())))


def _read_group(written: _Group, path: str) -> Group:
    return Group(written.name, _read_names(written.roles, f"{path}.roles"))


def _read_names(names: Iterable[str], path: str) -> tuple[str, ...]:
    found: set[str] = set()
    for index, name in enumerate(names):
        if name in found:
            raise DocumentError(f"{path}[{index}]: {shown(name)} is listed twice; keep one of them")
        found.add(name)
    return tuple(sorted(found, key=text_id))


def _read_each(
    section: str,
    entries: tuple[_Written, ...] | UnsetType,
    read: Callable[[_Written, str], _Value],
    name_of: Callable[[_Value], str],
) -> dict[str, _Value] | None:
    if entries is UNSET:
        return None
    found: dict[str, _Value] = {}
    for index, entry in enumerate(entries):
        path = f"{section}[{index}]"
        value = read(entry, path)
        name = name_of(value)
        if not name:
            raise DocumentError(f"{path}.name is empty; give a name")
        if name in found:
            raise DocumentError(f"{path}.name: {shown(name)} is listed twice; keep one of them")
        found[name] = value
    return found


def _written_revocation(what: str, name: str, revocation: Revocation) -> _Revocation:
    until = whole_seconds(revocation.until)
    return _Revocation(
        jti=name if what == REVOKED_JTI else UNSET,
        subject=name if what == REVOKED_SUBJECT else UNSET,
        before=utc(revocation.before),
        until=_NEVER if isinf(until) else utc(until),
    )


def _read_revocations(
    entries: tuple[_Revocation, ...] | UnsetType,
) -> dict[tuple[str, str], Revocation] | None:
    if entries is UNSET:
        return None
    found: dict[tuple[str, str], Revocation] = {}
    for index, entry in enumerate(entries):
        path = f"revocations[{index}]"
        if (entry.jti is UNSET) == (entry.subject is UNSET):
            raise DocumentError(f"{path} must have either a jti or a subject")
        if entry.jti is not UNSET:
            name = (REVOKED_JTI, entry.jti)
            is_plain = entry.jti.isascii() and entry.jti.isprintable()
            if not (0 < len(entry.jti) <= _MAX_JTI_LENGTH and is_plain):
                # It could be a token, so it is not shown.
                raise DocumentError(
                    f"{path}.jti must be 1 to {_MAX_JTI_LENGTH} characters of printable ASCII"
                )
        else:
            assert entry.subject is not UNSET  # noqa: S101 - for mypy
            name = (REVOKED_SUBJECT, entry.subject)
            if not entry.subject:
                raise DocumentError(f"{path}.subject is empty; give the user name of an account")
        if name in found:
            raise DocumentError(f"{path} is listed twice; keep one of them")
        before = _read_time(entry.before, f"{path}.before")
        until = inf if entry.until == _NEVER else float(_read_time(entry.until, f"{path}.until"))
        found[name] = Revocation(before, until)
    return found


def _read_time(text: str, path: str) -> int:
    """Read a time in exactly the form that is written."""
    try:
        seconds = int(datetime.fromisoformat(text).timestamp())
        if utc(seconds) == text:
            return seconds
    except (ValueError, OverflowError):
        pass
    raise DocumentError(f"{path} must be a time in UTC like 2026-11-30T16:55:00Z")


def _described(error: msgspec.ValidationError) -> str:
    path, message = path_and_text(str(error))
    text = describe_validation(error)
    # In a document that is corrupt, a part of a hash can be the name of a field.
    is_plain = message.removeprefix(_UNKNOWN).rstrip("`").isalpha() and len(message) <= _LONGEST
    if could_be_secret(text) or (message.startswith(_UNKNOWN) and not is_plain):
        where = path or "the document"
        return (
            f"something in {where} is not allowed there; it could be a secret, so it is not shown"
        )
    if text == "auth is missing":
        return (
            f"{text}, so this may be half of a document; add auth: {{enabled: true}} if it is not"
        )
    allowed = _ALLOWED.get(path.rpartition(".")[2], "")
    is_choice = "which is not one of its values" in text
    return f"{text}; allowed is {allowed}" if allowed and is_choice else text


def _require_text(members: object) -> None:
    """Raise DocumentError for a name that is not a string, or a lone surrogate: YAML has both."""
    found = [("", members)]
    seen: set[int] = set()
    # The list grows meanwhile: without recursion, as YAML can nest a value in itself.
    for path, value in found:
        if isinstance(value, str):
            if value.encode("utf-8", "ignore").decode("utf-8") != value:
                raise DocumentError(f"{_plain_path(path)} has a lone surrogate; write UTF-8")
        elif isinstance(value, dict | list) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, dict):
                if not all(isinstance(name, str) for name in value):
                    raise DocumentError(
                        f"the name of a field of {_plain_path(path)} must be a string"
                    )
                found += [(path, name) for name in value]
                found += [(f"{path}.{name}".lstrip("."), entry) for name, entry in value.items()]
            else:
                found += [(f"{path}[{index}]", entry) for index, entry in enumerate(value)]


def _plain_path(path: str) -> str:
    # It may contain names that are not those of fields.
    return path if path and not (could_be_secret(path) or _HASH_START in path) else "the document"
