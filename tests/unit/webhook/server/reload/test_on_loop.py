"""What threads apply runs on the event loop, and never waits for one that has ended."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from threading import get_ident

import pytest

from webhook.server.reload.on_loop import OnLoop


def test_before_it_begins_it_calls_where_it_is_called() -> None:
    seen: list[int] = []
    OnLoop()(lambda: seen.append(get_ident()))
    assert seen == [get_ident()]


def test_it_runs_on_the_loop_and_returns_after_that() -> None:
    on_loop, seen = OnLoop(), list[int]()

    def work() -> list[int]:
        on_loop(lambda: seen.append(get_ident()))
        return list(seen)

    async def run() -> list[int]:
        on_loop.begin()
        on_loop(lambda: seen.append(get_ident()))
        return await asyncio.to_thread(work)

    assert asyncio.run(run()) == [get_ident()] * 2


@pytest.mark.parametrize("error", [ZeroDivisionError, TimeoutError])
def test_what_it_raises_is_raised_where_it_was_called(error: type[Exception]) -> None:
    on_loop = OnLoop()

    def fail() -> None:
        raise error

    async def run() -> None:
        on_loop.begin()
        with pytest.raises(error):
            await asyncio.to_thread(on_loop, fail)

    asyncio.run(run())


@pytest.mark.parametrize("is_closed", [False, True], ids=["while-it-waits", "before"])
def test_a_loop_that_has_ended_holds_no_thread(is_closed: bool) -> None:
    on_loop, ran = OnLoop(), list[str]()
    loop = asyncio.new_event_loop()

    async def begin() -> None:
        on_loop.begin()

    loop.run_until_complete(begin())
    if is_closed:
        loop.close()
    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(on_loop, lambda: ran.append("once"))
        # It does not run any more, so that what is sent to it stays there.
        while not (is_closed or loop._ready):  # type: ignore[attr-defined]
            time.sleep(0.001)
        loop.close()
        working.result(30)
    assert ran == ["once"]
