"""Random operations and queries on a real etcd and on Leeway.

``TEST_DIFF_SEED`` repeats a run, ``TEST_DIFF_COUNT`` makes it longer.
"""

import os
import random
import secrets
from collections import Counter

from .pair import Pair
from .player import OPEN_END, Player, is_valid

_COMPARE_EVERY = 250
# Of so many operations the last ones are made with auth off.
_ROUND, _OFF = 500, 100
# Refusals that random operations reach with any seed. The others are in test_script.
_REFUSALS = {
    "etcdserver: authentication failed, invalid user ID or password",
    "etcdserver: authentication is not enabled",
    "etcdserver: invalid auth management",
    "etcdserver: invalid auth token",
    "etcdserver: permission denied",
    "etcdserver: permission is not granted to the role",
    "etcdserver: role is not granted to the user",
    "etcdserver: role name already exists",
    "etcdserver: role name is empty",
    "etcdserver: role name not found",
    "etcdserver: user name already exists",
    "etcdserver: user name is empty",
    "etcdserver: user name not found",
}
_OPERATIONS_A_STATE, _OFF_A_STATE = 60, 5
_CELLS = (
    ("put", "point"), ("range", "point"), ("range", "range"), ("range", "open"),
    ("deleterange", "point"), ("deleterange", "range"), ("deleterange", "open"),
)  # fmt: skip
_TIMES_EACH = 10


def _number(name: str, default: int) -> int:
    return int(os.environ.get(name) or default)


def _player(pair: Pair) -> tuple[Player, int]:
    seed = _number("TEST_DIFF_SEED", secrets.randbelow(2**32))
    print(f"TEST_DIFF_SEED={seed}")
    player = Player(pair, random.Random(seed))
    pair.tokens["forged"] = ("no.such.token", "no.such.token")
    player.turn_on()
    return player, seed


def test_random_operations_are_answered_alike(pair: Pair) -> None:
    count = _number("TEST_DIFF_COUNT", 5000)
    player, seed = _player(pair)
    for number in range(count):
        try:
            player.turn(on=number % _ROUND < _ROUND - _OFF)
            player.step()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, operation {number}: {error}") from error
        if number % _COMPARE_EVERY == 0:
            player.compare()
    player.compare()
    print(dict(player.done), dict(player.refused))
    assert sum(player.done.values()) == count
    # Coverage: every call, and every refusal that does not need a rare state.
    assert len(player.done) == 15
    assert player.refused.keys() >= _REFUSALS


def test_random_queries_have_the_same_verdict(pair: Pair) -> None:
    count = _number("TEST_DIFF_QUESTIONS", 3000)
    player, seed = _player(pair)
    verdicts: Counter[tuple[str, str, bool]] = Counter()
    answers = [(*cell, verdict) for cell in _CELLS for verdict in (True, False)]
    # Some seeds take longer to reach each answer often enough.
    while sum(verdicts.values()) < count or (
        min(verdicts[answer] for answer in answers) < _TIMES_EACH
        and sum(verdicts.values()) < 5 * count
    ):
        for number in range(_OPERATIONS_A_STATE):
            player.turn(on=number >= _OFF_A_STATE)
            player.step()
        users = player.prepare_logins()
        for user in users:
            for _ in range(40):
                key, end = player.span()
                if not is_valid(key, end):
                    continue
                operation = player.random.choice(("put", "range", "deleterange"))
                end = b"" if operation == "put" else end
                permission = "READ" if operation == "range" else "WRITE"
                etcd = pair.may_at_etcd(user, operation, key, end)
                leeway = pair.may_at_leeway(user, permission, key, end)
                assert leeway == etcd, (
                    f"seed {seed}: {operation} {key!r} {end!r} as {user}: etcd {etcd}, "
                    f"Leeway {leeway}; {pair.snapshot()}"
                )
                shape = "point" if not end else "open" if end == OPEN_END else "range"
                verdicts[operation, shape, etcd] += 1
    print(dict(verdicts))
    assert min(verdicts[answer] for answer in answers) >= _TIMES_EACH
