"""Users, roles and permissions as immutable values.

Source: etcd ``api/authpb/auth.proto``.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from webhook.rbac.ranges import OPEN_END, Range, from_wire

ROOT: Final = "root"
"""The user that must exist, and the role that is allowed to do anything."""


class PermissionType(IntEnum):
    """Values as in ``authpb.Permission.Type``."""

    READ = 0
    WRITE = 1
    READWRITE = 2

    @property
    def reads(self) -> bool:
        """Whether it allows to read."""
        return self is not PermissionType.WRITE

    @property
    def writes(self) -> bool:
        """Whether it allows to write."""
        return self is not PermissionType.READ


@dataclass(frozen=True, slots=True, order=True)
class Permission:
    """A grant on a single key (``range_end`` empty) or on a range; ordered by key, then end."""

    key: bytes
    range_end: bytes
    type: PermissionType

    @property
    def span(self) -> Range:
        """The keys it applies to."""
        return from_wire(self.key, self.range_end)

    @property
    def is_valid(self) -> bool:
        """Whether it contains any key (``store.go``, ``isValidPermission``)."""
        if not self.key:
            return False
        return not self.range_end or self.range_end == OPEN_END or self.key < self.range_end


MAX_PASSWORD_COST: Final = 31
"""The highest cost that a bcrypt hash can have."""
_BCRYPT_HASH: Final = re.compile(rb"\$2[abxy]\$([0-9]{2})\$")

ROOT_PERMISSION: Final = Permission(b"", OPEN_END, PermissionType.READWRITE)
"""What ``role get root`` shows, whatever was granted to that role."""


@dataclass(frozen=True, slots=True)
class User:
    """A user.

    ``password_hash`` is bcrypt's, empty for a user without password. ``generation`` is the auth
    revision at which its password was last set: a token of an older one is stale.
    """

    name: str
    password_hash: bytes = b""
    roles: tuple[str, ...] = ()
    generation: int = 0

    def __repr__(self) -> str:
        return f"User({self.name!r}, roles={self.roles!r})"

    @property
    def password_cost(self) -> int:
        """The cost of the password's hash (bcrypt's logarithmic work factor), 0 without one."""
        return cost_of(self.password_hash)

    @property
    def has_root_role(self) -> bool:
        """Whether it is allowed to do anything."""
        return ROOT in self.roles


@dataclass(frozen=True, slots=True)
class Role:
    """A role and its permissions, sorted by key and range end."""

    name: str
    permissions: tuple[Permission, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """A Kubernetes group and the roles that its members have."""

    name: str
    roles: tuple[str, ...] = ()


def cost_of(password_hash: bytes) -> int:
    """Return the cost of a bcrypt hash, 0 for anything else."""
    found = _BCRYPT_HASH.match(password_hash)
    return min(int(found[1]), MAX_PASSWORD_COST) if found else 0
