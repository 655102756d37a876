"""Three years of rotation by three replicas that are killed, and whose clocks go wrong.

No part of the code under test says when a token expires, or how long a key has been published.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from keys.errors import KeyScheduleError
from keys.keyring import KeyState
from keys.rotation import due_step
from tests.etcd_cluster import memory_folder
from tests.memory_backend import MemoryBackend
from tests.unit.webhook.store_keys.replicas_world import (
    DAY,
    LEEWAY,
    MAX_AGE,
    POLICY,
    PUBLISH,
    Replica,
    T,
    World,
)
from webhook.rbac.errors import OutcomeUnknownError
from webhook.rbac.records import Record

YEAR = 365 * DAY
CLOCKS = (-YEAR, -400, -40, 40, 400, YEAR)
NAMES = ("a", "b", "c")


class Killed(BaseException):
    """The process is gone."""


class Mortal:
    """A backend that ends its process, or loses the answer, before or after a commit."""

    def __init__(self, backend: MemoryBackend, source: random.Random) -> None:
        self._backend = backend
        self._source = source
        self.kills = 0.0

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        fate = self._source.random()
        if fate < self.kills:
            raise Killed
        revision = self._backend.commit(expected, records)
        if fate < 2 * self.kills:
            raise Killed
        if fate < 3 * self.kills:
            raise OutcomeUnknownError("it is not known whether the change was made")
        return revision


class Years(World):
    """A world in which every signature and every JWKS is checked."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder)
        self.source = random.Random(seed)
        self.mortal = Mortal(self.backend, self.source)
        self.dies: dict[str, float] = {}
        self.listed: dict[tuple[int, str], float] = {}
        self.deaths = self.wrong_clocks = 0
        self.made: set[str] = set()
        self.backend_of_replicas = self.mortal
        for name in NAMES:
            self.add(name)
        self.burst()

    def step(self, seconds: float) -> None:
        self.true += seconds
        order = list(range(len(NAMES)))
        self.source.shuffle(order)
        for place in order:
            self.poll(place)
        for replica in self.replicas:
            replica.keys.store.refresh()
            replica.watcher.catch_up()
        self.check()
        for replica in self.replicas:
            self.sign(replica)

    def poll(self, place: int) -> None:
        try:
            self.replicas[place].watcher.poll()
        except Killed:
            self.deaths += 1
            self.restart(place)

    def restart(self, place: int) -> None:
        """Start a replica, now and then with an empty data directory and another name."""
        name, ahead = NAMES[place], self.replicas[place].ahead
        if self.source.random() < 0.2:
            name = f"{name}{self.deaths}"
        kills, self.mortal.kills = self.mortal.kills, 0.0
        self.replicas[place] = Replica(self, name, ahead=ahead)
        self.mortal.kills = kills

    def burst(self) -> None:
        """Let the replicas see each other's records live, as they do each second."""
        kills, self.mortal.kills = self.mortal.kills, 0.0
        for _ in range(8):
            self.step(20)
        self.mortal.kills = kills

    def sign(self, replica: Replica) -> None:
        try:
            kid = replica.active
        except KeyScheduleError:
            assert replica.ahead in (-YEAR, YEAR)
            return
        for other in self.replicas:
            since = self.listed[id(other), kid]
            assert self.true - since >= MAX_AGE or since == 0
        dies = replica.now + POLICY.token_seconds + LEEWAY
        self.dies[kid] = max(self.dies.get(kid, 0), dies)

    def check(self) -> None:
        keyring = self.keyring()
        assert sum(key.state is KeyState.ACTIVE for key in keyring.keys) == 1
        self.made |= {key.kid for key in keyring.keys}
        for replica in self.replicas:
            published = {key.kid for key in replica.watcher.keyring.published_keys()}
            for kid in published:
                # A replica that has just started lists what others have listed for long.
                known = [s for (_, k), s in self.listed.items() if k == kid]
                first = min(known, default=0.0 if self.true <= T + 60 else self.true)
                self.listed.setdefault((id(replica), kid), first)
            verifying = {key.kid for key in replica.watcher.keyring.verification_keys()}
            now = max(self.true, replica.now if abs(replica.ahead) < DAY else self.true)
            assert {kid for kid, dies in self.dies.items() if dies >= now} <= verifying

    def is_quiet(self) -> bool:
        """Return whether no step is due for a day."""
        keyring = self.keyring()
        pending = any(key.state is KeyState.PENDING for key in keyring.keys)
        later = int(self.true) + DAY + 2 * PUBLISH
        return not pending and due_step(keyring, POLICY, later) is None


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder in memory, if possible: a disk would take most of the time."""
    with memory_folder() as found:
        yield found


@pytest.mark.bad_input(70)
@pytest.mark.parametrize("seed", [1])
def test_three_years_with_three_replicas(folder: Path, seed: int) -> None:
    years = Years(folder, seed)
    source = years.source
    years.mortal.kills = 0.01
    while years.true < T + 3 * YEAR:
        years.step(source.randrange(600, 3000) if not years.is_quiet() else 0.8 * DAY)
        if source.random() < 0.01:
            wrong = years.replicas[source.randrange(3)]
            wrong.ahead = source.choice(CLOCKS)
            years.wrong_clocks += 1
            years.burst()
            for _ in range(source.randrange(1, 20)):
                years.step(source.randrange(600, 3000))
            for replica in years.replicas:
                replica.ahead = 0.0
            years.burst()
        if source.random() < 0.02:
            years.deaths += 1
            years.restart(source.randrange(3))
            years.burst()
    assert len(years.made) in range(33, 38)
    assert years.deaths > 50
    assert years.wrong_clocks > 20
    assert not any(replica.watcher.problem() for replica in years.replicas)


def test_the_world_notices_a_key_that_signs_too_early(tmp_path: Path) -> None:
    from webhook.store_keys.changes import rotate

    years = Years(tmp_path, 3)
    rotate(years.keys(), POLICY, int(years.true))
    years.step(60)
    rotate(years.keys(), replace(POLICY), int(years.true), force=True)
    with pytest.raises(AssertionError):
        years.step(60)
