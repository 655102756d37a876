"""A store whose proofs age by a clock that a test sets, and which changes during an answer."""

from collections.abc import Callable
from math import inf

from tests.memory_backend import MemoryBackend
from webhook.errors import LeewayError
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.basis import Basis
from webhook.rbac.records import Record

MAX_STALENESS = 3.0


class Clock:
    """The seconds of CLOCK_BOOTTIME, as a test has them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class AgingBackend(MemoryBackend):
    """Proves what it has as of ``proof``; loads nothing while there is an ``error``."""

    max_staleness = MAX_STALENESS

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.proof: float | None = None
        self.error: LeewayError | None = None

    def load(self) -> tuple[int, list[Record]]:
        if self.error is not None:
            raise self.error
        return super().load()

    def problem(self) -> str:
        return ""

    def proven(self, _revision: int) -> float:
        """Return ``proof``; None is now."""
        return self.clock.now if self.proof is None else self.proof


class AgingStore(AuthStore):
    """Calls ``in_between`` after each basis that is taken, with the number of those before it."""

    def __init__(self, backend: AgingBackend) -> None:
        super().__init__(backend, backend.clock)
        self.clock = backend.clock
        self.aging = backend
        self.taken = 0
        self.in_between: Callable[[int], None] = lambda _number: None

    def basis(self, since: float = -inf) -> Basis:
        basis = super().basis(since)
        number, self.taken = self.taken, self.taken + 1
        self.in_between(number)
        return basis

    def refresh(self) -> None:
        """Refresh as a store without anything in between."""
        super().basis()
