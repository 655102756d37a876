"""Which key signs, which keys kube-apiserver fetches, and what it takes for a change of them."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from keys.errors import KeyScheduleError
from keys.folder import SCHEDULE_FILE, load_keyring
from keys.folder_changes import generate_key, retire, rotate, write_schedule
from keys.keyring import Keyring, KeyState, ScheduledKey
from keys.pem import public_key_pem
from keys.rotation import RotationPolicy
from tests.support import signing_key
from webhook.signer.key_set import KeySet, key_set_of

T = 1_796_000_000
POLICY = RotationPolicy(jwks_max_age=3600, token_seconds=86400, refresh_hint=60)


def scheduled(
    name: str,
    state: KeyState,
    since: int = T,
    algorithm: str = "ES256",
    published: int | None = None,
) -> ScheduledKey:
    key = signing_key(algorithm, name)
    return ScheduledKey(key.verification_key, key, state, since, None, published)


def kids(found: KeySet) -> list[str]:
    return [key.kid for key in found.published]


def test_every_key_but_a_retired_one_is_fetched_in_the_order_of_kids() -> None:
    keys = [scheduled(state.value, state) for state in KeyState]
    found = key_set_of(Keyring(tuple(keys)))
    assert kids(found) == sorted(key.kid for key in keys if key.state is not KeyState.RETIRED)
    assert found.kid == keys[list(KeyState).index(KeyState.ACTIVE)].kid


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "ES384", "ES512"])
def test_algorithms_of_kube_apiserver(algorithm: str) -> None:
    found = key_set_of(Keyring((scheduled("a", KeyState.ACTIVE, algorithm=algorithm),)))
    assert found.published[0].algorithm == algorithm
    assert found.left_out == ()


@pytest.mark.parametrize("algorithm", ["EdDSA", "PS256", "RS512"])
def test_other_algorithms_neither_sign_nor_are_fetched(algorithm: str) -> None:
    other = scheduled("other", KeyState.ACTIVE, algorithm=algorithm)
    with pytest.raises(KeyScheduleError, match=f"is for {algorithm}, .* keys.algorithm to one of"):
        key_set_of(Keyring((other,)))
    old = scheduled("other", KeyState.VERIFY_ONLY, T + 50, algorithm)
    found = key_set_of(Keyring((scheduled("a", KeyState.ACTIVE), old)))
    assert old.kid not in kids(found)
    assert found.left_out == (old.kid,)
    assert found.timestamp[0] == T


def test_without_an_active_key() -> None:
    with pytest.raises(KeyScheduleError, match="no signing key is active"):
        key_set_of(Keyring((scheduled("a", KeyState.PENDING),)))


def test_the_timestamp_changes_exactly_when_the_set_does(tmp_path: Path) -> None:
    """In each step of a key, and after the folder was read again or copied."""
    first = generate_key(tmp_path, "ES256", T)
    found = [key_set_of(load_keyring(tmp_path))]

    def note() -> None:
        found.append(key_set_of(load_keyring(tmp_path)))

    for moment in (T + 10, T + 20):
        rotate(tmp_path, POLICY, moment)  # published
        note()
        write_schedule(tmp_path, moment + 1)
        note()
        rotate(tmp_path, POLICY, moment + 2, force=True)  # active
        note()
    retire(tmp_path, first.kid, POLICY, T + 30, force=True)
    note()
    old = signing_key("ES256", "copied").verification_key
    copied = tmp_path / "old.pem"
    copied.touch(mode=0o600)
    copied.write_bytes(public_key_pem(old.public_key))
    note()
    sets = [kids(entry) for entry in found]
    assert len({tuple(entry) for entry in sets}) == 5
    for before, after in pairwise(found):
        assert (before.timestamp == after.timestamp) == (kids(before) == kids(after))
    seconds = [entry.timestamp[0] for entry in found[:-1]]
    assert seconds == [T, *[T + 10] * 3, *[T + 20] * 4]


def test_without_a_signer_an_older_leeway_can_read_the_schedule(tmp_path: Path) -> None:
    policy = replace(POLICY, refresh_hint=0)
    generate_key(tmp_path, "ES256", T)
    rotate(tmp_path, policy, T + 10)
    rotate(tmp_path, policy, T + 20, force=True)
    assert b"published" not in (tmp_path / SCHEDULE_FILE).read_bytes()


def test_a_schedule_of_leeway_0_1_has_no_time_of_publication(tmp_path: Path) -> None:
    generate_key(tmp_path, "ES256", T)
    rotate(tmp_path, POLICY, T + 10)
    rotate(tmp_path, POLICY, T + 20, force=True)
    path = tmp_path / SCHEDULE_FILE
    schedule = json.loads(path.read_bytes())
    assert [entry.pop("published") for entry in schedule["keys"]] == [T, T + 10]
    path.write_text(json.dumps(schedule))
    before = key_set_of(load_keyring(tmp_path))
    assert before.timestamp[0] == T + 20
    write_schedule(tmp_path, T + 30)
    assert key_set_of(load_keyring(tmp_path)).timestamp == before.timestamp
