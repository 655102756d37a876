"""The operations on users, roles and groups: what each of them writes, decided on one state.

Each function takes a state and returns the records to write, none where nothing changes;
``AuthStore.change`` calls it and writes them::

    store.change(changes.grant_role, "ann", "editor")

Invariants:

1. Each change adds 1 to the auth revision; enabling auth, and what changes nothing, do not.
2. The checks of an operation come in the order of the etcd function of the same name, so that of
   two errors the same one is reported.

Source: etcd ``server/auth/store.go`` (v3.6).
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, islice
from typing import Final

import msgspec

from webhook.rbac.batches import MAX_BATCH_RECORDS, Batches, batch
from webhook.rbac.errors import (
    InvalidAuthManagementError,
    PermissionNotGrantedError,
    RoleAlreadyExistsError,
    RoleEmptyError,
    RoleNotFoundError,
    RoleNotGrantedError,
    RootRoleNotExistError,
    RootUserNotExistError,
    UserAlreadyExistsError,
    UserEmptyError,
    UserNotFoundError,
)
from webhook.rbac.model import ROOT, Group, Permission, Role, User
from webhook.rbac.ranges import format_range
from webhook.rbac.records import (
    PERMISSION,
    ROLE,
    USER,
    Record,
    group_record,
    meta_record,
    permission_id,
    permission_record,
    role_record,
    text_id,
    token_record,
    user_record,
)
from webhook.rbac.state import AuthState

_NOT_WHILE_ENABLED: Final = "{} while auth is enabled; run `leeway auth disable` first"
_SHOWN_BYTES: Final = 128


def enable(state: AuthState) -> list[Record]:
    """Enable auth. Raises RootUserNotExistError or RootRoleNotExistError."""
    if state.meta.enabled:
        return []
    root = state.users.get(ROOT)
    if root is None:
        raise RootUserNotExistError
    if not root.has_root_role:
        raise RootRoleNotExistError
    return [meta_record(msgspec.structs.replace(state.meta, enabled=True))]


def disable(state: AuthState) -> list[Record]:
    """Disable auth and end all simple tokens.

    Their epoch ends them; of those that are left, each log-in deletes some.
    """
    if not state.meta.enabled:
        return []
    meta = state.meta.bumped()
    ended = msgspec.structs.replace(meta, enabled=False, token_epoch=meta.token_epoch + 1)
    gone = [token_record(digest, None) for digest in islice(state.tokens, MAX_BATCH_RECORDS)]
    return [*gone, meta_record(ended)]


def add_user(state: AuthState, name: str, password_hash: bytes = b"") -> list[Record]:
    """Add a user; an empty hash means no password.

    Raises UserEmptyError or UserAlreadyExistsError.
    """
    if not name:
        raise UserEmptyError
    if name in state.users:
        raise UserAlreadyExistsError
    user = User(name, password_hash, (), state.meta.revision + 1)
    return _bumped(state, [user_record(user)])


def delete_user(state: AuthState, name: str) -> list[Record]:
    """Delete a user and its tokens. Raises InvalidAuthManagementError or UserNotFoundError."""
    if state.meta.enabled and name == ROOT:
        raise InvalidAuthManagementError(
            _NOT_WHILE_ENABLED.format("the user root cannot be deleted")
        )
    if name not in state.users:
        raise UserNotFoundError
    return without_tokens(state, name, _bumped(state, [Record(USER, text_id(name), None)]))


def change_password(state: AuthState, name: str, password_hash: bytes) -> list[Record]:
    """Set a user's password and delete its tokens. Raises UserNotFoundError."""
    # A user without password stays one, as in etcd; its tokens go all the same.
    kept = password_hash if user_of(state, name).password_hash else b""
    return replace_password(state, name, kept)


def replace_password(state: AuthState, name: str, password_hash: bytes) -> list[Record]:
    """Give a user a password, or with an empty hash none, and delete its tokens.

    Raises UserNotFoundError.
    """
    user, generation = user_of(state, name), state.meta.revision + 1
    changed = replace(user, password_hash=password_hash, generation=generation)
    return without_tokens(state, name, _bumped(state, [user_record(changed)]))


def grant_role(state: AuthState, name: str, role: str) -> list[Record]:
    """Grant a user a role; one that it has already changes nothing.

    Raises UserNotFoundError or RoleNotFoundError.
    """
    # Invariant 2.
    user = user_of(state, name)
    if role != ROOT and role not in state.roles:
        raise RoleNotFoundError
    if role in user.roles:
        return []
    changed = replace(user, roles=tuple(sorted((*user.roles, role), key=text_id)))
    return _bumped(state, [user_record(changed)])


def revoke_role(state: AuthState, name: str, role: str) -> list[Record]:
    """Revoke a role from a user.

    Raises InvalidAuthManagementError, UserNotFoundError or RoleNotGrantedError.
    """
    if state.meta.enabled and name == ROOT and role == ROOT:
        raise InvalidAuthManagementError(
            _NOT_WHILE_ENABLED.format("the user root cannot lose the role root")
        )
    user = user_of(state, name)
    if role not in user.roles:
        raise RoleNotGrantedError
    changed = replace(user, roles=tuple(r for r in user.roles if r != role))
    return _bumped(state, [user_record(changed)])


def add_role(state: AuthState, name: str) -> list[Record]:
    """Add a role. Raises RoleEmptyError or RoleAlreadyExistsError."""
    if not name:
        raise RoleEmptyError
    if name in state.roles:
        raise RoleAlreadyExistsError
    return _bumped(state, [role_record(name)])


def delete_role(state: AuthState, name: str) -> list[Record]:
    """Delete a role and revoke it from every user and group, the last of them with the role.

    Raises InvalidAuthManagementError or RoleNotFoundError.
    """
    if state.meta.enabled and name == ROOT:
        raise InvalidAuthManagementError(
            _NOT_WHILE_ENABLED.format("the role root cannot be deleted")
        )
    role = role_of(state, name)
    records: list[Record] = []
    for holder in state.users_of_role.get(name, ()):
        user = state.users[holder]
        changed = replace(user, roles=tuple(r for r in user.roles if r != name))
        records.append(user_record(changed))
    for group in state.groups.values():
        if name in group.roles:
            rest = tuple(r for r in group.roles if r != name)
            records.append(group_record(Group(group.name, rest)))
    for permission in role.permissions:
        record_id = permission_id(name, permission.key, permission.range_end)
        records.append(Record(PERMISSION, record_id, None))
    first = _bumped(state, batch(records)) if records else []
    return Batches(_bumped(state, [*records, Record(ROLE, text_id(name), None)]), first)


def grant_permission(state: AuthState, role: str, permission: Permission) -> list[Record]:
    """Grant a role a permission; where it has one on that range, the type changes.

    Raises InvalidAuthManagementError for a range that contains no key, or RoleNotFoundError.
    """
    if not permission.is_valid:
        raise InvalidAuthManagementError(_advice_on_range(permission))
    role_of(state, role)
    return _bumped(state, [permission_record(role, permission)])


def _advice_on_range(permission: Permission) -> str:
    if not permission.key:
        return "the key is empty; name a key, or grant all keys with `--prefix ''`"
    key, end = (
        format_range(bound[:_SHOWN_BYTES], b"") for bound in (permission.key, permission.range_end)
    )
    return f"RANGE_END {end} does not come after KEY {key}; give the one that sorts first as KEY"


def revoke_permission(state: AuthState, role: str, key: bytes, range_end: bytes) -> list[Record]:
    """Revoke the permission on exactly that range from a role.

    Raises RoleNotFoundError or PermissionNotGrantedError.
    """
    granted = role_of(state, role).permissions
    if not any(p.key == key and p.range_end == range_end for p in granted):
        raise PermissionNotGrantedError
    return _bumped(state, [Record(PERMISSION, permission_id(role, key, range_end), None)])


def grant_group_role(state: AuthState, group: str, role: str) -> list[Record]:
    """Grant the members of a group a role. Raises UserEmptyError or RoleNotFoundError."""
    if not group:
        raise UserEmptyError
    if role != ROOT and role not in state.roles:
        raise RoleNotFoundError
    roles = state.groups.get(group, Group(group)).roles
    if role in roles:
        return []
    changed = Group(group, tuple(sorted((*roles, role), key=text_id)))
    return _bumped(state, [group_record(changed)])


def revoke_group_role(state: AuthState, group: str, role: str) -> list[Record]:
    """Revoke a role from a group. Raises RoleNotGrantedError."""
    roles = state.groups.get(group, Group(group)).roles
    if role not in roles:
        raise RoleNotGrantedError
    rest = Group(group, tuple(r for r in roles if r != role))
    return _bumped(state, [group_record(rest)])


def user_of(state: AuthState, name: str) -> User:
    """Return a user. Raises UserNotFoundError."""
    try:
        return state.users[name]
    except KeyError:
        raise UserNotFoundError from None


def role_of(state: AuthState, name: str) -> Role:
    """Return a role. Raises RoleNotFoundError."""
    try:
        return state.roles[name]
    except KeyError:
        raise RoleNotFoundError from None


def without_tokens(state: AuthState, name: str, records: Iterable[Record]) -> Batches:
    """Return a change of a user with the deletions of all of its tokens, those first."""
    gone = [token_record(digest, None) for digest in state.tokens_of_user.get(name, ())]
    return Batches(chain(gone, records), batch(gone))


def _bumped(state: AuthState, records: Iterable[Record]) -> list[Record]:
    # Invariant 1.
    return [*records, meta_record(state.meta.bumped())]
