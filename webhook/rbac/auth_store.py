"""etcd's AuthStore: users, roles and permissions, and every change of them.

Source: etcd ``server/auth/store.go`` (v3.6). The order of the checks of each operation is that of
the function there of the same name.

Invariants:

1. A change is one transaction of the backend: what is decided holds for the revision that it is
   written on, else it is decided again.
2. What a method has returned is written down.
3. Each change adds 1 to the auth revision; enabling auth, and what changes nothing, do not.
4. A question is answered from memory, from everything that this process has written and everything
   that others had when ``refresh`` was last called.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
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
    StoreUnavailableError,
    UserAlreadyExistsError,
    UserEmptyError,
    UserNotFoundError,
)
from webhook.rbac.model import ROOT, ROOT_PERMISSION, Group, Permission, Role, User
from webhook.rbac.records import (
    PERMISSION,
    ROLE,
    USER,
    AuthMeta,
    Backend,
    ConflictError,
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
from webhook.rbac.state import State

_MAX_ATTEMPTS: Final = 100


@dataclass(frozen=True, slots=True)
class Change:
    """What an operation has decided: records to write, and the state of auth after them."""

    records: Sequence[Record]
    meta: AuthMeta


class AuthStore:
    """Users, roles, groups and permissions on a backend. Safe for threads."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = Lock()
        self.state = State()
        self.state.apply(*backend.load())

    def close(self) -> None:
        """Let go of the backend."""
        self._backend.close()

    @property
    def enabled(self) -> bool:
        """Whether auth is enabled."""
        return self.state.meta.enabled

    @property
    def revision(self) -> int:
        """The auth revision."""
        return self.state.meta.revision

    def refresh(self) -> None:
        """Take over what other processes have written, if anything.

        Never waits: a thread of ours that is writing takes the news over itself, and what another
        process is writing is news for the next call.
        """
        if self._lock.acquire(blocking=False):
            try:
                if self._backend.has_changed():
                    self._catch_up(wait=False)
            except StoreUnavailableError:
                pass
            finally:
                self._lock.release()

    def enable(self) -> None:
        """Enable auth. Raises RootUserNotExistError or RootRoleNotExistError."""

        def decide(state: State) -> Change | None:
            if state.meta.enabled:
                return None
            root = state.users.get(ROOT)
            if root is None:
                raise RootUserNotExistError
            if not root.has_root_role:
                raise RootRoleNotExistError
            return Change([], AuthMeta(True, state.meta.revision))

        self._change(decide)

    def disable(self) -> None:
        """Disable auth, and drop all simple tokens."""

        def decide(state: State) -> Change | None:
            if not state.meta.enabled:
                return None
            gone = [token_record(digest, None) for digest in state.tokens]
            return _bumped(state, gone, enabled=False)

        self._change(decide)

    def add_user(self, name: str, password_hash: bytes = b"") -> None:
        """Add a user; an empty hash means one without password.

        Raises UserEmptyError or UserAlreadyExistsError.
        """

        def decide(state: State) -> Change:
            if not name:
                raise UserEmptyError
            if name in state.users:
                raise UserAlreadyExistsError
            user = User(name, password_hash, (), state.meta.revision + 1)
            return _bumped(state, [user_record(user)])

        self._change(decide)

    def delete_user(self, name: str) -> None:
        """Delete a user and its tokens. Raises InvalidAuthManagementError or UserNotFoundError."""

        def decide(state: State) -> Change:
            if state.meta.enabled and name == ROOT:
                raise InvalidAuthManagementError
            if name not in state.users:
                raise UserNotFoundError
            gone = Record(USER, text_id(name), None)
            return _bumped(state, [gone, *_without_tokens(state, name)])

        self._change(decide)

    def change_password(self, name: str, password_hash: bytes) -> None:
        """Set a user's password and drop its tokens. Raises UserNotFoundError."""

        def decide(state: State) -> Change:
            user = _user(state, name)
            generation = state.meta.revision + 1
            # A user without password stays one, as in etcd; its tokens go all the same.
            kept = password_hash if user.password_hash else b""
            changed = replace(user, password_hash=kept, generation=generation)
            return _bumped(state, [user_record(changed), *_without_tokens(state, name)])

        self._change(decide)

    def grant_role(self, name: str, role: str) -> None:
        """Give a user a role; one it has already changes nothing.

        Raises UserNotFoundError or RoleNotFoundError.
        """

        def decide(state: State) -> Change | None:
            user = _user(state, name)
            if role != ROOT and role not in state.roles:
                raise RoleNotFoundError
            if role in user.roles:
                return None
            changed = replace(user, roles=tuple(sorted((*user.roles, role), key=text_id)))
            return _bumped(state, [user_record(changed)])

        self._change(decide)

    def revoke_role(self, name: str, role: str) -> None:
        """Take a role from a user.

        Raises InvalidAuthManagementError, UserNotFoundError or RoleNotGrantedError.
        """

        def decide(state: State) -> Change:
            if state.meta.enabled and name == ROOT and role == ROOT:
                raise InvalidAuthManagementError
            user = _user(state, name)
            if role not in user.roles:
                raise RoleNotGrantedError
            changed = replace(user, roles=tuple(r for r in user.roles if r != role))
            return _bumped(state, [user_record(changed)])

        self._change(decide)

    def add_role(self, name: str) -> None:
        """Add a role. Raises RoleEmptyError or RoleAlreadyExistsError."""

        def decide(state: State) -> Change:
            if not name:
                raise RoleEmptyError
            if name in state.roles:
                raise RoleAlreadyExistsError
            return _bumped(state, [role_record(name)])

        self._change(decide)

    def delete_role(self, name: str) -> None:
        """Delete a role and take it from every user and group.

        Raises InvalidAuthManagementError or RoleNotFoundError.
        """

        def decide(state: State) -> Change:
            if state.meta.enabled and name == ROOT:
                raise InvalidAuthManagementError
            role = _role(state, name)
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

        self._change(decide)

    def grant_permission(self, role: str, permission: Permission) -> None:
        """Grant a role a permission; on a range that it has already, the type changes.

        Raises InvalidAuthManagementError for a range that holds no key, or RoleNotFoundError.
        """

        def decide(state: State) -> Change:
            if not permission.is_valid:
                raise InvalidAuthManagementError
            _role(state, role)
            return _bumped(state, [permission_record(role, permission)])

        self._change(decide)

    def revoke_permission(self, role: str, key: bytes, range_end: bytes) -> None:
        """Take exactly that range from a role.

        Raises RoleNotFoundError or PermissionNotGrantedError.
        """

        def decide(state: State) -> Change:
            granted = _role(state, role).permissions
            if not any(p.key == key and p.range_end == range_end for p in granted):
                raise PermissionNotGrantedError
            return _bumped(state, [Record(PERMISSION, permission_id(role, key, range_end), None)])

        self._change(decide)

    def grant_group_role(self, group: str, role: str) -> None:
        """Give the members of a group a role. Raises UserEmptyError or RoleNotFoundError."""

        def decide(state: State) -> Change | None:
            if not group:
                raise UserEmptyError
            if role != ROOT and role not in state.roles:
                raise RoleNotFoundError
            roles = state.groups.get(group, Group(group)).roles
            if role in roles:
                return None
            changed = Group(group, tuple(sorted((*roles, role), key=text_id)))
            return _bumped(state, [group_record(changed)])

        self._change(decide)

    def revoke_group_role(self, group: str, role: str) -> None:
        """Take a role from a group. Raises RoleNotGrantedError."""

        def decide(state: State) -> Change:
            roles = state.groups.get(group, Group(group)).roles
            if role not in roles:
                raise RoleNotGrantedError
            rest = Group(group, tuple(r for r in roles if r != role))
            return _bumped(state, [group_record(rest)])

        self._change(decide)

    def user(self, name: str) -> User:
        """Return a user. Raises UserNotFoundError."""
        return _user(self.state, name)

    def role(self, name: str) -> Role:
        """Return a role; ``root`` may everything. Raises RoleNotFoundError."""
        role = _role(self.state, name)
        return Role(name, (ROOT_PERMISSION,)) if name == ROOT else role

    def user_names(self) -> list[str]:
        """Return the names of all users in the order of their bytes."""
        return sorted(self.state.users, key=text_id)

    def role_names(self) -> list[str]:
        """Return the names of all roles in the order of their bytes."""
        return sorted(self.state.roles, key=text_id)

    def write_records(self, decide: Callable[[State], Iterable[Record]]) -> None:
        """Write records that are not part of auth itself, such as tokens: no new revision."""

        def change(state: State) -> Change | None:
            records = list(decide(state))
            return Change(records, state.meta) if records else None

        self._change(change)

    def _change(self, decide: Callable[[State], Change | None]) -> None:
        for _ in range(_MAX_ATTEMPTS):
            with self._lock:
                self._catch_up()
                change = decide(self.state)
                if change is None:
                    return
                records = list(change.records)
                if change.meta != self.state.meta:
                    records.append(meta_record(change.meta))
                try:
                    revision = self._backend.commit(self.state.revision, records)
                except ConflictError:
                    continue
                self.state.apply(revision, records)
                return
        raise StoreUnavailableError("other processes change the store all the time; try again")

    def _catch_up(self, *, wait: bool = True) -> None:
        news = self._backend.changes(self.state.revision, wait=wait)
        if news is None:
            fresh = State()
            fresh.apply(*self._backend.load())
            self.state = fresh
        else:
            self.state.apply(*news)


def _user(state: State, name: str) -> User:
    try:
        return state.users[name]
    except KeyError:
        raise UserNotFoundError from None


def _role(state: State, name: str) -> Role:
    try:
        return state.roles[name]
    except KeyError:
        raise RoleNotFoundError from None


def _bumped(state: State, records: Sequence[Record], enabled: bool | None = None) -> Change:
    now_enabled = state.meta.enabled if enabled is None else enabled
    return Change(records, AuthMeta(now_enabled, state.meta.revision + 1))


def _without_tokens(state: State, user: str) -> list[Record]:
    return [token_record(digest, None) for digest in state.tokens_of_user.get(user, ())]
