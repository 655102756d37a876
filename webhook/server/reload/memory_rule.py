"""How many bytes the cache of verified tokens may have, so that a worker stays within its bound.

Of the bound a reserve is left for what requests need while they are answered. Below it the cache
may have what it has and whatever room there is. ``SLACK_BYTES`` into it and further the cache is
shrunk by what is too much; from there to the edge nothing happens, so that it does not go to and
fro. The slack is small: within it a process grows, by memory in pieces that nothing fits into.

Memory that is freed may stay with the process. So after a shrinking that gave next to nothing back
nothing is shrunk again until the process has grown: a cache is never emptied for nothing.
"""

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024
RESERVE_BYTES: Final = 32 * MIB
SLACK_BYTES: Final = 4 * MIB
FLOOR_BYTES: Final = 2 * MIB
"""What the cache keeps whatever happens: without any a busy server would verify all over."""
# What is booked for a fact is up to three times what it takes: see ``authenticator``.
_WORTH_IT: Final = 8
_GROWTH_BYTES: Final = 2 * MIB


@dataclass(frozen=True, slots=True)
class Budget:
    """The bytes that the cache may book, and the last shrinking.

    ``shrunk_by`` is 0 where there was none since the process was within its bound;
    ``shrunk_at`` is what was resident then.
    """

    bytes: int
    shrunk_at: int = 0
    shrunk_by: int = 0


def next_budget(budget: Budget, bound: int, resident: int, booked: int) -> Budget:
    """Decide by what is resident in the process and what the cache has booked, all in bytes."""
    room = bound - RESERVE_BYTES - resident
    if room >= 0:
        return Budget(max(FLOOR_BYTES, booked + room))
    if -room <= SLACK_BYTES:
        return Budget(max(FLOOR_BYTES, min(budget.bytes, booked)))
    given_back = budget.shrunk_at - resident
    has_helped = given_back >= budget.shrunk_by // _WORTH_IT
    has_grown = -given_back > _GROWTH_BYTES
    if budget.shrunk_by and not has_helped and not has_grown:
        return budget
    less = max(FLOOR_BYTES, booked + room)
    return Budget(less, resident, max(0, booked - less))
