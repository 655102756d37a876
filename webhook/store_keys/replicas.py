"""The replicas that share a store: which encryption keys they have, and what their clocks say.

Each replica writes a record of its own every ten minutes. It is not authenticated: whoever can
write to the store can delay steps with it, and nothing else.

Invariants:

1. Times in records are compared with this clock only while they arrive live: what was loaded, or
   arrives after a gap, may be old.
2. A replica is live while its record changes, by a clock of this process that does not jump. So a
   clock that is wrong anywhere neither revives nor buries a replica.
3. After a difference of more than HOLD_SECONDS neither side takes a step by itself, until the
   record of that replica shows that it is over, or the replica is gone.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from webhook.rbac.records import REPLICA, Record
from webhook.store_keys.contents import Sealed

HEARTBEAT_SECONDS: Final = 600.0
"""How often a replica writes its record."""
LIVE_SECONDS: Final = 3 * HEARTBEAT_SECONDS
"""How long a replica whose record does not change counts as live."""
WARN_SECONDS: Final = 60.0
"""Clocks that differ by more than this are a warning."""
HOLD_SECONDS: Final = 300.0
"""Clocks that differ by more than this hold all steps (invariant 3); ``PROPAGATION_SECONDS`` allows
for it."""
_GREETING_SECONDS: Final = 60.0
_MAX_IDS: Final = 64
_MAX_NAME: Final = 64
_MAX_VERSION: Final = 1 << 48
"""Far more than a schedule ever gets, and far from where versions end: one is taken over from here
when a restored schedule is accepted."""


class Replica(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What a replica says: its wall clock, its encryption keys, the newest version it has seen."""

    wall: int
    keys: tuple[str, ...]
    version: int


def replica_record(replica_id: str, replica: Replica) -> Record:
    """Return the record of a replica."""
    return Record(REPLICA, replica_id.encode("ascii"), msgspec.msgpack.encode(replica))


def replicas_of(sealed: Sealed) -> dict[str, Replica]:
    """Return the replicas of a store by their ids, without those that cannot be read."""
    found = {}
    for (kind, record_id), value in sealed.items():
        if kind == REPLICA:
            try:
                replica = msgspec.msgpack.decode(value, type=Replica)
                name = record_id.decode("ascii")
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if len(replica.keys) <= _MAX_IDS and _is_plausible(name, replica):
                found[name] = replica
    return found


def _is_plausible(name: str, replica: Replica) -> bool:
    return 0 < len(name) <= _MAX_NAME and name.isprintable() and 0 <= replica.version < _MAX_VERSION


def live_by_wall(replicas: Mapping[str, Replica], now: float) -> set[str]:
    """Return the ids of those that are live as far as a command can know, which sees one moment."""
    return {name for name, found in replicas.items() if abs(now - found.wall) <= LIVE_SECONDS}


def unable(
    replicas: Mapping[str, Replica], live: Collection[str], needed: Collection[str]
) -> dict[str, list[str]]:
    """Return the live replicas that lack encryption keys, with the ids of those."""
    return {
        name: missing
        for name in sorted(live)
        if name in replicas and (missing := sorted(set(needed) - set(replicas[name].keys)))
    }


@dataclass(slots=True)
class _Known:
    replica: Replica
    changed: float
    difference: float | None = None


class ReplicaWatch:
    """Watches the records of the other replicas; ``own`` is the id of this one."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._known: dict[str, _Known] = {}
        self._is_loaded = False
        self._wrote: float | None = None
        self._is_greeted = False
        self._is_announced = False

    def see(
        self, replicas: Mapping[str, Replica], wall: float, steady: float, *, live: bool
    ) -> None:
        """Take note of the present records; they are ``live`` if they have just arrived."""
        live = live and self._is_loaded
        for name, replica in replicas.items():
            known = self._known.get(name)
            if known is not None and known.replica == replica:
                continue
            if known is None:
                known = self._known[name] = _Known(replica, steady)
                self._is_greeted |= live and name != self._own
            known.replica, known.changed = replica, steady
            if name == self._own:
                self._wrote = steady
            elif live:  # Invariant 1.
                known.difference = replica.wall - wall
        for name in self._known.keys() - replicas.keys():
            del self._known[name]
        self._is_loaded = True

    def live(self, steady: float) -> set[str]:
        """Return the ids of the replicas that are live (invariant 2)."""
        return {n for n, known in self._known.items() if steady - known.changed <= LIVE_SECONDS}

    def gone(self, steady: float) -> list[str]:
        """Return the ids of the replicas that are not."""
        return sorted(self._known.keys() - self.live(steady) - {self._own})

    def difference(self, steady: float) -> float:
        """Return by how many seconds the clock of another replica is ahead, the largest of all."""
        live = self.live(steady)
        found = [k.difference or 0.0 for name, k in self._known.items() if name in live]
        return max(found, key=abs, default=0.0)

    def agreed(self, steady: float) -> float:
        """Return by how many seconds the time that most replicas agree on is ahead of this clock.

        That is the median of all clocks, the earlier one of two.
        """
        live = self.live(steady)
        others = [
            known.difference
            for name, known in self._known.items()
            if name in live and known.difference is not None
        ]
        clocks = sorted([0.0, *others])
        return clocks[(len(clocks) - 1) // 2]

    def is_due(self, steady: float, replica: Replica) -> bool:
        """Return whether the record of this replica has to be written."""
        if self._wrote is None or self._is_announced:
            return True
        age = steady - self._wrote
        known = self._known.get(self._own)
        has_other_keys = known is not None and known.replica.keys != replica.keys
        greets = self._is_greeted and age >= _GREETING_SECONDS
        return age >= HEARTBEAT_SECONDS or greets or has_other_keys

    def wrote(self, steady: float) -> None:
        """Note that the record of this replica was written."""
        self._wrote = steady
        self._is_greeted = self._is_announced = False

    def announce(self) -> None:
        """Have the record written again, because this clock was set."""
        self._is_announced = True
