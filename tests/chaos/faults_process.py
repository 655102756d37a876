"""Rows 47, 52 and 53: processes that are killed or stopped."""

import asyncio
import os
import signal
import time
from math import inf

from .client import FailedError
from .contention import Spent, Stopwatch, bury
from .run import GONE_SECONDS, READY_SECONDS, Outage, Run
from .window import Failure, Window

BACK_SECONDS = 1.0
# Until a client has seen that the other end has closed.
_NOTICED_SECONDS = 0.05


class Killed:
    """A worker that is killed, and which failures are of its own requests.

    Those on connections that it has, and those that are just being connected and may be its own.
    """

    def __init__(self, run: Run, victim: int) -> None:
        clients = [run.load.reviewer, run.load.root]
        self._known = {port for client in clients for port in client.ports}
        self._own = run.machine.ports_of(victim, sorted(self._known))
        self.at = self.gone = inf

    def permits(self, failure: Failure) -> bool:
        if failure.kind != "reset" or failure.end < self.at:
            return False
        is_new = failure.port not in self._known
        return failure.port in self._own or (
            is_new and failure.begin <= self.gone + _NOTICED_SECONDS
        )


async def everything_killed(run: Run, window: Window) -> None:
    outage = Outage()
    window.permits = outage.permits
    for _ in range(run.times(3, 20)):
        await asyncio.sleep(run.rng.uniform(0.3, 1.0))
        outage.begin()
        run.machine.kill()
        window.injected += 1
        await run.machine.start()
        window.measure("ready after SIGKILL", outage.end(), READY_SECONDS)
        await run.load.settle()


async def workers_killed(run: Run, window: Window) -> None:
    outage = Outage()
    kills: list[Killed] = []

    def permits(failure: Failure) -> bool:
        return outage.permits(failure) or any(kill.permits(failure) for kill in kills)

    window.permits = permits
    for number in range(run.times(4, 100)):
        await asyncio.sleep(run.rng.uniform(0.1, 0.4))
        victim = run.rng.choice(run.machine.workers())
        kills.append(Killed(run, victim))
        seconds = await _kill_and_wait(run, victim, kills[-1])
        window.injected += 1
        window.measure("a worker is back", seconds, BACK_SECONDS)
        if number % 10 == 9:
            await run.load.settle()
    await _master_killed(run, window, outage)


async def _kill_and_wait(run: Run, victim: int, killed: Killed) -> Spent:
    """Kill a worker, and return the seconds until another one in its place has answered."""
    watch, before = Stopwatch(), set(run.machine.workers())
    killed.at = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    while victim in run.machine.workers():
        await asyncio.sleep(0.001)
    killed.gone = time.monotonic()
    await run.wait_for(lambda: _new_one_answers(run, before), BACK_SECONDS)
    return watch.read()


async def _new_one_answers(run: Run, before: set[int]) -> bool:
    """Send a request over a new connection, and return whether a new worker answers."""
    new = set(run.machine.workers()) - before
    if not new:
        return False
    client = run.new_client()
    try:
        await client.get("/readyz")
        return any(run.machine.worker_of(port) in new for port in client.ports)
    except FailedError:
        return False
    finally:
        client.forget()


async def _master_killed(run: Run, window: Window, outage: Outage) -> None:
    """The workers drain as with SIGTERM, so a supervisor can start another server."""
    workers = run.machine.workers()
    run.machine.note_folders()
    outage.begin()
    os.kill(run.machine.master, signal.SIGKILL)
    window.injected += 1
    await asyncio.to_thread(run.machine.server.process.wait)

    async def gone() -> bool:
        return all(bury(pid) for pid in workers)

    window.measure("workers gone after their master", await run.wait_for(gone, GONE_SECONDS), 30.0)
    watch = Stopwatch()
    await run.machine.start()
    window.measure("ready after the master was killed", watch.read(), READY_SECONDS)
    outage.end()
    await run.load.settle()


async def told_to_go(run: Run, window: Window) -> None:
    # Connected clients get an answer. Others may be refused.
    outage = Outage(frozenset(("refused",)))

    def permits(failure: Failure) -> bool:
        is_unconnected = failure.kind == "reset" and failure.port == 0
        return outage.permits(failure) or (is_unconnected and _overlaps(failure, outage))

    window.permits = permits
    for _ in range(run.times(2, 20)):
        await asyncio.sleep(run.rng.uniform(0.3, 1.0))
        outage.begin()
        seconds = await run.machine.terminate()
        window.injected += 1
        window.measure("gone after SIGTERM", seconds, GONE_SECONDS)
        if run.machine.server.process.returncode:
            window.is_wrong(f"exit code {run.machine.server.process.returncode} after SIGTERM")
        await run.machine.start()
        outage.end()
        await run.load.settle()


def _overlaps(failure: Failure, outage: Outage) -> bool:
    return Outage(frozenset((failure.kind,)), outage.spans).permits(failure)
