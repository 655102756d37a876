"""The faults of a store in etcd: members, replicas, workers, the way between them, and clocks.

Each says in which spans of time it excuses a replica for not answering; most excuse little.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import inf

from tests.etcd_cluster import EtcdCluster
from tests.etcd_member import Member
from tests.etcd_replicas import Replica, Replicas
from tests.tcp_proxy import DOWN, UP

from .clock import SteppedClock
from .contention import bury
from .history import Fault
from .store_load import StoreLoad
from .store_observer import Observer


@dataclass
class StoreRun:
    """One run: what there is, and what has been done to it."""

    cluster: EtcdCluster
    replicas: Replicas
    observer: Observer
    load: StoreLoad
    clocks: Mapping[str, SteppedClock]
    rng: random.Random
    injected: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    reloads: Counter[str] = field(default_factory=Counter)
    commits: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def window(
        self, kind: str, replica: str = "", *, cut: bool = False
    ) -> AsyncIterator[None]:
        """Record a span of time with a fault."""
        place, begin = len(self.load.faults), time.monotonic()
        self.load.faults.append(Fault(kind, begin, inf, replica, cut))
        try:
            yield
        finally:
            self.load.faults[place] = Fault(kind, begin, time.monotonic(), replica, cut)

    def count_kill(self, kind: str) -> None:
        self.kills += 1
        self.injected[kind] += 1

    async def count_reloads(self, replica: Replica) -> None:
        """Add what a replica has counted since its start."""
        with suppress(OSError, AssertionError):
            answer = await asyncio.to_thread(replica.server.request, "GET", "/metrics")
            for line in answer.body.decode().splitlines():
                for name, counter in (("reloads", self.reloads), ("commits", self.commits)):
                    start = f"leeway_store_{name}_total{{"
                    if line.startswith(start):
                        label, _, number = line.removeprefix(start).partition("} ")
                        counter[label.split('"')[1]] += int(float(number))

    async def healed(self, seconds: float = 0.0) -> None:
        """Wait a moment, then start what is gone and wait until etcd is healthy."""
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self.cluster.heal)


StoreFault = Callable[[StoreRun], Awaitable[None]]


async def _member_killed(run: StoreRun, kind: str, victim: Member) -> None:
    async with run.window(kind):
        victim.kill()
        run.count_kill(kind)
        await run.healed(run.rng.uniform(0.0, 1.0))


async def follower_killed(run: StoreRun) -> None:
    followers = await asyncio.to_thread(run.cluster.followers)
    await _member_killed(run, "member killed", run.rng.choice(followers))


async def leader_killed(run: StoreRun) -> None:
    await _member_killed(run, "leader killed", await asyncio.to_thread(run.cluster.leader))


async def member_stopped(run: StoreRun) -> None:
    """Stop the leader, so that requests wait in it, and a new one is elected meanwhile."""
    leader = await asyncio.to_thread(run.cluster.leader)
    victim = leader if run.rng.random() < 0.7 else run.rng.choice(run.cluster.members)
    async with run.window("member stopped"):
        victim.pause()
        run.injected["member stopped"] += 1
        await asyncio.sleep(run.rng.uniform(2.0, 6.0))
        victim.resume()
        await run.healed()


async def left_behind(run: StoreRun) -> None:
    """Stop a member and a worker; later have only these two run, with what they knew."""
    followers = await asyncio.to_thread(run.cluster.followers)
    victim = run.rng.choice(followers)
    others = [member for member in run.cluster.members if member is not victim]
    replica = run.rng.choice(run.replicas.all)
    async with run.window("member left behind"):
        pids = replica.workers()
        victim.pause()
        for pid in pids:
            _send(pid, signal.SIGSTOP)
        run.injected["member left behind"] += 1
        await asyncio.sleep(run.rng.uniform(4.0, 5.0))
        for member in others:
            member.pause()
        victim.resume()
        for pid in pids:
            _send(pid, signal.SIGCONT)
        await asyncio.sleep(3.0)
        await run.healed()


async def replica_killed(run: StoreRun) -> None:
    replica = run.rng.choice(run.replicas.all)
    await run.count_reloads(replica)
    async with run.window("replica killed", replica.name):
        workers = replica.workers()
        for pid in (replica.master, *workers):
            _send(pid, signal.SIGKILL)
        run.count_kill("replica killed")
        await asyncio.to_thread(replica.server.process.wait)
        while not all(bury(pid) for pid in workers):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(replica.start)


async def worker_killed(run: StoreRun) -> None:
    replica = run.rng.choice(run.replicas.all)
    workers = replica.workers()
    if not workers:
        return
    async with run.window("worker killed", replica.name):
        _send(run.rng.choice(workers), signal.SIGKILL)
        run.count_kill("worker killed")
        await asyncio.sleep(run.rng.uniform(0.1, 0.4))


async def worker_stopped(run: StoreRun) -> None:
    """Stop one for longer than a proof holds; what it answers afterwards has to be new."""
    replica = run.rng.choice(run.replicas.all)
    workers = replica.workers()
    if not workers:
        return
    victim = run.rng.choice(workers)
    async with run.window("worker stopped", replica.name):
        _send(victim, signal.SIGSTOP)
        run.injected["worker stopped"] += 1
        await asyncio.sleep(run.rng.choice((1.0, 4.0, 10.0)))
        _send(victim, signal.SIGCONT)


async def _cut(run: StoreRun, kind: str, *directions: str) -> None:
    replica = run.rng.choice(run.replicas.all)
    await asyncio.to_thread(replica.proxy.cut, *directions)
    async with run.window(kind, replica.name, cut=True):
        run.injected[kind] += 1
        await asyncio.sleep(run.rng.uniform(6.0, 8.0))
    # What was held back arrives now, or never.
    if run.rng.random() < 0.5:
        await asyncio.to_thread(replica.proxy.reset)
    await asyncio.to_thread(replica.proxy.heal)


async def cut_off(run: StoreRun) -> None:
    await _cut(run, "replica cut off")


async def cut_up(run: StoreRun) -> None:
    await _cut(run, "replica cut off, up", UP)


async def cut_down(run: StoreRun) -> None:
    await _cut(run, "replica cut off, down", DOWN)


async def delayed(run: StoreRun) -> None:
    replica = run.rng.choice(run.replicas.all)
    async with run.window("delay", replica.name):
        await asyncio.to_thread(replica.proxy.delay, run.rng.choice((0.05, 0.2, 0.6)))
        run.injected["delay"] += 1
        await asyncio.sleep(run.rng.uniform(2.0, 4.0))
        await asyncio.to_thread(replica.proxy.heal)


async def broken_off(run: StoreRun) -> None:
    """Break the connections of one replica to etcd, some with a request on them."""
    replica = run.rng.choice(run.replicas.all)
    async with run.window("connections broken", replica.name):
        for _ in range(5):
            await asyncio.to_thread(replica.proxy.reset)
            run.injected["connections broken"] += 1
            await asyncio.sleep(run.rng.uniform(0.05, 0.3))


async def compacted(run: StoreRun) -> None:
    """Compact what one replica has not read yet; and once more, which concerns nobody."""
    replica = run.rng.choice(run.replicas.all)
    async with run.window("compaction", replica.name):
        await asyncio.to_thread(replica.proxy.cut, DOWN)
        await asyncio.sleep(1.0)
        await _compact(run)
        await asyncio.to_thread(replica.proxy.reset)
        await asyncio.to_thread(replica.proxy.heal)
        await asyncio.sleep(1.0)
    await _compact(run)


async def _compact(run: StoreRun) -> None:
    # Never beyond what the observer has.
    await asyncio.to_thread(run.observer.catch_up)
    await asyncio.to_thread(run.cluster.compact, run.observer.log[-1].revision)
    run.injected["compaction"] += 1


async def restarted(run: StoreRun) -> None:
    async with run.window("etcd restarted"):
        await asyncio.to_thread(run.cluster.stop)
        run.injected["etcd restarted"] += 1
        await run.healed(run.rng.uniform(0.0, 1.0))


async def no_space(run: StoreRun) -> None:
    """Raise the alarm of a full database. Reads go on, so it excuses no answer."""
    await _alarm(run, "ACTIVATE")
    run.injected["no space"] += 1
    await asyncio.sleep(run.rng.uniform(1.0, 3.0))
    await _alarm(run, "DEACTIVATE")


async def _alarm(run: StoreRun, action: str) -> None:
    leader = await asyncio.to_thread(run.cluster.leader)
    ids = [0]
    if action == "DEACTIVATE":
        raised = await asyncio.to_thread(leader.post, "/v3/maintenance/alarm", action="GET")
        ids = [alarm.get("memberID", 0) for alarm in raised.get("alarms", [])]
    for number in ids:
        await asyncio.to_thread(
            leader.post, "/v3/maintenance/alarm", action=action, memberID=number, alarm="NOSPACE"
        )


async def clock_stepped(run: StoreRun) -> None:
    """Step one replica's clock. The store rests on no wall clock, so it excuses no answer."""
    replica = run.rng.choice(run.replicas.all)
    clock = run.clocks[replica.name]
    if clock.missing:
        return
    for ahead in (run.rng.choice((-400, -40, 40, 400)), 0):
        clock.step(ahead)
        run.injected["clock stepped"] += 1
        await asyncio.sleep(run.rng.uniform(1.0, 2.0))


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


KILLS: Mapping[StoreFault, int] = {
    worker_killed: 25,
    leader_killed: 4,
    follower_killed: 4,
    replica_killed: 2,
}
"""How often each is done in a round."""
OTHERS: tuple[StoreFault, ...] = (
    member_stopped,
    left_behind,
    worker_stopped,
    cut_off,
    cut_up,
    cut_down,
    delayed,
    broken_off,
    compacted,
    restarted,
    no_space,
    clock_stepped,
)
