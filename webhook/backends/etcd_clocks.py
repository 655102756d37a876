"""Compares the clocks of those that write to one store. Pure."""

from typing import Final

KEPT_SECONDS: Final = 600.0
LIVE_SECONDS: Final = 2.0
_MAX_WRITERS: Final = 64


class Clocks:
    """By how much the clocks of other writers differ from ours, from commits seen live.

    A commit that was certainly made between two moments has a wall time between them, unless the
    writer's clock or ours is wrong.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}

    def saw(self, writer: str, wall: float, earliest: float, latest: float, now: float) -> None:
        """Take over a commit made between ``earliest`` and ``latest`` by our clock (Unix seconds).

        ``wall`` is its own clock, ``now`` the time of CLOCK_BOOTTIME. Nothing is concluded from one
        that may have been made more than LIVE_SECONDS ago.
        """
        if latest - earliest > LIVE_SECONDS:
            return
        self._note(writer, max(0.0, wall - latest) + min(0.0, wall - earliest), now)

    def saw_old(self, writer: str, wall: float, latest: float, now: float) -> None:
        """Take over a commit made at any time before ``latest``, which can show a clock ahead."""
        if wall > latest:
            self._note(writer, wall - latest, now)

    def _note(self, writer: str, difference: float, now: float) -> None:
        self._seen.pop(writer, None)
        self._seen[writer] = difference, now
        while len(self._seen) > _MAX_WRITERS:
            del self._seen[next(iter(self._seen))]

    def largest(self, now: float) -> tuple[str, float]:
        """Return the writer that differed most lately, and its clock minus ours (seconds)."""
        recent = [
            (writer, difference)
            # All at once, for another thread may be in ``saw``.
            for writer, (difference, seen) in tuple(self._seen.items())
            if now - seen <= KEPT_SECONDS
        ]
        return max(recent, key=lambda found: abs(found[1]), default=("", 0.0))
