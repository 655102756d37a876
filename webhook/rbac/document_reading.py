"""Reads a document of a store, which anybody can have written.

``read_document`` returns its content, or names the field that is wrong. See ``document`` for the
format.
"""

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import inf, isfinite
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from keys.messages import could_be_secret, describe_validation, path_and_text, shown, utc
from webhook.rbac.document import (
    API_VERSION,
    KIND,
    NEVER,
    Document,
    GroupEntry,
    LifetimeEntry,
    Metadata,
    PermissionEntry,
    RevocationEntry,
    RoleEntry,
    UserEntry,
)
from webhook.rbac.errors import DocumentError
from webhook.rbac.model import Group, Permission, PermissionType, Role, cost_of
from webhook.rbac.ranges import OPEN_END, prefix_end
from webhook.rbac.records import REVOKED_JTI, REVOKED_SUBJECT, Lifetime, Revocation, text_id

MAX_REVISION: Final = (1 << 53) - 1
"""What every reader of JSON keeps exactly: an import raises the store's own revision above it."""
_MAX_COST: Final = 16
"""The maximum of ``auth.bcryptCost``: one user above it would make every refusal slower."""
_MAX_JTI_LENGTH: Final = 256
_MAX_LIFETIME: Final = 1 << 32
_MAX_REPEATED: Final = 100_000
"""Values in the lists and objects that YAML repeats by aliases: else they grow exponentially."""
_LATEST: Final = 9000
"""Tokens expire before this year, so that the end of their revocations is a year that exists."""
# The last character of a salt encodes two bits, the others six.
_HASH: Final = re.compile(r"\$2[abxy]\$[0-9]{2}\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
# As in ``leeway revoke jti``.
_JWT: Final = re.compile(r"eyJ[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*")
_HASH_START: Final = "$2"
_UNKNOWN: Final = "Object contains unknown field `"
_LONGEST: Final = len(_UNKNOWN) + 20
_ALLOWED: Final = {
    "apiVersion": API_VERSION,
    "kind": KIND,
    "permission": "READ, WRITE and READWRITE",
    "encoding": "base64",
}
_Value = TypeVar("_Value")
_Entry = TypeVar("_Entry")


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
    metadata = document.metadata or Metadata()
    revision = metadata.auth_revision or 0
    for name, found in (("revision", metadata.revision or 0), ("authRevision", revision)):
        if not 0 <= found <= MAX_REVISION:
            raise DocumentError(
                f"metadata.{name} is {found}; 0 to {MAX_REVISION} are allowed, and it can be left "
                "out"
            )
    return StoreContent(
        document.auth.enabled,
        revision,
        None if document.token_lifetime is UNSET else _read_lifetime(document.token_lifetime),
        _read_each("users", document.users, _read_user, lambda user: user.name),
        _read_each("roles", document.roles, _read_role, lambda role: role.name),
        _read_each("groups", document.groups, _read_group, lambda group: group.name),
        _read_revocations(document.revocations),
    )


def _read_lifetime(entry: LifetimeEntry) -> Lifetime:
    if not (isfinite(entry.seconds) and 0 <= entry.seconds <= _MAX_LIFETIME):
        raise DocumentError(f"tokenLifetime.seconds must be a number from 0 to {_MAX_LIFETIME}")
    if entry.earlier_until is UNSET:
        return Lifetime(entry.seconds)
    path = "tokenLifetime.earlierUntil"
    until = _read_time(entry.earlier_until, path)
    if until >= datetime.fromisoformat(f"{_LATEST}-01-01T00:00:00Z").timestamp():
        raise DocumentError(f"{path} is too late; a time before the year {_LATEST} is allowed")
    return Lifetime(entry.seconds, float(until))


def _read_user(entry: UserEntry, path: str) -> WantedUser:
    password_hash = b"" if entry.no_password else None
    if entry.password_hash is not UNSET:
        if entry.no_password:
            raise DocumentError(f"{path} has a passwordHash and noPassword; keep one of the two")
        if not _HASH.fullmatch(entry.password_hash):
            raise DocumentError(
                f"{path}.passwordHash is not a bcrypt hash, which begins with $2b$ and has 60 "
                "characters; leave it out to keep the password, or write noPassword: true"
            )
        password_hash = entry.password_hash.encode("ascii")
        if not 4 <= int(entry.password_hash[4:6]) <= _MAX_COST:
            raise DocumentError(
                f"{path}.passwordHash has the cost {cost_of(password_hash)}; 4 to {_MAX_COST} are "
                "allowed, since checking one of a higher cost takes minutes"
            )
    return WantedUser(entry.name, password_hash, _read_names(entry.roles, f"{path}.roles"))


def _read_permission(entry: PermissionEntry, path: str) -> Permission:
    key, end, prefix, start = (
        None if text is UNSET else _read_key(text, f"{path}.{name}", entry.encoding)
        for name, text in (
            ("key", entry.key),
            ("rangeEnd", entry.range_end),
            ("prefix", entry.prefix),
            ("fromKey", entry.from_key),
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
    permission = Permission(key, end or b"", PermissionType[entry.permission])
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


def _read_role(entry: RoleEntry, path: str) -> Role:
    permissions: dict[tuple[bytes, bytes], Permission] = {}
    for index, permission_entry in enumerate(entry.permissions):
        where = f"{path}.permissions[{index}]"
        permission = _read_permission(permission_entry, where)
        span = (permission.key, permission.range_end)
        if span in permissions:
            raise DocumentError(f"{where} is on the same range as another one; keep one of them")
        permissions[span] = permission
    return Role(entry.name, tuple(sorted(permissions.values())))


def _read_group(entry: GroupEntry, path: str) -> Group:
    return Group(entry.name, _read_names(entry.roles, f"{path}.roles"))


def _read_names(names: Iterable[str], path: str) -> tuple[str, ...]:
    found: set[str] = set()
    for index, name in enumerate(names):
        if name in found:
            raise DocumentError(f"{path}[{index}]: {shown(name)} is listed twice; keep one of them")
        found.add(name)
    return tuple(sorted(found, key=text_id))


def _read_each(
    section: str,
    entries: tuple[_Entry, ...] | UnsetType,
    read: Callable[[_Entry, str], _Value],
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


def _read_revocations(
    entries: tuple[RevocationEntry, ...] | UnsetType,
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
            if _JWT.fullmatch(entry.jti):
                raise DocumentError(
                    f"{path}.jti is a token, not its jti; leeway token inspect shows the jti of a "
                    "token"
                )
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
        until = inf if entry.until == NEVER else float(_read_time(entry.until, f"{path}.until"))
        if until < before:
            raise DocumentError(
                f"{path}.until is {entry.until}, before its before, {entry.before}; a revocation "
                "is kept until the last of its tokens has expired"
            )
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
    """Raise DocumentError for a name that is no string, a lone surrogate, or too many aliases."""
    # Each value with the place of its parent, so that paths need no memory.
    found: list[tuple[object, int, str]] = [(members, -1, "")]
    seen: set[int] = set()
    repeated = 0
    # The list grows meanwhile: without recursion, as YAML can nest a value in itself.
    for place, (value, _, _) in enumerate(found):
        is_new = id(value) not in seen
        if isinstance(value, str) and is_new:
            seen.add(id(value))
            if value.encode("utf-8", "ignore").decode("utf-8") != value:
                raise DocumentError(f"{_path_to(found, place)} has a lone surrogate; write UTF-8")
        elif isinstance(value, dict | list):
            seen.add(id(value))
            repeated += 0 if is_new else len(value)
            if repeated > _MAX_REPEATED:
                raise DocumentError(
                    f"the aliases in it repeat more than {_MAX_REPEATED} values; write them out"
                )
            if isinstance(value, dict):
                if not all(isinstance(name, str) for name in value):
                    raise DocumentError(
                        f"the name of a field of {_path_to(found, place)} must be a string"
                    )
                found += [(name, place, "") for name in value]
                found += [(entry, place, f".{name}") for name, entry in value.items()]
            else:
                found += [(entry, place, f"[{index}]") for index, entry in enumerate(value)]


def _path_to(found: list[tuple[object, int, str]], place: int) -> str:
    parts: list[str] = []
    while place >= 0:
        _, place, part = found[place]
        parts.append(part)
    return _plain_path("".join(reversed(parts)).lstrip("."))


def _plain_path(path: str) -> str:
    # It may contain names that are not those of fields.
    return path if path and not (could_be_secret(path) or _HASH_START in path) else "the document"
