"""etcd's AuthStore: users, roles and permissions, and every change of them.

Source: etcd ``server/auth/store.go`` (v3.6). What each change writes is decided in ``changes.py``.

Invariants:

1. A change is one transaction of the backend: what is decided holds for the revision that it is
   written on, else it is decided again.
2. What a method has returned is written down.
3. Each change adds 1 to the auth revision; enabling auth, and what changes nothing, do not.
4. A question is answered from memory, from everything that this process has written and everything
   that others had written when ``refresh`` last returned.
"""

from collections.abc import Callable, Iterable
from threading import Lock, local
from typing import Final

from webhook.rbac import changes, revoking
from webhook.rbac.errors import StoreError, StoreLockedError, StoreUnavailableError
from webhook.rbac.model import ROOT, ROOT_PERMISSION, Permission, Role, User
from webhook.rbac.records import (
    Backend,
    ConflictError,
    Record,
    ReplacedError,
    meta_record,
    text_id,
)
from webhook.rbac.revoking import Lifetimes
from webhook.rbac.state import State

_MAX_ATTEMPTS: Final = 100


class AuthStore:
    """Users, roles, groups and permissions on a backend. Safe for threads."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = Lock()
        self._own = local()
        self.on_replaced: Callable[[State, State], None] = lambda _before, _after: None
        """Called with the state before and after where the store was replaced; never raises."""
        self.state = State()
        self.state.apply(*backend.load())
        backend.applied()

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

    @property
    def own_revision(self) -> int:
        """The auth revision that the last change of this thread led to, before any later one."""
        revision: int = self._own.revision
        return revision

    def refresh(self) -> None:
        """Take over everything that anybody has been told is written.

        What is being written is news for a later call. Never waits.

        Raises StoreUnavailableError or StoreError where there may be news that cannot be read:
        then nothing may be answered from what was known before. It is StoreLockedError where a
        commit of another process, or a thread of ours, may be what they wait for.
        """
        if self._backend.unread() and not self._has_taken_over_news():
            raise StoreLockedError(
                "the store has changes that another process keeps locked; end what locks it"
            )

    def _has_taken_over_news(self) -> bool:
        unread = self._backend.unread()
        if self._lock.acquire(blocking=False):
            try:
                self._catch_up(wait=False)
                return True
            except StoreLockedError:
                return not self._backend.misses_commit()
            finally:
                self._lock.release()
        # All that there was before what a thread of ours writes is here.
        return self._backend.is_writing or not unread or not self._backend.misses_commit()

    def enable(self) -> None:
        """Enable auth. Raises RootUserNotExistError or RootRoleNotExistError."""
        self._change(changes.enable)

    def disable(self) -> None:
        """Disable auth, and drop all simple tokens."""
        self._change(changes.disable)

    def add_user(self, name: str, password_hash: bytes = b"") -> None:
        """Add a user; an empty hash means one without password.

        Raises UserEmptyError or UserAlreadyExistsError.
        """
        self._change(lambda state: changes.add_user(state, name, password_hash))

    def delete_user(self, name: str) -> None:
        """Delete a user and its tokens. Raises InvalidAuthManagementError or UserNotFoundError."""
        self._change(lambda state: changes.delete_user(state, name))

    def change_password(self, name: str, password_hash: bytes) -> None:
        """Set a user's password and drop its tokens. Raises UserNotFoundError."""
        self._change(lambda state: changes.change_password(state, name, password_hash))

    def grant_role(self, name: str, role: str) -> None:
        """Give a user a role; one it has already changes nothing.

        Raises UserNotFoundError or RoleNotFoundError.
        """
        self._change(lambda state: changes.grant_role(state, name, role))

    def revoke_role(self, name: str, role: str) -> None:
        """Take a role from a user.

        Raises InvalidAuthManagementError, UserNotFoundError or RoleNotGrantedError.
        """
        self._change(lambda state: changes.revoke_role(state, name, role))

    def add_role(self, name: str) -> None:
        """Add a role. Raises RoleEmptyError or RoleAlreadyExistsError."""
        self._change(lambda state: changes.add_role(state, name))

    def delete_role(self, name: str) -> None:
        """Delete a role and take it from every user and group.

        Raises InvalidAuthManagementError or RoleNotFoundError.
        """
        self._change(lambda state: changes.delete_role(state, name))

    def grant_permission(self, role: str, permission: Permission) -> None:
        """Grant a role a permission; on a range that it has already, the type changes.

        Raises InvalidAuthManagementError for a range that holds no key, or RoleNotFoundError.
        """
        self._change(lambda state: changes.grant_permission(state, role, permission))

    def revoke_permission(self, role: str, key: bytes, range_end: bytes) -> None:
        """Take exactly that range from a role.

        Raises RoleNotFoundError or PermissionNotGrantedError.
        """
        self._change(lambda state: changes.revoke_permission(state, role, key, range_end))

    def grant_group_role(self, group: str, role: str) -> None:
        """Give the members of a group a role. Raises UserEmptyError or RoleNotFoundError."""
        self._change(lambda state: changes.grant_group_role(state, group, role))

    def revoke_group_role(self, group: str, role: str) -> None:
        """Take a role from a group. Raises RoleNotGrantedError."""
        self._change(lambda state: changes.revoke_group_role(state, group, role))

    def revoke_jti(self, jti: str, lifetimes: Lifetimes, now: float) -> None:
        """Revoke the token with a ``jti``; ``now`` is in Unix seconds."""
        self._change(lambda state: revoking.revoke_jti(state, jti, lifetimes, now))

    def revoke_subject(
        self, subject: str, lifetimes: Lifetimes, now: float, *, is_account: bool
    ) -> None:
        """Revoke every token of a subject issued up to ``now`` (Unix seconds).

        By a signer whose clock may be ahead by as much as ``lifetimes`` has it.

        Those of the service account that it is the user name of, where ``is_account`` says so, and
        the auth tokens of the user of that name. Raises UserNotFoundError for neither.
        """
        self._change(
            lambda state: revoking.revoke_subject(
                state, subject, lifetimes, now, is_account=is_account
            )
        )

    def tidy_revocations(self, lifetimes: Lifetimes, now: float) -> None:
        """Note how long tokens live from ``now`` (Unix seconds) on, and forget what is over.

        To be called with the settings of a server that starts.
        """
        self._change(lambda state: revoking.tidy(state, lifetimes, now))

    def user(self, name: str) -> User:
        """Return a user. Raises UserNotFoundError."""
        return changes.user_of(self.state, name)

    def role(self, name: str) -> Role:
        """Return a role; ``root`` is allowed to do anything. Raises RoleNotFoundError."""
        role = changes.role_of(self.state, name)
        return Role(name, (ROOT_PERMISSION,)) if name == ROOT else role

    def user_names(self) -> list[str]:
        """Return the names of all users in the order of their bytes."""
        return sorted(self.state.users, key=text_id)

    def role_names(self) -> list[str]:
        """Return the names of all roles in the order of their bytes."""
        return sorted(self.state.roles, key=text_id)

    def write_records(self, decide: Callable[[State], Iterable[Record]]) -> None:
        """Write records that are not part of auth itself, such as tokens: no new revision."""

        def change(state: State) -> changes.Change | None:
            records = list(decide(state))
            return changes.Change(records, state.meta) if records else None

        self._change(change)

    def _change(self, decide: Callable[[State], changes.Change | None]) -> None:
        for _ in range(_MAX_ATTEMPTS):
            with self._lock:
                self._catch_up()
                change = decide(self.state)
                if change is None:
                    self._own.revision = self.revision
                    return
                records = list(change.records)
                if change.meta != self.state.meta:
                    records.append(meta_record(change.meta))
                try:
                    revision = self._backend.commit(self.state.revision, records)
                except ConflictError:
                    continue
                self.state.apply(revision, records)
                self._backend.applied()
                self._own.revision = self.revision
                return
        raise StoreUnavailableError("other processes change the store all the time; try again")

    def _catch_up(self, *, wait: bool = True) -> None:
        is_replaced = False
        try:
            news = self._backend.changes(self.state.revision, wait=wait)
        except ReplacedError:
            news, is_replaced = None, True
        if news is None:
            self._take_over_all(*self._backend.load(wait=wait), is_replaced=is_replaced)
        else:
            self.state.apply(*news)
        # Not before: other threads answer from the state as soon as nothing is unread.
        self._backend.applied()

    def _take_over_all(
        self, revision: int, records: Iterable[Record], *, is_replaced: bool
    ) -> None:
        if not revision and self.state.revision:
            raise StoreError(
                "the store was replaced by one in which nothing was ever written; restore it from "
                "a backup"
            )
        fresh = State()
        fresh.apply(revision, records)
        if is_replaced:
            self.on_replaced(self.state, fresh)
        self.state = fresh
