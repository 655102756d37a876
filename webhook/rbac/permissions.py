"""What a set of roles may do: the hot path of every permission question.

Invariants:

1. A snapshot never changes; it is the union of the grants of its roles, no more and no less.
2. Snapshots are kept by set of roles, so they cost nothing per user.
3. A change of a role drops just the snapshots that contain it; they are made again when they are
   asked for.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Final

from webhook.rbac.model import PermissionType, Role
from webhook.rbac.ranges import Range, RangeSet, gaps, merge

MAX_SNAPSHOTS: Final = 4096

RoleSet = frozenset[str]


class Permissions:
    """The merged permissions of one set of roles."""

    __slots__ = ("read", "write")

    def __init__(self, roles: Iterable[Role]) -> None:
        granted = [permission for role in roles for permission in role.permissions]
        self.read: RangeSet = merge(p.span for p in granted if p.type.reads)
        self.write: RangeSet = merge(p.span for p in granted if p.type.writes)

    def can_read(self, key: bytes) -> bool:
        """Return whether a single key may be read."""
        return bisect_right(self.read, key) & 1 == 1

    def can_write(self, key: bytes) -> bool:
        """Return whether a single key may be written."""
        return bisect_right(self.write, key) & 1 == 1

    def can_read_range(self, start: bytes, end: bytes | None) -> bool:
        """Return whether all keys of [start, end) may be read; ``end`` None means without end."""
        place = bisect_right(self.read, start)
        if place & 1:
            bounds = self.read
            return place == len(bounds) or (end is not None and end <= bounds[place])
        return False

    def can_write_range(self, start: bytes, end: bytes | None) -> bool:
        """Return whether all keys of [start, end) may be written."""
        place = bisect_right(self.write, start)
        if place & 1:
            bounds = self.write
            return place == len(bounds) or (end is not None and end <= bounds[place])
        return False

    def uncovered(self, kind: PermissionType, span: Range) -> list[Range]:
        """Return the parts of a range that may not be read (or written), in order."""
        return gaps(self.write if kind.writes else self.read, span.start, span.end)


class SnapshotCache:
    """Snapshots by set of roles.

    ``get`` may be called by any thread at any time. Everything else, and changes of what
    ``role_of`` returns, must happen under one lock, or a snapshot could be kept that is older than
    the roles it was made of.
    """

    def __init__(self, role_of: Callable[[str], Role | None]) -> None:
        self._role_of = role_of
        self._snapshots: dict[RoleSet, Permissions] = {}
        self._sets_of_role: dict[str, set[RoleSet]] = {}

    def get(self, roles: RoleSet) -> Permissions | None:
        """Return the snapshot of a set of roles, or None where it has to be made."""
        return self._snapshots.get(roles)

    def make(self, roles: RoleSet) -> Permissions:
        """Make and keep the snapshot of a set of roles; those that do not exist grant nothing."""
        found = [role for name in roles if (role := self._role_of(name)) is not None]
        snapshot = Permissions(found)
        if len(self._snapshots) >= MAX_SNAPSHOTS:
            self._forget(next(iter(self._snapshots)))
        self._snapshots[roles] = snapshot
        for name in roles:
            self._sets_of_role.setdefault(name, set()).add(roles)
        return snapshot

    def drop(self, role: str) -> None:
        """Forget every snapshot that contains a role."""
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
