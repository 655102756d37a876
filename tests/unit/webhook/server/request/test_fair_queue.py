"""Turns are bounded in number and in time, and shared fairly between keys."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from webhook.server.request.fair_queue import FairQueue, NoTurnError, network_of

pytestmark = pytest.mark.fault(47)
LONG = 60.0


class Office:
    """A queue, and callers that hold their turn until they are told to leave."""

    def __init__(self, slots: int = 1, max_waiting: int = 8, max_wait: float = LONG) -> None:
        self.refusals = 0
        self.queue = FairQueue(slots, max_waiting, max_wait, self._refused)
        self.inside: list[str] = []
        self.served: list[str] = []
        self._leave = asyncio.Semaphore(0)

    def _refused(self) -> None:
        self.refusals += 1

    async def come(self, *keys: str) -> list["asyncio.Task[bool]"]:
        """Let callers come, one after the other."""
        tasks = []
        for key in keys:
            tasks.append(asyncio.create_task(self._call(key)))
            await settled()
        return tasks

    async def _call(self, key: str) -> bool:
        try:
            async with self.queue.turn(key):
                self.inside.append(key)
                await self._leave.acquire()
                self.inside.remove(key)
                self.served.append(key)
        except NoTurnError:
            return False
        return True

    async def leave(self, count: int = 1) -> None:
        """Let callers that have a turn end it, one after the other."""
        for _ in range(count):
            self._leave.release()
            await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), LONG))


@pytest.mark.parametrize("slots", [1, 3])
def test_no_more_turns_than_slots(slots: int) -> None:
    async def scenario() -> None:
        office = Office(slots)
        tasks = await office.come(*"aabbcc")
        assert len(office.inside) == slots
        assert office.queue.waiting == 6 - slots
        await office.leave(6)
        assert await asyncio.gather(*tasks) == [True] * 6
        assert (office.inside, office.queue.waiting) == ([], 0)
        await office.come("d")
        assert office.inside == ["d"]
        await office.leave()

    run(scenario)


def test_a_key_waits_for_one_turn_of_each_other_key() -> None:
    async def scenario() -> None:
        office = Office()
        await office.come(*"fffff", "a", "b")
        await office.leave(7)
        assert "".join(office.served) == "ffabfff"

    run(scenario)


def test_a_key_is_served_in_the_order_of_its_callers() -> None:
    async def scenario() -> None:
        queue, order = FairQueue(1, 8, LONG), []

        async def call(number: int) -> None:
            async with queue.turn("a"):
                order.append(number)

        await asyncio.gather(*(call(number) for number in range(6)))
        assert order == list(range(6))

    run(scenario)


@pytest.mark.parametrize(
    ("keys", "refused"),
    [
        pytest.param("f" + "f" * 8 + "f", "f", id="one key alone: its newest"),
        pytest.param("f" + "f" * 8 + "a", "f", id="a new key: the newest of the flood"),
        pytest.param("f" + "f" * 6 + "aa" + "a", "f", id="a key with fewer"),
        pytest.param("f" + "f" * 4 + "aaaa" + "a", "a", id="a key with as many: the newcomer"),
        pytest.param("f" + "abcdefgh" + "i", "i", id="many keys with one each: the newcomer"),
    ],
)
def test_a_full_queue_refuses_the_key_with_the_most_callers(keys: str, refused: str) -> None:
    async def scenario() -> None:
        office = Office()
        tasks = await office.come(*keys)
        assert office.queue.waiting == 8
        await office.leave(len(keys))
        answers = await asyncio.gather(*tasks)
        assert [key for key, answer in zip(keys, answers, strict=True) if not answer] == [refused]
        assert office.refusals == 1

    run(scenario)


def test_a_flood_is_bounded_and_does_not_keep_others_out() -> None:
    async def scenario() -> None:
        office = Office(max_waiting=8)
        flood = await office.come(*"f" * 100)
        others = await office.come(*"abc")
        assert office.queue.waiting == 8
        await office.leave(4 + 1)
        assert office.served[:5] == ["f", "f", "a", "b", "c"]
        await office.leave(100)
        assert all(await asyncio.gather(*others))
        assert Counter(await asyncio.gather(*flood)) == {True: 1 + 5, False: 100 - 6}

    run(scenario)


def test_nobody_waits_longer_than_the_limit() -> None:
    async def scenario() -> None:
        office = Office(max_wait=0.01)
        first, *late = await office.come(*"aab")
        assert await asyncio.gather(*late) == [False, False]
        assert office.queue.waiting == 0
        await office.leave()
        assert await first
        assert office.refusals == 2

    run(scenario)


@pytest.mark.parametrize("is_granted", [False, True])
def test_a_caller_that_leaves_keeps_no_turn(is_granted: bool) -> None:
    async def scenario() -> None:
        office = Office()
        _, gone, last = await office.come(*"aab")
        if is_granted:
            # It gets the turn, and is cancelled before it runs again.
            office._leave.release()
            while office.queue.waiting == 2:
                await asyncio.sleep(0)
        gone.cancel()
        await settled()
        assert gone.cancelled()
        await office.leave(1 if is_granted else 2)
        assert await last
        assert office.queue.waiting == 0
        await office.come("c")
        assert office.inside == ["c"]
        await office.leave()

    run(scenario)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_an_ipv6_host_has_one_key_for_its_network(one: str, other: str, is_same: bool) -> None:
    assert (network_of(one) == network_of(other)) is is_same
