"""What each operation on users, roles and groups writes, decided on one state.

Source: etcd ``server/auth/store.go`` (v3.6). The order of the checks of each operation is that of
the function there of the same name.

Each function returns the records to write, or None where nothing changes. Nothing is written here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

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
from webhook.rbac.ranges import in_words
from webhook.rbac.records import (
    PERMISSION,
    ROLE,
    USER,
    AuthMeta,
    Record,
    group_record,
    permission_id,
    permission_record,
    role_record,
    text_id,
    token_record,
    user_record,
)
from webhook.rbac.state import State

_NOT_WHILE_ENABLED: Final = "{} while auth is enabled; run `leeway auth disable` first"
_SHOWN_BYTES: Final = 128


@dataclass(frozen=True, slots=True)
class Change:
    """What an operation has decided: records to write, and the state of auth after them."""

    records: Sequence[Record]
    meta: AuthMeta


def enable(state: State) -> Change | None:
    """Decide ``AuthStore.enable``."""
    if state.meta.enabled:
        return None
    root = state.users.get(ROOT)
    if root is None:
        raise RootUserNotExistError
    if not root.has_root_role:
        raise RootRoleNotExistError
    return Change([], AuthMeta(True, state.meta.revision))


def disable(state: State) -> Change | None:
    """Decide ``AuthStore.disable``."""
    if not state.meta.enabled:
        return None
    gone = [token_record(digest, None) for digest in state.tokens]
    return _bumped(state, gone, enabled=False)


def add_user(state: State, name: str, password_hash: bytes) -> Change:
    """Decide ``AuthStore.add_user``."""
    if not name:
        raise UserEmptyError
    if name in state.users:
        raise UserAlreadyExistsError
    user = User(name, password_hash, (), state.meta.revision + 1)
    return _bumped(state, [user_record(user)])


def delete_user(state: State, name: str) -> Change:
    """Decide ``AuthStore.delete_user``."""
    if state.meta.enabled and name == ROOT:
        raise InvalidAuthManagementError(
            _NOT_WHILE_ENABLED.format("the user root cannot be deleted")
        )
    if name not in state.users:
        raise UserNotFoundError
    gone = Record(USER, text_id(name), None)
    return _bumped(state, [gone, *_without_tokens(state, name)])


def change_password(state: State, name: str, password_hash: bytes) -> Change:
    """Decide ``AuthStore.change_password``."""
    user = user_of(state, name)
    generation = state.meta.revision + 1
    # A user without password stays one, as in etcd; its tokens go all the same.
    kept = password_hash if user.password_hash else b""
    changed = replace(user, password_hash=kept, generation=generation)
    return _bumped(state, [user_record(changed), *_without_tokens(state, name)])


def grant_role(state: State, name: str, role: str) -> Change | None:
    """Decide ``AuthStore.grant_role``."""
    user = user_of(state, name)
    if role != ROOT and role not in state.roles:
        raise RoleNotFoundError
    if role in user.roles:
        return None
    changed = replace(user, roles=tuple(sorted((*user.roles, role), key=text_id)))
    return _bumped(state, [user_record(changed)])


def revoke_role(state: State, name: str, role: str) -> Change:
    """Decide ``AuthStore.revoke_role``."""
    if state.meta.enabled and name == ROOT and role == ROOT:
        raise InvalidAuthManagementError(
            _NOT_WHILE_ENABLED.format("the user root cannot lose the role root")
        )
    user = user_of(state, name)
    if role not in user.roles:
        raise RoleNotGrantedError
    changed = replace(user, roles=tuple(r for r in user.roles if r != role))
    return _bumped(state, [user_record(changed)])


def add_role(state: State, name: str) -> Change:
    """Decide ``AuthStore.add_role``."""
    if not name:
        raise RoleEmptyError
    if name in state.roles:
        raise RoleAlreadyExistsError
    return _bumped(state, [role_record(name)])


def delete_role(state: State, name: str) -> Change:
    """Decide ``AuthStore.delete_role``."""
    if state.meta.enabled and name == ROOT:
        raise InvalidAuthManagementError(
            _NOT_WHILE_ENABLED.format("the role root cannot be deleted")
        )
    role = role_of(state, name)
    records = [Record(ROLE, text_id(name), None)]
    for permission in role.permissions:
        record_id = permission_id(name, permission.key, permission.range_end)
        records.append(Record(PERMISSION, record_id, None))
    for holder in state.users_of_role.get(name, ()):
        user = state.users[holder]
        changed = replace(user, roles=tuple(r for r in user.roles if r != name))
        records.append(user_record(changed))
    for group in state.groups.values():
        if name in group.roles:
            rest = tuple(r for r in group.roles if r != name)
            records.append(group_record(Group(group.name, rest)))
    return _bumped(state, records)


def grant_permission(state: State, role: str, permission: Permission) -> Change:
    """Decide ``AuthStore.grant_permission``."""
    if not permission.is_valid:
        raise InvalidAuthManagementError(_advice_on_range(permission))
    role_of(state, role)
    return _bumped(state, [permission_record(role, permission)])


def _advice_on_range(permission: Permission) -> str:
    if not permission.key:
        return "the key is empty; name a key, or grant all keys with `--prefix ''`"
    key, end = (
        in_words(bound[:_SHOWN_BYTES], b"") for bound in (permission.key, permission.range_end)
    )
    return f"RANGE_END {end} does not come after KEY {key}; give the one that sorts first as KEY"


def revoke_permission(state: State, role: str, key: bytes, range_end: bytes) -> Change:
    """Decide ``AuthStore.revoke_permission``."""
    granted = role_of(state, role).permissions
    if not any(p.key == key and p.range_end == range_end for p in granted):
        raise PermissionNotGrantedError
    return _bumped(state, [Record(PERMISSION, permission_id(role, key, range_end), None)])


def grant_group_role(state: State, group: str, role: str) -> Change | None:
    """Decide ``AuthStore.grant_group_role``."""
    if not group:
        raise UserEmptyError
    if role != ROOT and role not in state.roles:
        raise RoleNotFoundError
    roles = state.groups.get(group, Group(group)).roles
    if role in roles:
        return None
    changed = Group(group, tuple(sorted((*roles, role), key=text_id)))
    return _bumped(state, [group_record(changed)])


def revoke_group_role(state: State, group: str, role: str) -> Change:
    """Decide ``AuthStore.revoke_group_role``."""
    roles = state.groups.get(group, Group(group)).roles
    if role not in roles:
        raise RoleNotGrantedError
    rest = Group(group, tuple(r for r in roles if r != role))
    return _bumped(state, [group_record(rest)])


def user_of(state: State, name: str) -> User:
    """Return a user. Raises UserNotFoundError."""
    try:
        return state.users[name]
    except KeyError:
        raise UserNotFoundError from None


def role_of(state: State, name: str) -> Role:
    """Return a role. Raises RoleNotFoundError."""
    try:
        return state.roles[name]
    except KeyError:
        raise RoleNotFoundError from None


def _bumped(state: State, records: Sequence[Record], enabled: bool | None = None) -> Change:
    now_enabled = state.meta.enabled if enabled is None else enabled
    return Change(records, AuthMeta(now_enabled, state.meta.revision + 1))


def _without_tokens(state: State, user: str) -> list[Record]:
    return [token_record(digest, None) for digest in state.tokens_of_user.get(user, ())]
