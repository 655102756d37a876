"""The permissions of a set of roles. Every permission check goes through this hot path.

Invariants:

1. A snapshot never changes. It is exactly the union of the grants of its roles.
2. Snapshots are kept by set of roles, not by user.
3. A change of a role drops only the snapshots that contain it.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Final

from webhook.rbac.model import PermissionType, Role
from webhook.rbac.ranges import Range, RangeSet, gaps, merge

MAX_SNAPSHOTS: Final = 4096

RoleSet = frozenset[str]


class Permissions:
    """The merged permissions of a set of roles, as they are now.

    >>> from webhook.rbac.model import Permission
    >>> editor = Role("editor", (Permission(b"/app/", b"/app0", PermissionType.READ),))
    >>> permissions = Permissions([editor])
    >>> permissions.can_read(b"/app/config"), permissions.can_write(b"/app/config")
    (True, False)
    >>> permissions.uncovered(PermissionType.READ, Range(b"/app/", b"/b"))
    [Range(start=b'/app0', end=b'/b')]
    """

    __slots__ = ("read", "write")

    def __init__(self, roles: Iterable[Role]) -> None:
        # Invariant 1.
        granted = [permission for role in roles for permission in role.permissions]
        self.read: RangeSet = merge(p.span for p in granted if p.type.reads)
        self.write: RangeSet = merge(p.span for p in granted if p.type.writes)

    def can_read(self, key: bytes) -> bool:
        """Return whether reading a single key is allowed."""
        return bisect_right(self.read, key) & 1 == 1

    def can_write(self, key: bytes) -> bool:
        """Return whether writing a single key is allowed."""
        return bisect_right(self.write, key) & 1 == 1

    def can_read_range(self, start: bytes, end: bytes | None) -> bool:
        """Return whether reading [start, end) is allowed; None is no end."""
        place = bisect_right(self.read, start)
        if place & 1:
            bounds = self.read
            return place == len(bounds) or (end is not None and end <= bounds[place])
        return False

    def can_write_range(self, start: bytes, end: bytes | None) -> bool:
        """Return whether writing [start, end) is allowed; None is no end."""
        place = bisect_right(self.write, start)
        if place & 1:
            bounds = self.write
            return place == len(bounds) or (end is not None and end <= bounds[place])
        return False

    def uncovered(self, kind: PermissionType, span: Range) -> list[Range]:
        """Return, in order, the parts of a range that reading (or writing) is not allowed for."""
        return gaps(self.write if kind.writes else self.read, span.start, span.end)


class SnapshotCache:
    """Snapshots by set of roles.

    ``get`` can be called by any thread. The other methods, and changes of what ``role_of`` returns,
    need one common lock; otherwise a snapshot could be older than the roles it is made of.
    """

    def __init__(self, role_of: Callable[[str], Role | None]) -> None:
        self._role_of = role_of
        self._snapshots: dict[RoleSet, Permissions] = {}  # Invariant 2.
        self._sets_of_role: dict[str, set[RoleSet]] = {}

    def get(self, roles: RoleSet) -> Permissions | None:
        """Return the snapshot of a set of roles, None where it has to be made."""
        return self._snapshots.get(roles)

    def make(self, roles: RoleSet) -> Permissions:
        """Make and keep the snapshot of a set of roles; roles that do not exist grant nothing."""
        found = [role for name in roles if (role := self._role_of(name)) is not None]
        snapshot = Permissions(found)
        if len(self._snapshots) >= MAX_SNAPSHOTS:
            self._forget(next(iter(self._snapshots)))
        self._snapshots[roles] = snapshot
        for name in roles:
            self._sets_of_role.setdefault(name, set()).add(roles)
        return snapshot

    def drop(self, role: str) -> None:
        """Drop every snapshot that contains a role (invariant 3)."""
        for roles in self._sets_of_role.pop(role, set()):
            self._forget(roles)

    def _forget(self, roles: RoleSet) -> None:
        self._snapshots.pop(roles, None)
        for name in roles:
            sets = self._sets_of_role.get(name)
            if sets is not None:
                sets.discard(roles)
                if not sets:
                    del self._sets_of_role[name]
