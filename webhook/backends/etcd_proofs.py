"""As of when a state lacks nothing acknowledged. Pure; times are seconds of CLOCK_BOOTTIME.

Invariants:

1. A proof ``(revision, sent)`` is a request sent at ``sent`` that etcd answered linearizably with
   the commit of that revision: a state with that commit lacks nothing acknowledged before ``sent``.
2. A read of a commit that has not arrived is a proof only once it has.
"""

from collections import deque
from collections.abc import Iterator
from math import inf
from typing import Final

from webhook.backends.etcd_head import CommitId

NOTHING: Final = (0, -inf)
"""No proof."""
_KEPT: Final = 256


class Proofs:
    """The proofs of one history."""

    def __init__(self) -> None:
        self._proofs: deque[tuple[int, float]] = deque(maxlen=_KEPT)
        self._pending: deque[tuple[float, CommitId]] = deque(maxlen=_KEPT)

    @property
    def newest(self) -> tuple[int, float]:
        """The newest proof."""
        return self._proofs[-1] if self._proofs else NOTHING

    def at(self, revision: int) -> float:
        """Return as of when a state with the commit of ``revision`` lacks nothing."""
        return next((sent for found, sent in reversed(self._proofs) if found <= revision), -inf)

    def add(self, sent: float, revision: int) -> None:
        """Take over a proof (invariant 1); one that says less than the newest is dropped."""
        last_revision, last_sent = self.newest
        if revision < last_revision or sent <= last_sent:
            return
        if revision == last_revision:
            self._proofs.pop()
        self._proofs.append((revision, sent))

    def expect(self, sent: float, commit: CommitId) -> None:
        """Take over a read of a commit that has not arrived (invariant 2)."""
        self._pending.append((sent, commit))

    def arrived(self, revision: int) -> Iterator[tuple[float, CommitId]]:
        """Remove and return the reads of commits up to a revision."""
        while self._pending and self._pending[0][1].revision <= revision:
            yield self._pending.popleft()
