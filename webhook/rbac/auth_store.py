"""Users, roles, permissions, tokens and revocations on a backend, as etcd's AuthStore.

Invariants:

1. A change is one transaction of the backend, decided on the revision that it is written on. If
   another process writes first, the change is decided again.
2. When ``change`` returns, the change is stored, and its state had everything that anybody was told
   is written before the call. So it is where ``decide`` returns nothing or raises: that is an
   answer, too.
3. ``state`` contains everything that this process has written, and what others had been told is
   written as of the proof of the last ``basis``. Nothing is applied where it is not known whether a
   change was made; the feed tells.

Source: etcd ``server/auth/store.go`` (v3.6).
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from math import inf
from threading import local
from typing import Concatenate, Final, ParamSpec

from webhook.rbac import changes
from webhook.rbac.batches import Batches
from webhook.rbac.errors import StoreUnavailableError
from webhook.rbac.model import ROOT, ROOT_PERMISSION, Role, User
from webhook.rbac.records import (
    META,
    AuthMeta,
    Backend,
    ConflictError,
    Record,
    read_value,
    text_id,
)
from webhook.rbac.state import AuthState
from webhook.rbac.state_follower import StateFollower
from webhook.token.claims import Claims

_MAX_ATTEMPTS: Final = 100
_P = ParamSpec("_P")


class AuthStore(StateFollower):
    """Users, roles, groups and permissions on a backend. Safe for threads."""

    def __init__(self, backend: Backend, clock: Callable[[], float] = lambda: inf) -> None:
        super().__init__(backend, clock)
        self._own = local()

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

    def find_revocation(self, claims: Claims) -> str:
        """Return why a token is revoked, empty where it is not, as ``AuthState`` does."""
        return self.state.find_revocation(claims)

    def change(
        self,
        decide: Callable[Concatenate[AuthState, _P], Iterable[Record]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> None:
        """Write the records that ``decide(state, *args, **kwargs)`` returns.

        ``decide`` is a function of ``changes``, ``revocations`` or ``simple_tokens``, or one that
        returns the records of an import. It is called again where another process writes first, and
        after each but the last of several ``Batches``. If it returns no records, nothing changes.

        Raises what ``decide`` and the backend raise: StoreUnavailableError, StoreError,
        TooLargeError if the records do not fit into one transaction, and OutcomeUnknownError if it
        is not known whether the change was made.
        """
        attempts = 0
        while attempts < _MAX_ATTEMPTS:
            attempts += 1
            with self._turn():
                state = self._catch_up()
                with self._apply_lock:
                    if self._state is not state:
                        continue
                    expected, auth_revision = state.revision, state.meta.revision
                    decided = decide(state, *args, **kwargs)
                    records, is_last = list(decided), True
                if isinstance(decided, Batches):
                    records, is_last = decided.next(self.max_records)
                if records:
                    try:
                        # Invariant 1: a conflict where the revision is not that of the state.
                        revision = self._backend.commit(expected, records)
                    except ConflictError:
                        continue
                    self._apply_own(state, expected, revision, records)
                if is_last:
                    # Invariant 2: ``commit`` has returned.
                    self._own.revision = _auth_revision_in(records) or auth_revision
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

    def _apply_own(
        self, state: AuthState, expected: int, revision: int, records: Sequence[Record]
    ) -> None:
        def apply() -> None:
            # Otherwise a later commit may be in it already, and this would take it back; the
            # feed had ours first.
            if self._state is state and state.revision == expected:
                self._apply(state, revision, records)

        # The change is made. If it is not applied here, the next ``basis`` does, or says why not.
        with suppress(Exception):
            self._apply_from_thread(apply)


def _auth_revision_in(records: Iterable[Record]) -> int:
    """Return the auth revision that a change writes last, 0 if it writes none."""
    written = [record.value for record in records if record.kind == META and record.value]
    return read_value(written[-1], AuthMeta).revision if written else 0
