"""The keeper of a worker's memory, with a cache that is real and a process that is not."""

import asyncio
import logging
from itertools import pairwise

import pytest

from webhook.server.reload.memory_keeper import FLOOR_BYTES, MIB, MemoryKeeper, resident_bytes
from webhook.token.fact_cache import FactCache

BOUND = 128 * MIB


class Fact:
    size = 4096


class Process:
    """A process whose base is set; what its cache drops is given back."""

    def __init__(self, facts: int) -> None:
        self.base = 40 * MIB
        self.cache: FactCache[Fact] = FactCache(64 * MIB)
        for number in range(facts):
            self.cache.put(number.to_bytes(4), Fact())
        self.keeper = MemoryKeeper(lambda: BOUND, lambda: self.cache, self.resident)

    def resident(self) -> int:
        return self.base + self.cache.booked_bytes

    def check(self, times: int = 1) -> None:
        for _ in range(times):
            asyncio.run(self.keeper.check())


def test_cache_gets_the_room_that_there_is_and_gives_it_back() -> None:
    process = Process(facts=10_000)
    process.check()
    assert process.cache.max_bytes == BOUND - 32 * MIB - 40 * MIB
    assert len(process.cache) == 10_000
    process.base = 90 * MIB
    process.check(5)
    assert process.resident() <= BOUND - 16 * MIB
    assert process.cache.get((9_999).to_bytes(4)) is not None
    assert process.cache.get((0).to_bytes(4)) is None
    process.base = 40 * MIB
    process.check()
    assert process.cache.max_bytes == BOUND - 32 * MIB - 40 * MIB


def test_others_run_while_much_is_dropped() -> None:
    process = Process(facts=10_000)
    process.base = 1024 * MIB
    turns: list[int] = []

    async def others() -> None:
        while True:
            turns.append(len(process.cache))
            await asyncio.sleep(0)

    async def both() -> None:
        task = asyncio.create_task(others())
        await process.keeper.check()
        task.cancel()

    asyncio.run(both())
    dropped = [before - after for before, after in pairwise(turns)]
    assert max(dropped) <= 1000
    assert process.cache.booked_bytes <= FLOOR_BYTES


def test_a_worker_that_cannot_get_within_its_bound_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "leeway")
    process = Process(facts=100)
    process.base = 200 * MIB
    process.check(4)
    assert process.keeper.problem() == ""
    process.check(100)
    assert process.keeper.problem() == (
        "a worker has 200 MiB resident, server.maxWorkerBytes allows 128 MiB, and its cache of "
        "tokens cannot give back the rest; raise it"
    )
    process.base = 50 * MIB
    process.check(2)
    assert process.keeper.problem() == ""
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_where_the_system_does_not_tell_nothing_changes() -> None:
    cache: FactCache[Fact] = FactCache(64 * MIB)
    keeper = MemoryKeeper(lambda: BOUND, lambda: cache, lambda: None)
    asyncio.run(keeper.check())
    assert (cache.max_bytes, keeper.problem()) == (64 * MIB, "")


def test_resident_memory_of_this_process() -> None:
    before = resident_bytes()
    if before is None:
        pytest.skip("this system has no /proc/self/statm")
    held = b"x" * (64 * MIB)
    after = resident_bytes()
    assert after is not None
    assert len(held) // 2 < after - before < len(held) * 2
