"""Answers questions: may this user do that, by which role, and what is missing."""

from collections.abc import Iterable
from dataclasses import dataclass

from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import PermissionDeniedError, UserEmptyError
from webhook.rbac.model import ROOT, PermissionType
from webhook.rbac.permissions import Permissions, RoleSet
from webhook.rbac.ranges import Range
from webhook.rbac.state import State


@dataclass(frozen=True, slots=True)
class Access:
    """An answer: the roles whose grants touch the question, and what of it nothing covers."""

    allowed: bool
    roles: tuple[str, ...]
    uncovered: tuple[Range, ...]


def roles_of(state: State, user: str, groups: Iterable[str] = ()) -> RoleSet:
    """Return the roles of a subject: those of the user of that name, and those of its groups."""
    known = state.users.get(user)
    roles = known.roles if known else ()
    found = [state.groups[group].roles for group in groups if group in state.groups]
    return frozenset(roles).union(*found)


def is_key_permitted(
    store: AuthStore, user: str, groups: Iterable[str], kind: PermissionType, key: bytes
) -> bool:
    """Tell whether a subject may do something with a single key. ``kind`` is READ or WRITE."""
    permissions = _permissions_of(store.state, user, groups)
    if permissions is None:
        return True
    if kind is PermissionType.READ:
        return permissions.can_read(key)
    return permissions.can_write(key)


def is_permitted(
    store: AuthStore, user: str, groups: Iterable[str], kind: PermissionType, span: Range
) -> bool:
    """Tell whether a subject may do something with all keys of a range.

    ``kind`` is READ or WRITE. Source: ``store.go``, ``isOpPermitted``.
    """
    permissions = _permissions_of(store.state, user, groups)
    if permissions is None:
        return True
    if kind is PermissionType.READ:
        return permissions.can_read_range(span.start, span.end)
    return permissions.can_write_range(span.start, span.end)


def _permissions_of(state: State, user: str, groups: Iterable[str]) -> Permissions | None:
    """Return what a subject may do, None for everything."""
    # One lock with `apply`: an answer from the middle of it might be one that never was true.
    with state.lock:
        roles = roles_of(state, user, groups)
        return None if ROOT in roles else state.permissions(roles)


def explain_access(
    store: AuthStore, user: str, groups: Iterable[str], kind: PermissionType, span: Range
) -> Access:
    """Answer as ``is_permitted`` does, with the reasons."""
    state = store.state
    with state.lock:
        roles = roles_of(state, user, groups)
        if ROOT in roles:
            return Access(True, (ROOT,), ())
        uncovered = state.permissions(roles).uncovered(kind, span)
        granting = [
            name
            for name in sorted(roles)
            if state.permissions(frozenset([name])).uncovered(kind, span) != [span]
        ]
        return Access(not uncovered, tuple(granting), tuple(uncovered))


def require_admin(store: AuthStore, user: str) -> None:
    """Let only root through while auth is enabled (``store.go``, ``IsAdminPermitted``).

    Raises UserEmptyError or PermissionDeniedError.
    """
    if not store.enabled:
        return
    if not user:
        raise UserEmptyError
    known = store.state.users.get(user)
    if known is None or not known.has_root_role:
        raise PermissionDeniedError
