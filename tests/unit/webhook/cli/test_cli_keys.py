"""``leeway keys``."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cli_support import Leeway

from keys.pem import ALGORITHMS
from webhook.assembly import keyring_of


def test_list(leeway: Leeway, data_dir: Path) -> None:
    leeway("keys", "generate", "--algorithm", "ES384", "--data-dir", data_dir).assert_done()
    rows = json.loads(leeway("keys", "list", "-o", "json", "--data-dir", data_dir).assert_done())
    assert [(row["algorithm"], row["state"]) for row in rows] == [
        ("ES384", "pending"),
        ("ES256", "active"),
    ]
    assert rows[1]["since"] == "2027-01-15T07:43:20Z"
    assert {row["kid"] for row in rows} == {key.kid for key in keyring_of(data_dir).keys}
    listed = leeway("keys", "list", "-o", "yaml", "--data-dir", data_dir).assert_done()
    assert yaml.safe_load(listed) == rows
    lines = leeway("keys", "list", "--data-dir", data_dir).assert_done().splitlines()
    assert lines[0].split() == ["KID", "ALGORITHM", "STATE", "SINCE"]
    assert [line.split() for line in lines[1:]] == [list(row.values()) for row in rows]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_generate(leeway: Leeway, data_dir: Path, algorithm: str) -> None:
    active = keyring_of(data_dir).signing_key().verification_key.kid
    ran = leeway("keys", "generate", "--algorithm", algorithm, "--data-dir", data_dir)
    match = re.fullmatch(r"key (\S+) created, it is pending\n", ran.assert_done())
    assert match
    keyring = keyring_of(data_dir)
    made = next(key for key in keyring.keys if key.kid == match[1])
    assert made.verification_key.algorithm == algorithm
    assert keyring.signing_key().verification_key.kid == active
    assert (data_dir / "keys" / f"{match[1]}.pem").stat().st_mode & 0o777 == 0o600


def test_the_first_key_is_active(leeway: Leeway, data_dir: Path) -> None:
    for path in (data_dir / "keys").iterdir():
        path.unlink()
    out = leeway("keys", "generate", "--data-dir", data_dir).assert_done()
    assert out.endswith(" created, it is active\n")
    assert keyring_of(data_dir).signing_key().verification_key.algorithm == "RS256"


def test_jwks(leeway: Leeway, data_dir: Path) -> None:
    leeway("keys", "generate", "--algorithm", "RS256", "--data-dir", data_dir).assert_done()
    document = json.loads(leeway("keys", "jwks", "--data-dir", data_dir).assert_done())
    assert {key["kid"]: key["alg"] for key in document["keys"]} == {
        key.kid: key.verification_key.algorithm for key in keyring_of(data_dir).keys
    }
    # Public parts only: no member of RFC 7518's private ones.
    assert not {"d", "p", "q", "dp", "dq", "qi", "oth", "k"} & {
        name for key in document["keys"] for name in key
    }


COMMANDS = [("keys", "list"), ("keys", "jwks"), ("keys", "generate", "--algorithm", "ES256")]


def broken_mode(folder: Path) -> None:
    next(folder.glob("*.pem")).chmod(0o644)


def broken_pem(folder: Path) -> None:
    path = next(folder.glob("*.pem"))
    path.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")


def broken_schedule(folder: Path) -> None:
    (folder / "schedule.json").write_text("[]")


def lost_key(folder: Path) -> None:
    next(folder.glob("*.pem")).unlink()


BROKEN = [
    (broken_mode, 3, ("group or others", "chmod 600")),
    (broken_pem, 3, (".pem",)),
    (broken_schedule, 2, ("schedule.json", "restore")),
    (lost_key, 2, (".pem is missing", "restore")),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(("wreck", "code", "parts"), BROKEN, ids=[c[0].__name__ for c in BROKEN])
def test_a_broken_folder(
    leeway: Leeway,
    data_dir: Path,
    command: tuple[str, ...],
    wreck: Callable[[Path], None],
    code: int,
    parts: tuple[str, ...],
) -> None:
    wreck(data_dir / "keys")
    before = sorted((data_dir / "keys").iterdir())
    error = leeway(*command, "--data-dir", data_dir).assert_failed(code, *parts)
    assert "c2VjcmV0" not in error
    assert sorted((data_dir / "keys").iterdir()) == before
