"""The state of a store: refreshed by an event loop, loaded and caught up with by threads.

Invariants:

1. When ``basis`` returns, its state contains everything that this process has written, and what
   others had been told is written as of the basis's proof. ``confirm`` says at the end of an answer
   whether that is still true of what the answer rests on.
2. A state that could not be applied wholly is never used again, and there is no state before the
   first load: nothing stands for a store that was not read.
3. Two locks. ``_change_lock`` lets one thread at a time change or load, and is held while that
   waits for the backend; ``basis`` never takes it. ``_apply_lock`` guards what decides against what
   applies, and is never held while anything is waited for; ``basis`` only tries it. So the event
   loop waits for neither, and answers while a commit hesitates.
4. Nothing is applied while everything is loaded. What a backend returned is applied only to the
   state and at the revision that it was asked for.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import inf
from threading import Event, Lock, Thread
from typing import Final, Self, TypeVar

from webhook.rbac.basis import Basis
from webhook.rbac.errors import StoreError, StoreLockedError, StoreStaleError
from webhook.rbac.records import Backend, BasisLostError, Record, ReplacedError
from webhook.rbac.state import AuthState

_TURN_SECONDS: Final = 10.0
_AFTER_FAILED_LOAD_SECONDS: Final = 0.1
_T = TypeVar("_T")


class StateFollower:
    """The state of what a backend stores. Safe for threads.

    ``clock`` returns the seconds of CLOCK_BOOTTIME, by which proofs age. Without one, no proof
    that ages is ever young enough.
    """

    def __init__(self, backend: Backend, clock: Callable[[], float] = lambda: inf) -> None:
        self._backend = backend
        self._clock = clock
        # Invariant 3.
        self._change_lock = Lock()
        self._apply_lock = Lock()
        self.on_replaced: Callable[[AuthState, AuthState], None] = lambda _before, _after: None
        """Called with the states before and after the store was replaced; must not raise."""
        self.run_apply: Callable[[Callable[[], None]], None] = lambda apply: apply()
        """Calls a function that applies, and returns when that has returned.

        A server sets it to do so on its event loop: then an answer that is made without awaiting
        anything sees one state.
        """
        # Both are None before the first load and after a failed apply (invariant 2).
        self._state: AuthState | None = None
        self._basis: Basis | None = None
        self._is_loading = False
        self._loader: Thread | None = None
        # Of the last load, and of the one before while another is under way.
        self._load_error: Exception | None = None
        self._earlier_error: Exception | None = None
        self._closing = Event()

    @classmethod
    def loaded(cls, backend: Backend, clock: Callable[[], float] = lambda: inf) -> Self:
        """Return a store that is loaded. Raises what ``load`` raises, and closes the backend."""
        store = cls(backend, clock)
        try:
            store.load()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close the backend."""
        self._closing.set()
        self._backend.close()

    @property
    def state(self) -> AuthState:
        """The state in use.

        Raises the error of the last load, or StoreLockedError, where nothing was loaded yet.
        """
        state = self._state
        if state is None:
            raise self._why_not()
        return state

    @property
    def backend(self) -> Backend:
        """The backend, for what only one kind of store has."""
        return self._backend

    def now(self) -> float:
        """Return the moment of the clock by which proofs age (``basis``)."""
        return self._clock()

    @property
    def position(self) -> str:
        """The position of the state in the history of the store, as an opaque text."""
        return self._backend.position()

    def reaches(self, position: str) -> bool:
        """Return whether the state contains what had been written at a position. Never waits.

        Raises ForeignPositionError for one of another store, or of a history that is gone.
        """
        return self._backend.reaches(position)

    def load(self) -> None:
        """Read everything. Waits for the backend; never on an event loop.

        Raises StoreUnavailableError and StoreError.
        """
        with self._turn():
            self._load(is_replaced=False)

    def refresh(self) -> None:
        """Apply every commit that is here, of any process. Never waits.

        If everything has to be read again, a thread does that, and meanwhile this raises
        StoreLockedError, which will pass, or the error of the last attempt.

        Raises StoreUnavailableError or StoreError if there may be commits that cannot be read, and
        StoreStaleError if what is here is not proven to be young enough: then ``state`` must not be
        used. It is StoreLockedError if that may pass with a commit of another process or thread.
        """
        self.basis()

    def basis(self, since: float = -inf) -> Basis:
        """Refresh as ``refresh`` does, and return what an answer rests on.

        With ``since``, a moment of the clock, nothing may be missing that anybody was told is
        written before it: StoreLockedError until the proof reaches it.
        """
        basis = self._basis
        if basis is None or self._backend.unread():
            basis = self._where_applied(self._catch_up_at_once)
        return basis if basis.proof == inf else self._proven(basis, since)

    def confirm(self, basis: Basis) -> None:
        """Check that an answer which rests on a basis may be given now (invariant 1).

        Raises BasisLostError unless its proof is young enough, or nothing has changed since and the
        proof of that is.
        """
        if basis.proof == inf or self._clock() - basis.proof <= self._backend.max_staleness:
            return
        state, revision = basis.state, basis.revision
        if self._state is not state or state.revision != revision:
            raise BasisLostError
        proof = self._backend.proven(revision)
        if not self._clock() - proof <= self._backend.max_staleness:
            raise BasisLostError

    def confirm_unchanged(self, basis: Basis) -> None:
        """Check it for an answer made beside the event loop, which may have seen two states.

        Raises BasisLostError also if anything was applied since the basis was taken.
        """
        self.confirm(basis)
        with basis.state.lock:  # Otherwise one that is being applied is not seen.
            if self._state is not basis.state or basis.state.revision != basis.revision:
                raise BasisLostError

    def _why_not(self) -> Exception:
        if self._load_error is not None:
            return self._load_error.with_traceback(None)
        return self._locked()

    def _proven(self, basis: Basis, since: float) -> Basis:
        proof = self._backend.proven(basis.revision)
        age = self._clock() - proof
        if not age <= self._backend.max_staleness:
            problem = self._backend.problem()
            raise StoreStaleError(
                f"what is here of the store at {self._backend.place} "
                + (f"was complete {age:.1f} s ago" if age < inf else "was never complete")
                + f", and at most {self._backend.max_staleness:g} s are allowed; "
                + (problem or "see whether it can be reached")
            )
        if proof < since:
            self._backend.wanted()
            raise StoreLockedError(
                f"it is not known yet whether the store at {self._backend.place} has changed; "
                "try again"
            )
        return Basis(basis.state, basis.revision, proof)

    # What an event loop calls: it never waits.

    def _catch_up_at_once(self) -> Basis:
        """Apply what is here. Raises StoreLockedError, or why there is nothing to answer from."""
        if not self._apply_lock.acquire(blocking=False):
            raise self._why_not()
        is_replaced = False
        try:
            state = self._state
            if self._is_loading:
                raise self._why_not()
            if state is not None:
                try:
                    basis = self._apply_what_is_here(state)
                except ReplacedError:
                    basis, is_replaced = None, True
                if basis is not None:
                    return basis
        finally:
            self._apply_lock.release()
        self._load_beside(state, is_replaced=is_replaced)
        raise self._why_not()

    def _locked(self) -> StoreLockedError:
        earlier = self._earlier_error
        why = "" if earlier is None else f"; before that: {earlier}"
        locked = StoreLockedError(
            f"the store at {self._backend.place} is being read; try again{why}"
        )
        # For what says more than whether to wait: it is not good before it has been read.
        locked.__cause__ = None if earlier is None else earlier.with_traceback(None)
        return locked

    def _load_beside(self, state: AuthState | None, *, is_replaced: bool) -> None:
        if self._loader is None or not self._loader.is_alive():
            # What is there now may be another store: the last error says nothing of it.
            self._earlier_error, self._load_error = self._load_error, None
            load = partial(self._load_instead, state, is_replaced=is_replaced)
            self._loader = Thread(target=load, name="store loader", daemon=True)
            self._loader.start()

    def _load_instead(self, state: AuthState | None, *, is_replaced: bool) -> None:
        try:
            with self._turn():
                if self._state is state:
                    self._load(is_replaced=is_replaced)
        except Exception as error:
            self._load_error = error
            self._closing.wait(_AFTER_FAILED_LOAD_SECONDS)

    # What threads call that may wait.

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._change_lock.acquire(timeout=_TURN_SECONDS):
            raise StoreLockedError(
                f"other changes of the store at {self._backend.place} have taken more than "
                f"{_TURN_SECONDS:g} s; try again"
            )
        try:
            yield
        finally:
            self._change_lock.release()

    def _catch_up(self) -> AuthState:
        """Return the state once it has everything that was acknowledged before this call."""
        while (state := self._state) is not None:
            after = state.revision
            try:
                found = self._backend.changes(after)
            except ReplacedError:
                return self._load(is_replaced=True)
            if found is None:
                break
            if found[0] == after and not self._backend.unread():
                return state
            if self._apply_from_thread(partial(self._apply_up_to, state, after, *found)):
                return state
        return self._load(is_replaced=False)

    def _apply_up_to(
        self, state: AuthState, after: int, revision: int, records: Sequence[Record]
    ) -> bool:
        """Apply what was found, and return whether the state has reached it."""
        if self._state is not state:
            return False
        if state.revision == after:
            self._apply(state, revision, records)
        elif state.revision < revision:
            # The event loop applied a part of it meanwhile; the rest is here.
            try:
                rest = self._backend.changes(state.revision, wait=False)
            except (ReplacedError, StoreLockedError):
                return False
            if rest is not None:
                self._apply(state, *rest)
        return state.revision >= revision

    def _load(self, *, is_replaced: bool) -> AuthState:
        with self._apply_lock:
            self._is_loading = True  # Invariant 4.
        try:
            revision, records = self._backend.load()
            before = self._state
            if before is not None and before.revision and not revision:
                raise StoreError(
                    "the store was replaced by one in which nothing was ever written; restore it "
                    "from a backup"
                )
            fresh = AuthState()
            fresh.apply(revision, records)
            if is_replaced and before is not None:
                self.on_replaced(before, fresh)
            self._apply_from_thread(partial(self._swap, fresh))
            return fresh
        except Exception as error:
            self._load_error = error
            raise
        finally:
            self._is_loading = False

    def _apply_from_thread(self, apply: Callable[[], _T]) -> _T:
        """Call ``apply`` with the lock; the caller has its turn, so that nobody is deciding."""

        def locked() -> _T:
            with self._apply_lock:
                return apply()

        return self._where_applied(locked)

    def _where_applied(self, function: Callable[[], _T]) -> _T:
        """Call a function by ``run_apply``, and return what it returns."""
        results: list[_T] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                results.append(function())
            except Exception as error:
                errors.append(error)

        self.run_apply(run)
        if errors:
            raise errors.pop()
        return results[0]

    # What is called with ``_apply_lock``.

    def _apply_what_is_here(self, state: AuthState) -> Basis | None:
        """Return a basis that misses nothing which is known here, None to load everything."""
        while True:
            after = state.revision
            found = self._backend.changes(after, wait=False)
            if found is None:
                return None
            basis = self._apply(state, *found)
            # Otherwise it may be behind what another worker knows: then the next look says so.
            if found[0] == after or not self._backend.unread():
                return basis

    def _apply(self, state: AuthState, revision: int, records: Sequence[Record]) -> Basis:
        try:
            state.apply(revision, records)
        except BaseException:
            self._forget(state)
            raise
        return self._use(state)

    def _swap(self, state: AuthState) -> None:
        self._state, self._is_loading = state, False
        self._use(state)

    def _use(self, state: AuthState) -> Basis:
        revision, self._load_error, self._earlier_error = state.revision, None, None
        self._backend.applied(revision)
        basis = self._basis = Basis(state, revision, self._backend.proven(revision))
        return basis

    def _forget(self, state: AuthState) -> None:
        if self._state is state:  # Invariant 2.
            self._state = self._basis = None
