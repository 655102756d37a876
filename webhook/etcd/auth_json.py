"""Parses the requests of etcd's auth API in JSON, and renders the answers.

Keys are base64 of either alphabet, padded or not; enums are names or numbers; fields at their
default are left out; 64-bit integers are strings. The name of a field may be that of the proto file
or in camel case. An unknown field and an unknown name of an enum are refused. etcd ignores both:
there ``"permType": "2"`` grants READ.

Source: etcd ``api/etcdserverpb/rpc.proto`` (v3.6) and the JSON of protobuf as etcd's gateway reads
and writes it (``google.golang.org/protobuf/encoding/protojson``).
"""

import binascii
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from keys.errors import EncodingError
from keys.messages import describe_validation
from webhook.errors import InvalidReviewError
from webhook.kube.bodies import decode_body, require_short_keys
from webhook.rbac.errors import PermissionNotGivenError
from webhook.rbac.model import Permission, PermissionType
from webhook.rbac.ranges import format_range

_Request = TypeVar("_Request", bound="AuthRequest")
_ORIGINAL_NAMES: Final = {"rangeEnd": "range_end", "noPassword": "no_password"}
_TYPES: Final[Mapping[str | float, PermissionType]] = {
    written: kind for kind in PermissionType for written in (kind.name, kind.value)
}
_BYTES_FIELDS: Final = frozenset({"key", "range_end"})
_SHOWN_KEY_BYTES: Final = 512


class AuthRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Base of the requests, and the request of calls without fields, such as AuthEnable.

    All of them call a user ``user`` and a role ``role``; etcd uses several names.
    """

    def arguments(self) -> tuple[object, ...]:
        """Return the arguments of the operation in ``rbac.changes``, if it has one."""
        return msgspec.structs.astuple(self)

    def audited(self) -> dict[str, object]:
        """Return what an audit line says about the request; never a password."""
        fields = msgspec.structs.asdict(self)
        return {name: fields[name] for name in ("user", "role") if name in fields}


class UserRequest(AuthRequest):
    """AuthUserGet, AuthUserDelete."""

    user: str = msgspec.field(default="", name="name")


class PasswordRequest(UserRequest):
    """Authenticate, AuthUserChangePassword."""

    password: str = ""


class UserOptions(msgspec.Struct, forbid_unknown_fields=True):
    """``authpb.UserAddOptions``."""

    no_password: bool = False


class UserAddRequest(PasswordRequest):
    """AuthUserAdd."""

    options: UserOptions | None = None


class UserGrantRoleRequest(AuthRequest):
    """AuthUserGrantRole."""

    user: str = ""
    role: str = ""


class UserRevokeRoleRequest(UserRequest):
    """AuthUserRevokeRole."""

    role: str = ""


class RoleAddRequest(AuthRequest):
    """AuthRoleAdd."""

    role: str = msgspec.field(default="", name="name")


class RoleRequest(AuthRequest):
    """AuthRoleGet, AuthRoleDelete."""

    role: str = ""


class PermissionBody(msgspec.Struct, forbid_unknown_fields=True):
    """``authpb.Permission``."""

    permType: str | int | float = 0  # noqa: N815 - the proto's own name
    key: bytes = b""
    range_end: bytes = b""


class RoleGrantPermissionRequest(RoleAddRequest):
    """AuthRoleGrantPermission."""

    perm: PermissionBody | None = None

    def arguments(self) -> tuple[object, ...]:
        """Return the role and the permission.

        Raises PermissionNotGivenError, and InvalidReviewError for a type that is not known.
        """
        if self.perm is None:
            raise PermissionNotGivenError
        return self.role, _permission_of(self.perm)

    def audited(self) -> dict[str, object]:
        """Return the role, and what is granted."""
        if self.perm is None:
            return {"role": self.role}
        keys = _shown_range(self.perm.key, self.perm.range_end)
        return {"role": self.role, "permission": str(self.perm.permType), "keys": keys}


class RoleRevokePermissionRequest(RoleRequest):
    """AuthRoleRevokePermission."""

    key: bytes = b""
    range_end: bytes = b""

    def audited(self) -> dict[str, object]:
        """Return the role, and what is revoked."""
        return {"role": self.role, "keys": _shown_range(self.key, self.range_end)}


def _shown_range(key: bytes, range_end: bytes) -> str:
    return format_range(key[:_SHOWN_KEY_BYTES], range_end[:_SHOWN_KEY_BYTES])


def parse_request(body: bytes, kind: type[_Request]) -> _Request:
    """Parse a request; in an empty body every field has its default. Raises InvalidReviewError.

    >>> parse_request(b'{"name": "ann", "role": "editor"}', UserRevokeRoleRequest)
    UserRevokeRoleRequest(user='ann', role='editor')
    """
    try:
        return msgspec.convert(_normalized(decode_body(body or b"{}")), kind)
    except (EncodingError, msgspec.ValidationError, RecursionError) as error:
        raise InvalidReviewError(
            f"the request body is not the JSON of this call: {describe_validation(error)}"
        ) from error


def _permission_of(body: PermissionBody) -> Permission:
    try:
        kind = _TYPES[body.permType]
    except KeyError:
        raise InvalidReviewError(
            f"permType is {body.permType!r}; READ, WRITE or READWRITE is allowed"
        ) from None
    require_short_keys(key=body.key, range_end=body.range_end)
    return Permission(body.key, body.range_end, kind)


def render(revision: int, **fields: Any) -> bytes:
    """Render an answer with its header; fields that are empty are left out."""
    answer: dict[str, Any] = {"header": {"revision": str(revision)}}
    return msgspec.json.encode(answer | {name: value for name, value in fields.items() if value})


def render_permissions(permissions: tuple[Permission, ...]) -> list[dict[str, Any]]:
    """Render the permissions of a role."""
    return [
        {
            name: value
            for name, value in (
                ("permType", permission.type.name if permission.type else None),
                ("key", permission.key),
                ("range_end", permission.range_end),
            )
            if value
        }
        for permission in permissions
    ]


_FIELDS: Final = frozenset(
    name
    for kind in (
        UserAddRequest,
        UserOptions,
        UserGrantRoleRequest,
        RoleGrantPermissionRequest,
        PermissionBody,
    )
    for name in kind.__struct_encode_fields__
)


def _normalized(value: object) -> object:
    """Rename members as in the proto, decode keys, and drop null members, which mean the default.

    Raises InvalidReviewError for a member under both of its names, and for a key that is not
    base64.
    """
    if not isinstance(value, dict):
        return value
    as_written: dict[str, object] = value
    members: dict[str, object] = {}
    for written, member in as_written.items():
        name = _ORIGINAL_NAMES.get(written, written)
        if name in members:
            raise InvalidReviewError(f"the member {name!r} appears twice")
        is_key = name in _BYTES_FIELDS and isinstance(member, str)
        members[name] = _key_bytes(name, str(member)) if is_key else _normalized(member)
    return {n: v for n, v in members.items() if v is not None or n not in _FIELDS}


def _key_bytes(name: str, text: str) -> bytes:
    """Decode base64 of either alphabet, padded or not. Raises InvalidReviewError.

    Bits left over after the last byte are ignored, as etcd does (``unmarshalBytes``).
    """
    standard = text.replace("-", "+").replace("_", "/")
    padded = standard + "=" * (-len(text) % 4)
    try:
        # Padding and its absence must not be mixed, and neither must the alphabets.
        if (len(text) % 4 and "=" in text) or (standard != text and ("+" in text or "/" in text)):
            raise ValueError
        return binascii.a2b_base64(padded, strict_mode=True)
    except ValueError:
        raise InvalidReviewError(
            f"{name} is not base64; encode its bytes as `printf KEY | base64` does"
        ) from None
