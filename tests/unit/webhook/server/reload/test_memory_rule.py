"""How the bytes of the cache follow from what is resident, and that they come to rest."""

from collections.abc import Callable

import pytest

from webhook.server.reload.memory_keeper import (
    FLOOR_BYTES,
    MIB,
    RESERVE_BYTES,
    SLACK_BYTES,
    Budget,
    next_budget,
)

BOUND = 256 * MIB
EDGE = BOUND - RESERVE_BYTES
HIGH = EDGE + SLACK_BYTES


@pytest.mark.parametrize(
    ("budget", "resident", "booked", "expected"),
    [
        pytest.param(Budget(64 * MIB), 56 * MIB, 0, Budget(EDGE - 56 * MIB), id="start"),
        pytest.param(
            Budget(168 * MIB), 96 * MIB, 80 * MIB, Budget(EDGE - 16 * MIB), id="booked-too-high"
        ),
        pytest.param(Budget(100 * MIB), EDGE, 90 * MIB, Budget(90 * MIB), id="no-room-left"),
        pytest.param(Budget(100 * MIB), EDGE + MIB, 90 * MIB, Budget(90 * MIB), id="grows-no-more"),
        pytest.param(Budget(80 * MIB), HIGH, 80 * MIB, Budget(80 * MIB), id="last-that-stays"),
        pytest.param(
            Budget(80 * MIB),
            BOUND,
            80 * MIB,
            Budget(48 * MIB, BOUND, 32 * MIB),
            id="too-much-is-dropped",
        ),
        pytest.param(
            Budget(48 * MIB, BOUND, 32 * MIB),
            BOUND - 3 * MIB,
            48 * MIB,
            Budget(48 * MIB, BOUND, 32 * MIB),
            id="it-did-not-help",
        ),
        pytest.param(
            Budget(48 * MIB, BOUND, 32 * MIB),
            BOUND - 4 * MIB,
            48 * MIB,
            Budget(20 * MIB, BOUND - 4 * MIB, 28 * MIB),
            id="it-helped",
        ),
        pytest.param(
            Budget(48 * MIB, BOUND, 32 * MIB),
            BOUND + 2 * MIB,
            48 * MIB,
            Budget(48 * MIB, BOUND, 32 * MIB),
            id="has-not-grown",
        ),
        pytest.param(
            Budget(48 * MIB, BOUND, 32 * MIB),
            BOUND + 3 * MIB,
            48 * MIB,
            Budget(13 * MIB, BOUND + 3 * MIB, 35 * MIB),
            id="has-grown",
        ),
        pytest.param(
            Budget(48 * MIB, BOUND, 32 * MIB),
            HIGH - MIB,
            48 * MIB,
            Budget(48 * MIB),
            id="within-again",
        ),
        pytest.param(
            Budget(8 * MIB), 2 * BOUND, 8 * MIB, Budget(FLOOR_BYTES, 2 * BOUND, 6 * MIB), id="floor"
        ),
        pytest.param(
            Budget(FLOOR_BYTES, 2 * BOUND, 6 * MIB),
            2 * BOUND - 2 * MIB,
            FLOOR_BYTES,
            Budget(FLOOR_BYTES, 2 * BOUND - 2 * MIB, 0),
            id="at-the-floor",
        ),
    ],
)
def test_next_budget(budget: Budget, resident: int, booked: int, expected: Budget) -> None:
    assert next_budget(budget, BOUND, resident, booked) == expected


Process = Callable[[int, int], int]
"""What is resident, of the bytes that the cache has now and the most that it ever had."""


@pytest.mark.parametrize(
    ("process", "ends_within", "keeps"),
    [
        pytest.param(lambda now, _most: 60 * MIB + now, True, 140 * MIB, id="gives-back"),
        pytest.param(lambda now, _most: 60 * MIB + now // 3, True, 400 * MIB, id="booked-thrice"),
        pytest.param(lambda _now, most: 60 * MIB + most, True, 140 * MIB, id="keeps-all"),
        pytest.param(
            lambda now, most: 60 * MIB + (now + most) // 2, True, 140 * MIB, id="keeps-half"
        ),
        pytest.param(lambda now, _most: 260 * MIB + now, False, FLOOR_BYTES, id="no-room"),
        pytest.param(lambda _now, _most: BOUND + MIB, False, 60 * MIB, id="it-is-not-the-cache"),
    ],
)
def test_a_process_comes_to_rest(process: Process, ends_within: bool, keeps: int) -> None:
    """Tokens that were never seen fill the cache by 20 MiB between two looks."""
    budget, booked, most = Budget(120 * MIB), 100 * MIB, 0
    seen = []
    for _ in range(120):
        booked = min(budget.bytes, booked + 20 * MIB)
        most = max(most, booked)
        resident = process(booked, most)
        budget = next_budget(budget, BOUND, resident, booked)
        booked = min(booked, budget.bytes)
        seen.append(booked)
    assert len(set(seen[-40:])) == 1
    assert booked >= keeps
    assert (process(booked, most) <= BOUND) == ends_within
