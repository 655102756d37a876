"""Users, roles, permissions, tokens and revocations on a backend, as etcd's AuthStore.

Invariants:

1. A change is one transaction of the backend, decided on the revision that it is written on. If
   another process writes first, the change is decided again.
2. When ``change`` returns, the change is stored.
3. ``state`` contains everything that this process has written, and everything that others had
   written when ``refresh`` last returned.

Source: etcd ``server/auth/store.go`` (v3.6).
"""

from collections.abc import Callable, Iterable
from threading import Lock, local
from typing import Concatenate, Final, ParamSpec

from keys.messages import utc
from webhook.rbac import changes
from webhook.rbac.errors import StoreError, StoreLockedError, StoreUnavailableError
from webhook.rbac.lots import Lots
from webhook.rbac.model import ROOT, ROOT_PERMISSION, Role, User
from webhook.rbac.records import (
    Backend,
    ConflictError,
    Record,
    ReplacedError,
    text_id,
)
from webhook.rbac.state import AuthState
from webhook.token.claims import Claims

_MAX_ATTEMPTS: Final = 100
_P = ParamSpec("_P")


class AuthStore:
    """Users, roles, groups and permissions on a backend. Safe for threads."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = Lock()
        self._own = local()
        self.on_replaced: Callable[[AuthState, AuthState], None] = lambda _before, _after: None
        """Called with the states before and after the store was replaced; must not raise."""
        self.state = AuthState()
        self.state.apply(*backend.load())
        backend.applied()

    def close(self) -> None:
        """Close the backend."""
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
    def max_records(self) -> int | None:
        """The largest number of records in one transaction; None if there is no limit."""
        return self._backend.max_records

    @property
    def is_shared(self) -> bool:
        """Whether replicas with clocks of their own share the store."""
        return self._backend.max_records is not None

    @property
    def clock_difference(self) -> float:
        """By how many seconds the wall clock of another writer is ahead of this one's."""
        return self._backend.clock_difference

    @property
    def own_revision(self) -> int:
        """The auth revision right after the last change of this thread."""
        revision: int = self._own.revision
        return revision

    def refresh(self) -> None:
        """Apply every commit that has ended, of any process. Never waits.

        Raises StoreUnavailableError or StoreError if there may be commits that cannot be read: then
        ``state`` must not be used. It is StoreLockedError if that may pass with a commit of another
        process or of another thread.
        """
        if self._backend.unread() and not self._has_caught_up():
            raise StoreLockedError(
                "the store has changes that another process keeps locked; end what locks it"
            )

    def _has_caught_up(self) -> bool:
        unread = self._backend.unread()
        if self._lock.acquire(blocking=False):
            try:
                self._catch_up(wait=False)
                return True
            except StoreLockedError:
                return not self._backend.misses_commit()
            finally:
                self._lock.release()
        # A thread of this process that writes has applied all commits before its own.
        return self._backend.is_writing or not unread or not self._backend.misses_commit()

    def find_revocation(self, claims: Claims) -> str:
        """Return why a token is revoked, empty where it is not. Never waits.

        A token is revoked by the ``jti`` and ``sub`` of its verified claims, never by its bytes: in
        another encoding it is the same token.

        A revocation applies while it is stored, even after its ``until``: the clock may have been
        wrong when that was written (invariant 3 of ``revocations.py``).
        """
        state = self.state
        revocation = state.revoked_jtis.get(claims.jti)
        if revocation is not None:
            return f"jti {claims.jti} was revoked at {utc(revocation.before)}"
        revocation = state.revoked_subjects.get(claims.subject)
        if revocation is None:
            return ""
        issued = claims.issued_at
        if issued is None:
            return f"it has no iat, and the tokens of {claims.subject} were revoked"
        # Tokens of that very second too: which came first within it is not known.
        if issued <= revocation.before:
            return (
                f"the tokens of {claims.subject} issued up to {utc(revocation.before)} were "
                f"revoked, this one is of {utc(issued)}"
            )
        return ""

    def change(
        self,
        decide: Callable[Concatenate[AuthState, _P], Iterable[Record]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> None:
        """Write the records that ``decide(state, *args, **kwargs)`` returns.

        ``decide`` is a function of ``changes``, ``revocations`` or ``auth_tokens``, or one that
        returns the records of an ``ImportPlan``. It is called again where another process writes
        first, and after each but the last of several ``Lots``. If it returns no records, nothing
        changes.

        Raises what ``decide`` raises, StoreUnavailableError and StoreError.
        """
        attempts = 0
        while attempts < _MAX_ATTEMPTS:
            attempts += 1
            with self._lock:
                self._catch_up()
                decided = decide(self.state, *args, **kwargs)
                records, is_last = list(decided), True
                if isinstance(decided, Lots):
                    records, is_last = decided.next(self._backend.max_records)
                if records:
                    try:
                        # Invariant 1: a conflict where the revision is not that of the state.
                        revision = self._backend.commit(self.state.revision, records)
                    except ConflictError:
                        continue
                    self.state.apply(revision, records)
                    self._backend.applied()
                if is_last:
                    # Invariant 2: ``commit`` has returned.
                    self._own.revision = self.revision
                    return
            attempts = 0
        raise StoreUnavailableError("other processes change the store all the time; try again")

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

    def _catch_up(self, *, wait: bool = True) -> None:
        is_replaced = False
        try:
            changed = self._backend.changes(self.state.revision, wait=wait)
        except ReplacedError:
            changed, is_replaced = None, True
        if changed is None:
            self._load(*self._backend.load(wait=wait), is_replaced=is_replaced)
        else:
            self.state.apply(*changed)
        # Last, because other threads use the state as soon as nothing is unread.
        self._backend.applied()

    def _load(self, revision: int, records: Iterable[Record], *, is_replaced: bool) -> None:
        if not revision and self.state.revision:
            raise StoreError(
                "the store was replaced by one in which nothing was ever written; restore it from "
                "a backup"
            )
        fresh = AuthState()
        fresh.apply(revision, records)
        if is_replaced:
            self.on_replaced(self.state, fresh)
        self.state = fresh
