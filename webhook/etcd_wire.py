"""etcd's auth API as JSON: requests in, answers out.

Source: etcd ``api/etcdserverpb/rpc.proto`` and grpc-gateway's JSON: keys as base64, fields at
their default left out, 64-bit integers as strings. A field may be written as in the proto file or
in camel case. What is not known is refused, where etcd ignores it.
"""

from typing import Any, Final, TypeVar

import msgspec

from keys.errors import EncodingError
from webhook.bodies import decode_body
from webhook.errors import InvalidReviewError
from webhook.rbac.model import Permission, PermissionType
from webhook.rbac.ranges import in_words

_Request = TypeVar("_Request", bound="Request")
_ORIGINAL_NAMES: Final = {"rangeEnd": "range_end", "noPassword": "no_password"}
MAX_KEY_BYTES: Final = 64 * 1024
_SHOWN_KEY_BYTES: Final = 512


class Request(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of the requests; on its own the one without fields."""

    def on_what(self) -> dict[str, object]:
        """Say what a request is about, by the same names in all of them; never a password."""
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

    permType: str | int = 0  # noqa: N815 - the proto's own name
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
        members = decode_body(body or b"{}")
        return msgspec.convert({} if members is None else _with_original_names(members), kind)
    except (EncodingError, msgspec.ValidationError, RecursionError) as error:
        raise InvalidReviewError(
            f"the request body is not the JSON of this call: {error}"
        ) from error


def permission_of(body: PermissionBody) -> Permission:
    """Return a permission. Raises InvalidReviewError for a type that is not known."""
    try:
        kind = (
            PermissionType[body.permType]
            if isinstance(body.permType, str)
            else PermissionType(body.permType)
        )
    except (KeyError, ValueError):
        raise InvalidReviewError(
            f"permType is {body.permType!r}; READ, WRITE or READWRITE is allowed"
        ) from None
    require_short_keys(key=body.key, range_end=body.range_end)
    return Permission(body.key, body.range_end, kind)


def require_short_keys(**keys: bytes) -> None:
    """Refuse a key that is longer than any in use. Raises InvalidReviewError."""
    for name, value in keys.items():
        if len(value) > MAX_KEY_BYTES:
            raise InvalidReviewError(
                f"{name} has {len(value)} bytes; at most {MAX_KEY_BYTES} are allowed"
            )


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


def _with_original_names(value: object) -> object:
    """Give members the proto's names, and take out those that are null: a default, in proto JSON.

    Raises InvalidReviewError for a member that is there under both of its names.
    """
    if not isinstance(value, dict):
        return value
    as_written: dict[str, object] = value
    members: dict[str, object] = {}
    for written, member in as_written.items():
        name = _ORIGINAL_NAMES.get(written, written)
        if name in members:
            raise InvalidReviewError(f"the member {name!r} stands twice")
        members[name] = _with_original_names(member)
    return {n: v for n, v in members.items() if v is not None or n not in _FIELDS}
