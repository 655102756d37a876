"""How commands print the errors of libraries: no name of Python's types, no error number."""

import re
import time
from pathlib import Path

import pytest

from keys.jws import SigningKey
from tests.support import good_claims, token_of
from tests.unit.webhook.cli.cli_support import Leeway

pytestmark = pytest.mark.fault(40)
PYTHON = re.compile(
    r"\b(?:str|int|bool|NoneType|dict|tuple|bytes)\b|\[Errno|unicode string|_ssl\.c|Expected `|"
    r"Traceback|\(char [0-9]+\)|\(byte [0-9]+\)| - at "
)


def assert_in_words(text: str) -> None:
    found = PYTHON.search(text)
    assert found is None, text[max(0, found.start() - 80) : found.end() + 80]


CONFIGURATIONS = [
    "audiences: a",
    "server: {workers: two}",
    "server: {workers: {}}",
    "tokens: []",
    "tokens: {extend: 3}",
    "issuer: null",
    "trustedIssuers: {}",
    "trustedIssuers: [{keys: {}}]",
    "trustedIssuers: [1]",
    "nope: 1",
]


@pytest.mark.parametrize("line", CONFIGURATIONS)
def test_in_a_configuration(leeway: Leeway, data_dir: Path, line: str) -> None:
    head = "apiVersion: leeway.dev/v1\nkind: LeewayConfiguration\n"
    (data_dir / "leeway.yaml").write_text(f"{head}{line}\n")
    assert_in_words(leeway("config", "validate", "--data-dir", data_dir).assert_failed(2))


CLAIMS = [
    {"exp": 253402300800},
    {"exp": "1"},
    {"iat": None},
    {"aud": [1]},
    {"sub": {}},
    {"kubernetes.io": []},
    {"kubernetes.io": {"namespace": 1}},
    {"kubernetes.io": {"namespace": "a", "serviceaccount": {"name": "b"}}},
]


@pytest.mark.parametrize("changes", CLAIMS, ids=str)
def test_in_claims(
    leeway: Leeway, made: Path, own_key: SigningKey, changes: dict[str, object]
) -> None:
    now = int(time.time())
    token = token_of(good_claims(exp=now + 600, iat=now, nbf=now) | changes, own_key)
    ran = leeway("token", "review", token, "--data-dir", made)
    assert ran.code == 1
    assert_in_words(ran.out + ran.err)


@pytest.mark.parametrize("text", ["", "1", "[]", "{", '{"spec": 1}', '{"spec": {"groups": 1}}'])
def test_in_a_request(leeway: Leeway, data_dir: Path, text: str) -> None:
    ran = leeway("can-i", "--request", text, "--data-dir", data_dir)
    assert ran.code == 2
    assert_in_words(ran.err)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"keys": 1}', '{"keys": [1]}', '{"clock": -1}'])
def test_in_a_key_schedule(leeway: Leeway, data_dir: Path, text: str) -> None:
    (data_dir / "keys" / "schedule.json").write_text(text)
    ran = leeway("keys", "list", "--data-dir", data_dir)
    assert ran.code in (2, 3)
    assert_in_words(ran.err)


def test_of_the_operating_system(leeway: Leeway, data_dir: Path) -> None:
    ran = leeway("init", "--data-dir", data_dir / "leeway.yaml" / "x")
    assert_in_words(ran.assert_failed(3, "Not a directory"))
