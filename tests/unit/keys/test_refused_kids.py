"""Keys that ``keys.refused`` names neither sign nor verify, wherever they are stored."""

from dataclasses import replace
from pathlib import Path

import pytest

from keys.errors import KeyScheduleError
from keys.folder import load_keyring
from keys.folder_changes import generate_key, rotate
from keys.folder_watch import KeyFolderWatcher
from keys.keyring import Keyring, KeyState, ScheduledKey
from keys.rotation import (
    RotationPolicy,
    Step,
    StepKind,
    activated,
    next_step,
    requested_step,
    with_times,
)
from tests.support import signing_key

DAY = 86400
T = 1_800_000_000
POLICY = RotationPolicy(jwks_max_age=3600, token_seconds=DAY, rotate_every=30 * DAY)


def scheduled(name: str, state: KeyState) -> ScheduledKey:
    key = signing_key("ES256", name)
    return ScheduledKey(key.verification_key, key, state, T, T + DAY)


ACTIVE = scheduled("active", KeyState.ACTIVE)
PENDING = scheduled("pending", KeyState.PENDING)
OLD = scheduled("old", KeyState.VERIFY_ONLY)
RING = Keyring((ACTIVE, PENDING, OLD), T)


def test_without_a_refused_key() -> None:
    assert RING.without(()) is RING
    assert RING.without({"another"}) is RING
    left = RING.without({OLD.kid})
    assert {key.kid for key in left.published_keys()} == {ACTIVE.kid, PENDING.kid}
    assert left.signing_key().verification_key.kid == ACTIVE.kid


def test_nothing_signs_where_the_active_key_is_refused() -> None:
    left = RING.without({ACTIVE.kid})
    with pytest.raises(
        KeyScheduleError, match=rf"{ACTIVE.kid}.*keys\.refused.*keys rotate --force"
    ):
        left.signing_key()
    assert ACTIVE.kid not in {key.kid for key in left.published_keys()}
    assert [key.kid for key in left.verification_keys()] == [OLD.kid]


def test_a_refused_key_never_becomes_active() -> None:
    policy, late = replace(POLICY, refused=frozenset({PENDING.kid})), T + 40 * DAY
    with pytest.raises(KeyScheduleError, match=r"keys\.refused"):
        activated(RING, PENDING.kid, policy, late, force=True)
    assert requested_step(RING, policy, T) == Step(StepKind.PUBLISH)
    assert next_step(RING, PENDING, policy).state is KeyState.RETIRED


def test_a_folder_with_a_refused_key(tmp_path: Path) -> None:
    generate_key(tmp_path, "ES256", T)
    (first,) = load_keyring(tmp_path).keys
    watcher = KeyFolderWatcher(tmp_path, POLICY, clock=lambda: T, steady=lambda: 0.0)
    assert watcher.keyring.signing_key()
    refusing = replace(POLICY, refused=frozenset({first.kid}))
    taken: list[Keyring] = []
    another = KeyFolderWatcher(tmp_path, refusing, taken.append, clock=lambda: T)
    assert another.keyring.refusal
    watcher.use(refusing)
    assert watcher.keyring.refusal == another.keyring.refusal
    # The way out: another key takes over.
    rotate(tmp_path, refusing, T)
    rotate(tmp_path, refusing, T + 1, force=True)
    for _ in range(3):
        another.poll()
    assert another.keyring.signing_key().verification_key.kid != first.kid
    assert taken[-1].content() == another.keyring.content()
    assert first.kid not in {key.kid for key in another.keyring.verification_keys()}


@pytest.mark.parametrize(
    ("latest", "clock"),
    [(None, T + DAY), (T + 1200, T + 1200), (T - 5, T), (T + 2 * DAY, T + DAY)],
)
def test_how_far_the_recorded_clock_moves(latest: int | None, clock: int) -> None:
    noted = with_times(RING, POLICY, T + DAY, latest=latest)
    assert noted.clock == clock
    # The end of the last token is that of the present clock.
    assert noted.key(ACTIVE.kid).until == T + DAY + POLICY.keep_seconds


def test_a_keyring_that_refuses() -> None:
    refusing = RING.refusing("because")
    with pytest.raises(KeyScheduleError, match=r"^because$"):
        refusing.signing_key()
    assert refusing.content() != RING.content()
    without_private = replace(ACTIVE, signing_key=None)
    assert Keyring((without_private,), T, "because").active == without_private
    with pytest.raises(KeyScheduleError, match="no private key"):
        Keyring((without_private,), T)
