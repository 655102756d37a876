"""``python -m tests.chaos --store etcd``: two replicas on a real etcd, faults from a seed, a judge.

Each answer and each change is recorded and judged by ``history_check``; see docs/etcd-store.md.
"""

import asyncio
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.e2e.harness import LEEWAY
from tests.etcd_cluster import EtcdCluster, memory_folder
from tests.etcd_member import is_sound, version_of
from tests.etcd_replicas import MAX_STALENESS, Replicas

from .clock import SteppedClock
from .contention import adopt_orphans
from .history import History, Judgement
from .history_answers import BACK_SECONDS
from .history_check import judge
from .history_keys import WANTED
from .machine import is_crash
from .run import helper
from .store_faults import KILLS, OTHERS, StoreFault, StoreRun
from .store_load import StoreLoad
from .store_observer import Observer, digest_in_store

KILLS_WANTED = 500
_SHORT_REVIEWS, _LONG_REVIEWS = 60, 200
_CALM_SECONDS = 5.0
_BETWEEN_SECONDS = 0.3
_SETTLE_SECONDS = 4.0
_PREFIX = "/leeway"
_SHOWN = 8


@dataclass
class StoreReport:
    """What a run has found."""

    seed: int
    etcd: str
    is_sound: bool
    injected: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    reloads: Counter[str] = field(default_factory=Counter)
    commits: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    noted: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def text(self) -> str:
        note = "" if self.is_sound else " (with known faults under stopped members)"
        lines = [f"etcd {self.etcd}{note}, seed {self.seed}, {self.seconds:.0f} s"]
        lines += _table("injected", self.injected)
        lines += _table("counted", self.counts)
        lines += _table("reloads of the store, by reason", self.reloads)
        lines += _table("commits of replicas, by result", self.commits)
        lines += [f"noted: {text}" for text in self.noted[:10]]
        shown = Counter[str]()
        for text in self.problems:
            rule = text.partition(":")[0]
            shown[rule] += 1
            if shown[rule] <= _SHOWN:
                lines.append(f"WRONG: {text}")
        lines += [f"{rule}: {count:,} in all" for rule, count in shown.items() if count > _SHOWN]
        return "\n".join(lines)

    def as_json(self) -> str:
        return json.dumps(
            {
                "seed": self.seed,
                "etcd": self.etcd,
                "sound": self.is_sound,
                "kills": self.kills,
                "injected": self.injected,
                "counts": self.counts,
                "reloads": self.reloads,
                "problems": self.problems,
                "noted": self.noted,
            },
            indent=1,
        )


def _table(title: str, counts: Mapping[str, int]) -> Sequence[str]:
    return [f"{title}:", *(f"  {number:>8,}  {what}" for what, number in sorted(counts.items()))]


@dataclass(frozen=True)
class Plan:
    """How hard to hit: how many kills, reviews a second, and how often each fault in a round."""

    kills: int
    reviews: int
    kill_share: float
    calm: float
    wanted: Mapping[str, int]
    faults: Sequence[StoreFault] = OTHERS


LONG = Plan(KILLS_WANTED, _LONG_REVIEWS, 1.0, _CALM_SECONDS, WANTED)
SHORT = Plan(10, _SHORT_REVIEWS, 0.3, 4.0, {"answers judged": 500, "change": 50})


async def drive_store(
    seed: int,
    plan: Plan,
    tell: Callable[[str], None],
    log: Path,
    program: Sequence[str | Path] = (LEEWAY,),
    environment: Mapping[str, str] | None = None,
) -> StoreReport:
    """Run the faults of a plan against replicas of ``program``, and judge what was recorded."""
    adopt_orphans()
    started = time.monotonic()
    with ExitStack() as stack:
        folder = stack.enter_context(memory_folder())
        cluster = stack.enter_context(EtcdCluster(folder / "etcd"))
        version = version_of(cluster.program)
        report = StoreReport(seed, cluster.version, is_sound(version))
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="leeway-chaos-")))
        clocks: dict[str, SteppedClock] = {}

        def of_replica(name: str) -> Mapping[str, str]:
            (work / f"clock-{name}").mkdir()
            clocks[name] = SteppedClock(work / f"clock-{name}")
            return {**clocks[name].environment(), **(environment or {})}

        replicas = await asyncio.to_thread(
            stack.enter_context,
            Replicas(work, cluster, prefix=_PREFIX, environment=of_replica, program=program),
        )
        observer = Observer(cluster, _PREFIX, work / "observer.log")
        stack.callback(observer.close)
        try:
            run = await _with_load(seed, plan, cluster, replicas, observer, clocks, work, tell)
            _judge(run, plan, report)
        finally:
            logs = [replica.server.log() for replica in replicas]
            log.write_text("\n".join(logs))
        lines = [line for text in logs for line in text.splitlines() if is_crash(line)]
        report.problems += [f"in the log: {line[:2000]}" for line in lines[:20]]
    report.seconds = time.monotonic() - started
    return report


async def _with_load(
    seed: int,
    plan: Plan,
    cluster: EtcdCluster,
    replicas: Replicas,
    observer: Observer,
    clocks: Mapping[str, SteppedClock],
    work: Path,
    tell: Callable[[str], None],
) -> StoreRun:
    revoking = _own_folder(replicas, cluster, work)
    async with helper("revoker", revoking) as revoker:
        assert await revoker.hear() == "ready"
        offsets = {name: clock.offsets for name, clock in clocks.items()}
        load = StoreLoad(replicas, revoker, random.Random(f"{seed}, load"), offsets, work)
        await load.prepare()
        running = asyncio.create_task(load.run(plan.reviews))
        rng = random.Random(f"{seed}, faults")
        run = StoreRun(cluster, replicas, observer, load, clocks, rng)
        try:
            await asyncio.sleep(plan.calm)
            while run.kills < plan.kills:
                await _round(run, plan)
                tell(f"{run.kills} of {plan.kills} kills, {len(load.answers):,} answers")
            await run.healed(_SETTLE_SECONDS)
        finally:
            load.stop()
            await running
        for replica in replicas:
            await run.count_reloads(replica)
    return run


def _own_folder(replicas: Replicas, cluster: EtcdCluster, work: Path) -> Path:
    """Make a data directory for commands, with a way to etcd that nobody cuts."""
    folder = work / "commands"
    shutil.copytree(replicas[0].data_dir, folder)
    file = folder / "leeway.yaml"
    configuration = yaml.safe_load(file.read_text())
    configuration["store"]["etcd"]["endpoints"] = cluster.endpoints
    file.write_text(yaml.safe_dump(configuration))
    return folder


async def _round(run: StoreRun, plan: Plan) -> None:
    """Do each fault once and the kills as often as they come in a round, in any order."""
    faults = list(plan.faults)
    for fault, count in KILLS.items():
        faults += [fault] * max(1, round(count * plan.kill_share))
    run.rng.shuffle(faults)
    for fault in faults:
        try:
            await fault(run)
        except Exception as error:  # the others are still to come
            run.load.problems[f"{fault.__name__}: {type(error).__name__}: {error}"] += 1
            await run.healed()
        await asyncio.sleep(_BETWEEN_SECONDS)
    await asyncio.sleep(plan.calm)


def _judge(run: StoreRun, plan: Plan, report: StoreReport) -> None:
    load = run.load
    differences = run.observer.differences()
    history = History(
        MAX_STALENESS, list(run.observer.log), load.changes, load.answers, load.faults,
        record_digest=digest_in_store,
    )  # fmt: skip
    found: Judgement = judge(history, wanted=plan.wanted)
    report.injected, report.kills = run.injected, run.kills
    report.injected["kills in all"] = run.kills
    found.counts["answers"] = len(load.answers)
    for answer in load.answers:
        if answer.is_503:
            kinds = {
                fault.kind for fault in load.faults
                if fault.replica in ("", answer.replica)
                and fault.begin <= answer.resp and answer.inv <= fault.end + BACK_SECONDS
            }  # fmt: skip
            found.count(f"answers 503 with: {', '.join(sorted(kinds)) or 'nothing'}")
    found.counts["changes"] = len(load.changes)
    found.counts["left out by the driver"] = load.left_out
    report.counts, report.noted = found.counts, found.noted
    report.reloads, report.commits = run.reloads, run.commits
    report.problems += found.wrong + differences + run.observer.strays
    report.problems += [f"{what} ({count} times)" for what, count in load.problems.items()]
