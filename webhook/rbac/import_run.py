"""Applies an import: exactly the differences that were shown, or it stops.

Invariants:

1. Each transaction is decided on the state that it is written to. Where that is not the state of
   the plan, a plan is made again, and its differences must be those that are left.
2. A transaction that cannot be written is found out before the first one is.
"""

from collections.abc import Iterator
from typing import Final, Protocol

from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreChangedError
from webhook.rbac.import_plan import Difference, ImportPlan
from webhook.rbac.records import Record
from webhook.rbac.state import AuthState

_COMPARED: Final = (
    "meta", "lifetime", "users", "roles", "groups", "revoked_jtis", "revoked_subjects",
    "tokens_of_user",
)  # fmt: skip
"""What a plan depends on. Uses of tokens and signing keys change nothing in it."""


class MakePlan(Protocol):
    """Returns the plan for a state; ``is_first`` before the first transaction."""

    def __call__(self, state: AuthState, *, is_first: bool) -> ImportPlan:
        """Return the plan."""


class ImportRun:
    """The import of a document into a store.

    ``plan`` is for the state that the store was in, and ``now`` the one for the state that stopped
    the import, if any did. With ``at``, the store must be at that revision.
    """

    def __init__(self, store: AuthStore, make_plan: MakePlan, at: int | None = None) -> None:
        """Make the plan. Raises what ``make_plan`` raises, StoreChangedError and TooLargeError."""
        self._store = store
        self._make_plan = make_plan
        self._at = at
        self._expected = store.state.copy()
        self._require_revision(self._expected)
        self.plan = make_plan(self._expected, is_first=True)
        self.now: ImportPlan | None = None
        self.removed = 0
        """How many differences are gone."""
        self.transactions = self.plan.transactions(store.max_records)  # Invariant 2.
        self._left = self.transactions
        self._revisions = self.plan.revisions

    def apply(self) -> Iterator[list[tuple[Difference, int]]]:
        """Write one transaction after the other, and yield what each has removed.

        Each difference comes with the auth revision after its change. Raises StoreChangedError if
        the differences are no longer those of the plan, and what ``AuthStore.change`` raises.
        """
        while self._left:
            self._store.change(self._decide)
            written, *self._left = self._left
            self._expected.apply(self._expected.revision, written.records)
            first = self.removed
            self.removed += written.removed
            removed = self.plan.differences[first : self.removed]
            yield list(zip(removed, self._revisions, strict=False))
            self._revisions = self._revisions[written.removed :]

    def _decide(self, state: AuthState) -> list[Record]:
        if self._left is self.transactions:
            self._require_revision(state)
        if not all(getattr(state, of) == getattr(self._expected, of) for of in _COMPARED):
            self._plan_again(state)
        return self._left[0].records

    def _plan_again(self, state: AuthState) -> None:
        found = self._make_plan(state, is_first=self._left is self.transactions)
        # Invariant 1.
        if found.differences != self.plan.differences[self.removed :]:
            self.now = found
            raise StoreChangedError(
                f"the store was changed meanwhile and is at revision {state.revision}, where the "
                f"differences are not those printed, so {self._made()}; run the command again"
            )
        left = found.transactions(self._store.max_records)
        if self._left is self.transactions:
            self.transactions = left
        self._left, self._revisions = left, found.revisions
        self._expected = state.copy()

    def _made(self) -> str:
        if self._left is self.transactions:
            return "nothing was changed"
        return f"only the first {self.removed} of {len(self.plan.differences)} changes were made"

    def _require_revision(self, state: AuthState) -> None:
        if self._at is not None and state.revision != self._at:
            raise StoreChangedError(
                f"the store is at revision {state.revision}, not {self._at}, so nothing was "
                "changed; look at the differences again with --dry-run"
            )
