"""One of three replicas has a wrong clock: it ends no key, and holds up the steps of all."""

import logging
from pathlib import Path

import pytest

from keys.keyring import KeyState
from keys.rotation import MARK_SECONDS
from tests.unit.webhook.store_keys.replicas_world import DAY, KEEP, POLICY, PUBLISH, World, states
from webhook.store_keys.replicas import HEARTBEAT_SECONDS

YEAR = 365 * DAY


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def until_a_key_is_nearly_over(world: World) -> str:
    """Let a key be verify-only, and its last token expire in 2,000 seconds; return its kid."""
    first = world.keyring().signing_key().verification_key.kid
    world.skip(POLICY.rotate_every + 100)
    until = world.keyring().key(first).until
    assert until is not None
    world.skip(until - 2000 - world.true)
    assert states(world.keyring()) == [KeyState.VERIFY_ONLY, KeyState.ACTIVE]
    return first


HOLDS = [-400, 400, -YEAR, YEAR]


@pytest.mark.bad_input(70)
@pytest.mark.parametrize("ahead", HOLDS)
@pytest.mark.parametrize("when", ["at-start", "while-running"])
def test_a_replica_with_a_wrong_clock(
    world: World, ahead: int, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = until_a_key_is_nearly_over(world)
    world.add("a"), world.add("b")
    if when == "while-running":
        world.add("c")
    world.pass_time(MARK_SECONDS + 20)
    before, version = world.keyring(), world.keys().present().version
    if when == "at-start":
        world.add("c", ahead=ahead)
    else:
        world.replicas[2].ahead = ahead
    # Within the time of the greeting, all know.
    with caplog.at_level(logging.WARNING, "leeway"):
        world.pass_time(120)
    assert "the clock of another replica is" in caplog.text
    assert all("correct the clock" in replica.watcher.step_problem() for replica in world.replicas)
    # Past the end of the first key.
    world.pass_time(4000)
    after = world.keyring()
    assert states(after) == states(before)
    assert first in {key.kid for key in after.verification_keys()}
    # Two of three agree on the time, so it is still recorded: nobody takes this for a restore.
    assert abs(after.clock - world.true) <= 2 * MARK_SECONDS
    assert world.keys().present().version > version
    # The right clocks sign all the time.
    assert all(replica.active for replica in world.replicas[:2])
    # The clock is set right, and the steps go on.
    world.replicas[2].ahead = 0
    world.pass_time(PUBLISH + HEARTBEAT_SECONDS + 3 * MARK_SECONDS)
    assert not any(replica.watcher.step_problem() for replica in world.replicas)
    assert world.state(first) is KeyState.RETIRED


@pytest.mark.bad_input(70)
@pytest.mark.parametrize("ahead", [-40, 40])
@pytest.mark.parametrize("when", ["at-start", "while-running"])
def test_a_difference_that_the_waits_allow_for(world: World, ahead: int, when: str) -> None:
    first = until_a_key_is_nearly_over(world)
    until = world.keyring().key(first).until
    assert until is not None
    world.add("a"), world.add("b")
    third = world.add("c", ahead=ahead if when == "at-start" else 0)
    world.pass_time(MARK_SECONDS)
    third.ahead = ahead
    world.pass_time(until - world.true - 60)
    assert world.state(first) is KeyState.VERIFY_ONLY
    world.pass_time(120)
    assert world.state(first) is KeyState.RETIRED
    assert not any(replica.watcher.step_problem() for replica in world.replicas)


@pytest.mark.bad_input(70)
@pytest.mark.parametrize("ahead", HOLDS)
def test_a_single_replica_that_starts_with_a_wrong_clock(world: World, ahead: int) -> None:
    """Nobody is there to compare with, but the recorded clock."""
    only = world.add("a")
    world.pass_time(MARK_SECONDS)
    (first,) = world.keyring().keys
    world.replicas.clear()
    only = world.add("b", ahead=ahead)
    world.pass_time(4 * MARK_SECONDS)
    after = world.keyring()
    assert states(after) == [KeyState.ACTIVE]
    # It moves towards that clock by a bounded step in ten minutes.
    assert after.clock <= world.true + 6 * MARK_SECONDS
    if ahead == YEAR:
        # Longer ago than any token lives: a restored store looks the same.
        assert "accept --restored" in only.watcher.keyring.refusal
    else:
        assert only.active == first.kid


def test_no_step_before_a_replica_has_settled(world: World) -> None:
    world.skip(POLICY.rotate_every - PUBLISH - 60)
    world.true += 60
    b = world.add("b")
    world.pass_time(MARK_SECONDS - 20)
    assert states(b.watcher.keyring) == [KeyState.ACTIVE]
    world.pass_time(60)
    assert states(b.watcher.keyring) == [KeyState.ACTIVE, KeyState.PENDING]


def test_what_arrives_late_is_not_compared(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica was cut off for an hour: then it loads records with old times."""
    a, b = world.add("a"), world.add("b")
    world.pass_time(2 * HEARTBEAT_SECONDS)
    world.replicas.remove(a)
    world.pass_time(HEARTBEAT_SECONDS + 40)
    world.replicas.clear()
    world.true += 3600
    world.replicas.append(a)
    world.pass_time(60)
    assert a.watcher.step_problem() == ""
    world.replicas.append(b)
    world.pass_time(2 * HEARTBEAT_SECONDS)
    assert a.watcher.step_problem() == b.watcher.step_problem() == ""


def test_a_store_that_was_off_for_hours_catches_up(world: World) -> None:
    """Its clock is followed in steps; until then no key takes a step."""
    world.skip(POLICY.rotate_every - PUBLISH - 60)
    world.true += 4 * 3600
    a = world.add("a")
    assert a.active
    world.pass_time(PUBLISH)
    assert world.keyring().clock < world.true - 2 * MARK_SECONDS
    assert states(world.keyring()) == [KeyState.ACTIVE]
    world.pass_time(2 * 3600)
    assert states(world.keyring()) == [KeyState.ACTIVE, KeyState.PENDING]
    assert world.true - world.keyring().clock <= 2 * MARK_SECONDS


@pytest.mark.bad_input(70)
@pytest.mark.parametrize("ahead", [-3 * DAY, -400, 3 * DAY])
def test_of_two_replicas_the_right_one_signs_after_a_restart(world: World, ahead: int) -> None:
    world.add("a"), world.add("b")
    world.pass_time(MARK_SECONDS + 20)
    world.replicas[1].ahead = ahead
    world.pass_time(KEEP + 4000, 28)
    assert world.replicas[0].watcher.step_problem()
    assert abs(world.keyring().clock - world.true) < 3 * MARK_SECONDS
    assert world.add("a").active
