"""etcd's auth API as JSON: requests in, answers out.

Source: etcd ``api/etcdserverpb/rpc.proto`` (v3.6) and protobuf's JSON as its gateway reads and
writes it (``google.golang.org/protobuf/encoding/protojson``): keys as base64 of either alphabet,
padded or not; enums by name or number; fields at their default left out; 64-bit integers as
strings. A field may be written as in the proto file or in camel case. An unknown field or an
unknown name of an enum is refused, where etcd ignores it: there ``"permType": "2"`` grants READ.
"""

import binascii
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from keys.errors import EncodingError
from keys.messages import describe_validation
from webhook.errors import InvalidReviewError
from webhook.kube.bodies import decode_body, require_short_keys
from webhook.rbac.model import Permission, PermissionType
from webhook.rbac.ranges import in_words

_Request = TypeVar("_Request", bound="Request")
_ORIGINAL_NAMES: Final = {"rangeEnd": "range_end", "noPassword": "no_password"}
_TYPES: Final[Mapping[str | float, PermissionType]] = {
    written: kind for kind in PermissionType for written in (kind.name, kind.value)
}
_BYTES_FIELDS: Final = frozenset({"key", "range_end"})
_SHOWN_KEY_BYTES: Final = 512


class Request(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of the requests; on its own the one without fields."""

    def on_what(self) -> dict[str, object]:
        """Return what a request is about, by the same names in all of them; never a password."""
        return {}


class NameRequest(Request):
    """AuthUserGet, AuthUserDelete."""

    name: str = ""

    def on_what(self) -> dict[str, object]:
        """Name the user."""
        return {"user": self.name}


class RoleAddRequest(Request):
    """AuthRoleAdd."""

    name: str = ""

    def on_what(self) -> dict[str, object]:
        """Name the role."""
        return {"role": self.name}


class RoleRequest(Request):
    """AuthRoleGet, AuthRoleDelete."""

    role: str = ""

    def on_what(self) -> dict[str, object]:
        """Name the role."""
        return {"role": self.role}


class AuthenticateRequest(Request):
    """Authenticate, AuthUserChangePassword."""

    name: str = ""
    password: str = ""

    def on_what(self) -> dict[str, object]:
        """Name the user."""
        return {"user": self.name}


class UserOptions(msgspec.Struct, forbid_unknown_fields=True):
    """``authpb.UserAddOptions``."""

    no_password: bool = False


class UserAddRequest(AuthenticateRequest):
    """AuthUserAdd."""

    options: UserOptions | None = None


class UserGrantRoleRequest(Request):
    """AuthUserGrantRole."""

    user: str = ""
    role: str = ""

    def on_what(self) -> dict[str, object]:
        """Name the user and the role."""
        return {"user": self.user, "role": self.role}


class UserRevokeRoleRequest(Request):
    """AuthUserRevokeRole."""

    name: str = ""
    role: str = ""

    def on_what(self) -> dict[str, object]:
        """Name the user and the role."""
        return {"user": self.name, "role": self.role}


class PermissionBody(msgspec.Struct, forbid_unknown_fields=True):
    """``authpb.Permission``."""

    permType: str | int | float = 0  # noqa: N815 - the proto's own name
    key: bytes = b""
    range_end: bytes = b""


class RoleGrantPermissionRequest(Request):
    """AuthRoleGrantPermission."""

    name: str = ""
    perm: PermissionBody | None = None

    def on_what(self) -> dict[str, object]:
        """Name the role, and say what is granted."""
        if self.perm is None:
            return {"role": self.name}
        keys = _in_words(self.perm.key, self.perm.range_end)
        return {"role": self.name, "permission": str(self.perm.permType), "keys": keys}


class RoleRevokePermissionRequest(Request):
    """AuthRoleRevokePermission."""

    role: str = ""
    key: bytes = b""
    range_end: bytes = b""

    def on_what(self) -> dict[str, object]:
        """Name the role, and say what is taken from it."""
        return {"role": self.role, "keys": _in_words(self.key, self.range_end)}


def _in_words(key: bytes, range_end: bytes) -> str:
    return in_words(key[:_SHOWN_KEY_BYTES], range_end[:_SHOWN_KEY_BYTES])


def parse_request(body: bytes, kind: type[_Request]) -> _Request:
    """Parse a request; an empty body is one with every field at its default.

    Raises InvalidReviewError.
    """
    try:
        return msgspec.convert(_normalized(decode_body(body or b"{}")), kind)
    except (EncodingError, msgspec.ValidationError, RecursionError) as error:
        raise InvalidReviewError(
            f"the request body is not the JSON of this call: {describe_validation(error)}"
        ) from error


def permission_of(body: PermissionBody) -> Permission:
    """Return a permission. Raises InvalidReviewError for a type that is not known."""
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
    for name in kind.__struct_fields__
)


def _normalized(value: object) -> object:
    """Give members the proto's names, decode keys, and drop null members: a default, in proto JSON.

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
