"""Decides what the clock of this process may be used for; pure, the times are arguments.

Invariants:

1. No step is taken by itself in the first MARK_SECONDS of a process, while the clock of another
   replica differs by more than HOLD_SECONDS, or after this clock has jumped, for as long as a new
   key waits. Which of two clocks is wrong is not known here.
2. The recorded clock moves at most once in MARK_SECONDS, by a clock that does not jump, to the time
   that most replicas agree on, and by no more than CLOCK_AHEAD_SECONDS plus the time for which it
   has not moved. While clocks disagree it moves at least by that time: of two replicas, one that is
   behind would otherwise stop it, and a schedule that stands still counts as restored.
"""

import logging
from collections.abc import Mapping
from typing import Final, NamedTuple

from keys.rotation import MARK_SECONDS
from webhook.store_keys.changes import CLOCK_AHEAD_SECONDS, Caution
from webhook.store_keys.replicas import (
    HOLD_SECONDS,
    WARN_SECONDS,
    Replica,
    ReplicaWatch,
)

_JUMP_SECONDS: Final = 60.0
# What arrives after a longer gap than this may be old.
_GAP_SECONDS: Final = 30.0
_logger = logging.getLogger("leeway")


class Moment(NamedTuple):
    """Unix seconds, and seconds of a clock that never jumps."""

    wall: float
    steady: float


class ClockGuard:
    """Compares the clock of this process with itself and with those of other replicas.

    ``own`` is the id of this replica.
    """

    def __init__(self, own: str, now: Moment) -> None:
        self.problem = ""
        """Why no step is taken because of a difference of clocks; empty if none is too large."""
        self._warning = ""
        self._offset = now.wall - now.steady
        self._steps_from = now.steady + MARK_SECONDS
        self._noted = self._polled = now.steady
        self._version = self._clock = 0
        self._replicas = ReplicaWatch(own)

    def poll(self, now: Moment, hold: float) -> None:
        """Notice a jump of this clock; after one, steps wait for ``hold`` seconds."""
        offset = now.wall - now.steady
        if abs(offset - self._offset) > _JUMP_SECONDS:
            hold = max(hold, MARK_SECONDS)
            self._steps_from = now.steady + hold
            self._replicas.announce()
            _logger.warning(
                "the clock has jumped by %+.0fs; no signing key takes a step by itself for %ds",
                offset - self._offset,
                hold,
            )
        self._offset = offset

    def see_schedule(self, version: int, clock: int, now: Moment) -> None:
        """Take note of the version of the schedule in use, and of its clock."""
        self._version = version
        if clock != self._clock:
            self._clock, self._noted = clock, now.steady

    def see_replicas(
        self,
        replicas: Mapping[str, Replica],
        now: Moment,
        *,
        is_fresh: bool,
        written: float = 0.0,
    ) -> None:
        """Compare the clocks of other replicas, if the state in use is fresh.

        ``written`` is by how many seconds the clock of somebody who wrote to the store is ahead.
        """
        live = is_fresh and now.steady - self._polled <= _GAP_SECONDS
        if is_fresh:
            self._polled = now.steady
        self._replicas.see(replicas, now.wall, now.steady, live=live)
        difference = max(self._replicas.difference(now.steady), written, key=abs)
        holds = abs(difference) > HOLD_SECONDS
        warning = ""
        if abs(difference) > WARN_SECONDS:
            side = "ahead of" if difference > 0 else "behind"
            warning = f"the clock of another replica is {abs(difference):.0f}s {side} this one"
            if holds:
                warning += (
                    ", so no signing key takes a step by itself; correct the clock that is wrong"
                )
        if bool(warning) != bool(self._warning) or holds != bool(self.problem):
            _logger.warning("%s", warning or "the clocks of the replicas agree again")
        self._warning, self.problem = warning, warning if holds else ""

    def holds(self, now: Moment) -> bool:
        """Return whether no step is taken by itself (invariant 1)."""
        return now.steady < self._steps_from or bool(self.problem)

    def caution(self, now: Moment, *, is_followed: bool) -> Caution:
        """Return what a change has to respect."""
        since = now.steady - self._noted

        def ahead(version: int) -> int:
            # Another version was written just now, by somebody else.
            return CLOCK_AHEAD_SECONDS + int(since) if version == self._version else 0

        # Invariant 2.
        notes = now.steady >= self._steps_from and since >= MARK_SECONDS
        clock = int(now.wall + self._replicas.agreed(now.steady)) if notes else None
        if clock is not None and self.problem:
            clock = max(clock, self._clock + int(since))
        return Caution(ahead, clock, self._replicas.gone(now.steady), is_followed)

    def is_record_due(self, replica: Replica, now: Moment) -> bool:
        """Return whether the record of this replica has to be written."""
        return self._replicas.is_due(now.steady, replica)

    def gone(self, now: Moment) -> list[str]:
        """Return the ids of the replicas that are not live."""
        return self._replicas.gone(now.steady)

    def wrote_record(self, now: Moment) -> None:
        """Note that the record of this replica was written."""
        self._replicas.wrote(now.steady)
