"""Random JSON for etcd 3.6 and Leeway: Leeway accepts nothing that etcd refuses.

``TEST_DIFF_SEED`` repeats a run, ``TEST_DIFF_BODIES`` makes it longer.
"""

import json
import os
import random
import secrets
from collections import Counter
from typing import Final

import pytest

from .pair import Pair, etcd_program

# The fields of each call that does not turn auth on.
_CALLS: Final = {
    "user/add": ("name", "password", "options"),
    "user/get": ("name",),
    "user/list": (),
    "user/delete": ("name",),
    "user/changepw": ("name", "password"),
    "user/grant": ("user", "role"),
    "user/revoke": ("name", "role"),
    "role/add": ("name",),
    "role/get": ("role",),
    "role/list": (),
    "role/delete": ("role",),
    "role/grant": ("name", "perm"),
    "role/revoke": ("role", "key", "range_end"),
    "authenticate": ("name", "password"),
    "status": (),
}
_GOOD: Final = {
    "options": '{"no_password":true}',
    "perm": '{"key":"aw==","permType":"WRITE"}',
    "key": '"aw=="',
    "range_end": '"bA"',
}
_ODD: Final = (
    "null", "true", "0", "-1", "1.5", "1e2", '""', '"2"', '"READ"', '"aw"', '"_w"', '"!"', "[]",
    '["a"]', "{}", '{"noPassword":true}', '{"no_password":"true"}', '{"no_password":null}', "NaN",
    '"\\u0000"', '"\\ud83d\\ude00"', '"\\ud800"', '"\\x"', '"a\tb"', '"\u00e9"', "01", ".5", "'a'",
    '{"key":"YQ","rangeEnd":"Yg"}', '{"key":"YQ","range_end":null,"permType":2}', '{"key":""}',
    '{"key":"-_8","permType":2e0}', '{"key":"YQ","permType":"2"}', '{"key":null}', '{"a":1,}',
    '"open',
)  # fmt: skip
_OTHER_NAMES: Final = (*_GOOD, "rangeEnd", "hashedPassword", "x", "Name", "permType", "user")
_AROUND: Final = (" ", "\n", "\ufeff", "x", "{}", "[", "/**/", ",")
# Leeway's texts where only Leeway refuses; contract 5, and keys.encoding.
_STRICTER: Final = (
    "unknown field",
    "trailing characters",
    "the password is empty",
    "twice",
    "is not base64",
    "permType is",
)


def _body(chance: random.Random, call: str) -> bytes:
    members = []
    for name in _CALLS[call]:
        if chance.random() < 0.85:
            good = _GOOD.get(name, chance.choice(('"a"', '"b"', '"r"')))
            members.append((name, chance.choice(_ODD) if chance.random() < 0.3 else good))
    while chance.random() < 0.1:
        name = chance.choice(_OTHER_NAMES)
        members.insert(chance.randint(0, len(members)), (name, chance.choice(_ODD)))
    text = "{" + ",".join(f'"{name}": {value}' for name, value in members) + "}"
    if chance.random() < 0.05:
        text = chance.choice(_AROUND) + text
    if chance.random() < 0.05:
        text += chance.choice(_AROUND)
    return text.encode()


def _post(pair: Pair, call: str, body: bytes) -> list[tuple[int, dict[str, object]]]:
    answers = []
    for connection in (pair.etcd, pair.certified):
        headers = {"Content-Type": "application/json"}
        connection.request("POST", f"/v3/auth/{call}", body, headers)
        response = connection.getresponse()
        answers.append((response.status, json.loads(response.read())))
    return answers


@pytest.mark.fault(14)
def test_random_bodies_are_parsed_alike(pair: Pair) -> None:
    if not etcd_program().is_3_6:
        pytest.skip("etcd 3.5 reads JSON in another way; set KUBEBUILDER_ASSETS to use 3.6")
    seed = int(os.environ.get("TEST_DIFF_SEED") or secrets.randbelow(2**32))
    count = int(os.environ.get("TEST_DIFF_BODIES") or 2000)
    print(f"TEST_DIFF_SEED={seed}")
    chance = random.Random(seed)
    seen: Counter[str] = Counter()
    for _ in range(count):
        call = chance.choice(sorted(_CALLS))
        body = _body(chance, call)
        (status, etcd), (own_status, leeway) = _post(pair, call, body)
        where = f"{call} {body!r}: etcd {status} {etcd}, Leeway {own_status} {leeway}"
        message, own_message = str(etcd.get("message", "")), str(leeway.get("message", ""))
        if (status, message) == (own_status, own_message):
            seen["alike"] += 1
        elif status == 400 and not message.startswith("etcdserver:"):
            # The text of etcd's JSON parser, which Leeway replaces by its own.
            assert (own_status, leeway["code"]) == (400, 3), where
            seen["not JSON of the call"] += 1
        else:
            assert (own_status, leeway["code"]) == (400, 3), where
            reason = next((text for text in _STRICTER if text in own_message), "")
            assert reason, where
            seen[reason] += 1
            if status == 200:
                pair.reset()
    print(dict(seen))
    # Refusals that any seed reaches; the others are in test_script.
    assert seen.keys() >= {"alike", "not JSON of the call", *_STRICTER[:2]}
