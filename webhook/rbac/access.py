"""Checks whether a subject is allowed to read or write keys, and by which roles."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from webhook.rbac.errors import PermissionDeniedError, UserEmptyError
from webhook.rbac.model import ROOT, PermissionType
from webhook.rbac.permissions import Permissions, RoleSet
from webhook.rbac.ranges import Range
from webhook.rbac.state import AuthState
from webhook.token.outcome import Authenticated, Outcome, groups_of

_NO_ROLES: Final[RoleSet] = frozenset()


@dataclass(frozen=True, slots=True)
class AccessDecision:
    """Whether a range is allowed, the roles that grant part of it, and what no role covers."""

    allowed: bool
    roles: tuple[str, ...]
    uncovered: tuple[Range, ...]


def roles_of(state: AuthState, user: str, groups: Iterable[str] = ()) -> RoleSet:
    """Return the roles of a subject: those of the user of that name, and those of its groups."""
    with state.lock:
        known = state.users.get(user)
        # The case of nearly all service accounts.
        if known is None and state.groups.keys().isdisjoint(groups):
            return _NO_ROLES
        found = [state.groups[group].roles for group in groups if group in state.groups]
    return frozenset(known.roles if known else ()).union(*found)


def role_groups(outcome: Outcome, state: AuthState, prefix: str) -> tuple[str, ...]:
    """Return a group, prefix and name, for each role of the subject of an accepted token.

    Empty for an empty ``prefix``.
    """
    if not prefix or not isinstance(outcome, Authenticated):
        return ()
    claims = outcome.claims
    roles = roles_of(state, claims.subject, groups_of(claims.namespace))
    return tuple([prefix + role for role in sorted(roles)]) if roles else ()


def is_key_permitted(
    state: AuthState, user: str, groups: Iterable[str], kind: PermissionType, key: bytes
) -> bool:
    """Return whether a subject is allowed to READ or WRITE (``kind``) a single key."""
    # Not in the middle of an `apply`, between two records of one commit.
    with state.lock:
        roles = roles_of(state, user, groups)
        if ROOT in roles:
            return True
        permissions = state.permissions(roles)
    if kind is PermissionType.READ:
        return permissions.can_read(key)
    return permissions.can_write(key)


def granting_roles(
    state: AuthState,
    user: str,
    groups: Iterable[str],
    kinds: Iterable[PermissionType],
    *spans: Range,
) -> tuple[str, ...]:
    """Return the roles that grant a subject all keys of ``spans``; none where it is not allowed.

    One role if it is enough alone, otherwise all that grant a part. ``kinds`` are READ, WRITE or
    both. Source: etcd ``server/auth/store.go``, ``isOpPermitted``.
    """
    with state.lock:
        roles = roles_of(state, user, groups)
        if ROOT in roles:
            return (ROOT,)
        if not roles or not _covers(state.permissions(roles), kinds, spans):
            return ()
        names = sorted(roles)
        for name in names:
            if _covers(state.permissions(frozenset((name,))), kinds, spans):
                return (name,)
        return tuple(name for name in names if _touches(state, name, kinds, spans))


def _covers(
    permissions: Permissions, kinds: Iterable[PermissionType], spans: Iterable[Range]
) -> bool:
    for start, end in spans:
        for kind in kinds:
            if kind is PermissionType.READ:
                if not permissions.can_read_range(start, end):
                    return False
            elif not permissions.can_write_range(start, end):
                return False
    return True


def _touches(
    state: AuthState, role: str, kinds: Iterable[PermissionType], spans: Iterable[Range]
) -> bool:
    permissions = state.permissions(frozenset((role,)))
    return any(permissions.uncovered(kind, span) != [span] for span in spans for kind in kinds)


def explain_access(
    state: AuthState, user: str, groups: Iterable[str], kind: PermissionType, span: Range
) -> AccessDecision:
    """Return whether a subject is allowed to READ or WRITE (``kind``) all keys of a range, and why.

    Source: etcd ``server/auth/store.go``, ``isOpPermitted``.
    """
    with state.lock:
        roles = roles_of(state, user, groups)
        if ROOT in roles:
            return AccessDecision(True, (ROOT,), ())
        uncovered = state.permissions(roles).uncovered(kind, span)
        granting = [name for name in sorted(roles) if _touches(state, name, (kind,), (span,))]
        return AccessDecision(not uncovered, tuple(granting), tuple(uncovered))


def require_admin(state: AuthState, user: str, groups: Iterable[str] = ()) -> None:
    """Require role root while auth is enabled (``store.go``, ``IsAdminPermitted``).

    Raises UserEmptyError or PermissionDeniedError.
    """
    if not state.meta.enabled:
        return
    if not user:
        raise UserEmptyError
    if ROOT not in roles_of(state, user, groups):
        raise PermissionDeniedError
