"""What a store in etcd shares with the rest of its server: its counts, and the other workers."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol


class Peers(Protocol):
    """The other workers of this server, which share the highest revision that any of them knows."""

    def announce(self, revision: int, now: float) -> None:
        """Tell the others of a revision."""

    def is_behind(self, revision: int, proof: float) -> bool:
        """Return whether another worker knows a later revision, since after ``proof``."""


@dataclass(slots=True)
class StoreCounters:
    """What happened since the start of the process; the labels are bounded."""

    commits: Counter[str] = field(default_factory=Counter)
    """By result: committed, conflict, not_written, unknown, too_large, failed."""
    reloads: Counter[str] = field(default_factory=Counter)
    """By ``Reason``."""
    stale_reads: int = 0
    foreign_groups: int = 0
