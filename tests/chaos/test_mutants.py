"""The judge finds each mutant of the store in a few seconds, and nothing in the store as it is.

Each scenario is what the mistake is about, on a real etcd: what is held back, stopped or repeated.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.etcd_cluster import EtcdCluster, memory_folder
from tests.support import wait_until
from tests.tcp_proxy import TCPProxy
from webhook.rbac import changes

from . import mutants
from .beside import World
from .history import Judgement, Outcome
from .history_check import judge
from .mutants import RULES, Mutant
from .store_observer import Observer

STALENESS = 1.0
LONGER = 1.5 * STALENESS

Scenario = Callable[[World], None]


@pytest.fixture(scope="module")
def cluster() -> Iterator[EtcdCluster]:
    with memory_folder() as folder, EtcdCluster(folder, fast=True, divisible=True) as running:
        yield running


def with_ann(world: World) -> None:
    """Make a user with one of two roles, at a replica of its own."""
    first = world.replica("setup")
    first.change(changes.add_user, "ann")
    for role in ("a", "b"):
        first.change(changes.add_role, role)
    assert first.change(changes.grant_role, "ann", "a") is Outcome.ACKNOWLEDGED


def answered_right_at_first(world: World, number: int = 1) -> None:
    replica = world._replicas[number]
    replica.answer("ann")
    assert world.answers[-1].told == (("a",), 5)


def read_held_back(world: World) -> None:
    """The answer of a read waits for longer than it proves; meanwhile something changes."""
    a, b = world.replica("a"), world.replica("b")
    answered_right_at_first(world, 2)
    b.client.watches.clear()
    b.client.reads.clear()
    time.sleep(0.6 * STALENESS)
    a.change(changes.revoke_role, "ann", "a")
    time.sleep(LONGER)
    b.client.reads.set()
    b.answers_for(0.8 * STALENESS, "ann")
    b.client.watches.set()
    b.answers_for(0.5, "ann")


def leader_isolated(world: World) -> None:
    """One replica can only reach a leader that the other members have replaced."""
    cluster = world.cluster
    old = cluster.leader()
    a = world.replica("a", [member.endpoint for member in cluster.members if member is not old])
    b = world.replica("b", [old.endpoint])
    answered_right_at_first(world, 2)
    cluster.isolate(old)
    wait_until(lambda: a.change(changes.revoke_role, "ann", "a") is Outcome.ACKNOWLEDGED)
    b.answers_for(3.0, "ann")
    cluster.heal()
    b.answers_for(1.0, "ann")


def request_arrives_late(world: World) -> None:
    """A transaction arrives after its sender has given it up."""
    a = world.replica("a")
    a.client.loses_next = True
    assert a.change(changes.revoke_role, "ann", "a") is not Outcome.ACKNOWLEDGED
    for send in a.client.late:
        send()
    a.answers_for(0.3, "ann")


def request_arrives_twice(world: World) -> None:
    """A proxy repeats transactions, and passes on the second answer."""
    a = world.replica("a")
    a.client.twice = True
    for number in range(5):
        a.change(changes.add_user, f"user-{number}")


def history_lost(world: World) -> None:
    """etcd's data go back to an earlier copy, and get as far as before with other commits."""
    with memory_folder() as copy, TCPProxy(world.cluster.ports) as proxy:
        a, b = world.replica("a"), world.replica("b", proxy.endpoints())
        answered_right_at_first(world, 2)
        world.cluster.copy_data(copy)
        wait_until(lambda: a.change(changes.revoke_role, "ann", "a") is Outcome.ACKNOWLEDGED)
        lost = len(world.changes)
        wait_until(lambda: _told(world, b) == ((), 6))
        world.answers.clear()
        proxy.cut()
        a.close()
        world._replicas.remove(a)
        world.cluster.swap_data(copy)
        c = world.replica("c")
        assert c.change(changes.grant_role, "ann", "b") is Outcome.ACKNOWLEDGED
        # Leeway cannot answer from changes that etcd itself has lost.
        world.changes[4:lost] = []
        time.sleep(LONGER)
        proxy.reset()
        proxy.heal()
        b.answers_for(3.0, "ann")
        b.close()
        world._replicas.remove(b)


def answer_waits_while_cut_off(world: World) -> None:
    """A verdict is made while the replica is cut off, and leaves when it is not any more."""
    with TCPProxy(world.cluster.ports) as proxy:
        a, b = world.replica("a"), world.replica("b", proxy.endpoints())
        answered_right_at_first(world, 2)
        proxy.cut()
        a.change(changes.revoke_role, "ann", "a")
        time.sleep(LONGER)

        def heal() -> None:
            proxy.reset()
            proxy.heal()
            wait_until(lambda: b.proven() > b.store.now() - 0.5)

        b.answer("ann", heal)
        proxy.heal()
        wait_until(lambda: _told(world, b) == ((), 6))
        b.close()
        world._replicas.remove(b)


def change_is_watched(world: World) -> None:
    """Answers all the time, while others change several records at once."""
    a, b = world.replica("a"), world.replica("b")
    for number in range(5):
        change = changes.revoke_role if number % 2 == 0 else changes.grant_role
        a.change(change, "ann", "a")
        b.answers_for(0.4, "ann")


def feed_held_back(world: World) -> None:
    """A change is asked for where the one before it has not arrived."""
    a, b = world.replica("a"), world.replica("b")
    b.client.watches.clear()
    a.change(changes.add_role, "new")
    threading.Timer(0.5, b.client.watches.set).start()
    b.change(changes.grant_role, "ann", "new")


SCENARIOS: dict[Mutant, Scenario] = {
    mutants.proof_after_the_answer: read_held_back,
    mutants.serializable_read: leader_isolated,
    mutants.no_fence: request_arrives_late,
    mutants.refused_is_conflict: request_arrives_twice,
    mutants.revision_without_id: history_lost,
    mutants.global_proof: answer_waits_while_cut_off,
    mutants.half_a_group: change_is_watched,
    mutants.no_read_before_deciding: feed_held_back,
}
CASES = [
    pytest.param(scenario, mutant if is_mutated else mutants.none, id=(
        f"{mutant.__name__}" if is_mutated else f"right in {scenario.__name__}"
    ))
    for mutant, scenario in SCENARIOS.items()
    for is_mutated in (True, False)
]  # fmt: skip


@pytest.mark.parametrize(("scenario", "mutant"), CASES)
def test_the_judge_finds_the_mutant_alone(
    scenario: Scenario,
    mutant: Mutant,
    cluster: EtcdCluster,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        used = cluster
        if scenario is history_lost:
            folder = stack.enter_context(memory_folder())
            used = stack.enter_context(EtcdCluster(folder, size=1, fast=True))
        world = World(used, f"/mutant-{time.monotonic_ns()}", STALENESS)
        try:
            with_ann(world)
            mutant(monkeypatch)
            scenario(world)
            monkeypatch.undo()
            found = _judged(world, tmp_path)
        finally:
            monkeypatch.undo()
            world.close()
            used.heal()
    if mutant is mutants.none:
        assert found.wrong == []
        assert found.counts.get("answers judged", 0) + found.counts["change"] > 5
    else:
        assert any(found.of_rule(rule) for rule in RULES[mutant]), found


def _judged(world: World, folder: Path) -> Judgement:
    observer = Observer(world.cluster, world.prefix, folder / "observer.log")
    try:
        return judge(world.history(observer), wanted={})
    finally:
        observer.close()


def _told(world: World, replica: object) -> object:
    replica.answer("ann")  # type: ignore[attr-defined]
    return world.answers[-1].told
