"""A recorded history of a store in etcd: its log, the changes and the answers of its clients.

All times are the driver's CLOCK_MONOTONIC in seconds: ``inv`` before the first byte was sent,
``resp`` when the last byte had come, infinite where no answer came. The log is what an observer
that is no replica has seen: each group is one transaction, in their order.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Protocol

import msgspec

from webhook.rbac.records import Record
from webhook.rbac.state import AuthState

RecordKey = tuple[str, bytes]
Told = tuple[object, ...]
"""What an answer says, in the words of the request that it answers."""


class Outcome(Enum):
    """What a client knows of its change."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    """Decided otherwise, as "user not found": nothing was written. ``error`` is the text."""
    NOT_WRITTEN = "not written"
    """Something failed, and it was said that nothing was written."""
    UNKNOWN = "unknown"
    """It was said that nobody knows, or nothing was said."""


@dataclass(frozen=True, slots=True)
class Group:
    """One transaction of the log: revision and id of its head, and those of the head before.

    ``count`` and ``digest`` are what its head says of the records as of it; ``position`` is the
    text by which answers name it; ``wall`` is its writer's wall clock.
    """

    revision: int
    id: bytes
    previous: tuple[int, bytes] | None
    records: tuple[Record, ...]
    count: int = 0
    digest: int = 0
    position: str = ""
    writer: str = ""
    wall: float = 0.0
    kind: str = ""
    """``fence`` or ``change`` where the head says so."""


Decide = Callable[[AuthState], Sequence[Record]]


@dataclass(frozen=True, slots=True)
class Change:
    """A change that a client asked for; ``decide`` makes its records, or raises its refusal.

    ``names`` are the users, roles and jtis that it is about. Nobody else changes them, but those
    with the same ``lane``, one after the other.
    """

    number: int
    lane: str
    names: frozenset[str]
    decide: Decide
    inv: float
    resp: float = inf
    outcome: Outcome = Outcome.UNKNOWN
    error: str = ""
    auth_revision: int = 0
    """What its answer says, 0 where it says nothing."""
    connection: str = ""
    replica: str = ""
    what: str = ""


class View(Protocol):
    """The records as of one position of the log."""

    def get(self, kind: str, record_id: bytes) -> bytes | None: ...


class Request(Protocol):
    """Something that is answered from the store."""

    @property
    def touches(self) -> frozenset[RecordKey]:
        """The records that its answer depends on."""

    def answers(self, view: View, begin: float, end: float) -> frozenset[Told]:
        """Return every right answer from these records at a moment between the two."""

    @property
    def what(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A request and what came back; ``told`` is None for a 503 and for none at all."""

    number: int
    request: Request
    inv: float
    resp: float
    told: Told | None
    connection: str = ""
    replica: str = ""
    position: str = ""
    """The position that the answer names."""
    minimum: str = ""
    """The position that the request wants at least."""
    is_503: bool = False
    failure: str = ""
    """Why there is no answer at all, as ``reset``."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A span of time with a fault. ``replica`` is empty for one that concerns all of them.

    ``cut`` says that the replica can reach no majority in it: from then on it has to stop.
    ``reload`` is the reason of the reloads that it causes.
    """

    kind: str
    begin: float
    end: float
    replica: str = ""
    cut: bool = False


def record_digest(key: RecordKey, value: bytes) -> int:
    """Return a digest of one record, for histories that no store has made."""
    text = msgspec.msgpack.encode((*key, value))
    return int.from_bytes(hashlib.sha256(text).digest(), "big")


@dataclass(slots=True)
class History:
    """Everything that a run has recorded.

    ``record_digest`` is that of the store: a head's digest is the sum over all records.
    """

    max_staleness: float
    log: list[Group] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    replica_wide: bool = True
    """Whether the workers of one replica share the highest revision that any of them knows."""
    counted: Mapping[str, int] = field(default_factory=dict)
    """Fences, reloads by reason and the like, as the replicas have counted them."""
    record_digest: Callable[[RecordKey, bytes], int] = record_digest


class RecordLog:
    """Every value that each record has had, so that any position can be looked at."""

    def __init__(self, log: Sequence[Group]) -> None:
        self._positions: dict[RecordKey, list[int]] = {}
        self._values: dict[RecordKey, list[bytes | None]] = {}
        for k, group in enumerate(log, 1):
            for kind, record_id, value in group.records:
                self._positions.setdefault((kind, record_id), []).append(k)
                self._values.setdefault((kind, record_id), []).append(value)

    def at(self, k: int) -> "_At":
        """Return the records after the first ``k`` groups."""
        return _At(self, k)

    def value(self, key: RecordKey, k: int) -> bytes | None:
        place = bisect_right(self._positions.get(key, ()), k)
        return self._values[key][place - 1] if place else None

    def touched(self, keys: Iterable[RecordKey], low: int, high: int) -> list[int]:
        """Return ``low`` and every position up to ``high`` at which one of the records changes."""
        found = {low}
        for key in keys:
            places = self._positions.get(key, [])
            found.update(places[bisect_right(places, low) : bisect_right(places, high)])
        return sorted(found)


@dataclass(frozen=True, slots=True)
class _At:
    _log: RecordLog
    _k: int

    def get(self, kind: str, record_id: bytes) -> bytes | None:
        return self._log.value((kind, record_id), self._k)


@dataclass(slots=True)
class Judgement:
    """What the rules find. ``wrong`` fails a run, ``noted`` does not."""

    wrong: list[str] = field(default_factory=list)
    noted: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def is_wrong(self, rule: int, text: str) -> None:
        self.wrong.append(f"rule {rule}: {text}")

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + number

    def of_rule(self, rule: int) -> list[str]:
        return [text for text in self.wrong if text.startswith(f"rule {rule}:")]
