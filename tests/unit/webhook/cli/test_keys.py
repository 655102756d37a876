"""``leeway keys``."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import webhook.cli.keys
from keys.pem import ALGORITHMS
from tests.support import NOW
from tests.unit.webhook.cli.cli_support import Leeway
from webhook.assembly import keyring_of

START = int(NOW) - 1000
# How long a new key is published before it signs: the JWKS' max-age and half an hour.
PUBLISH = 3600 + 1800
# How long a key verifies after its last token, by the defaults: a year and an hour.
KEEP = 365 * 86400 + 3600


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the clock to so many seconds after the data directory was made."""

    def set_clock(seconds: int) -> None:
        monkeypatch.setattr(webhook.cli.keys, "time", lambda: START + seconds)

    set_clock(0)
    return set_clock


def states_of(data_dir: Path) -> list[str]:
    return [key.state.value for key in keyring_of(data_dir).keys]


def test_list(leeway: Leeway, data_dir: Path, at: Callable[[int], None]) -> None:
    def rows() -> list[dict[str, object]]:
        text = leeway("keys", "list", "-o", "json", "--data-dir", data_dir).assert_done()
        listed = leeway("keys", "list", "-o", "yaml", "--data-dir", data_dir).assert_done()
        assert yaml.safe_load(listed) == json.loads(text)
        return list(json.loads(text))

    (row,) = rows()
    kid = keyring_of(data_dir).keys[0].kid
    assert row == {
        "kid": kid,
        "algorithm": "ES256",
        "state": "active",
        "since": "2027-01-15T07:43:20Z",
        "next": "verify-only",
        "safeFrom": None,
        "safe": False,
    }
    leeway("keys", "generate", "--algorithm", "ES384", "--data-dir", data_dir).assert_done()
    at(PUBLISH - 1)
    old, new = rows()
    assert old["kid"] == kid
    assert (new["algorithm"], new["state"], new["next"]) == ("ES384", "pending", "active")
    assert old["safeFrom"] == new["safeFrom"] == "2027-01-15T09:13:20Z"
    assert old["safe"] is new["safe"] is False
    at(PUBLISH)
    assert [row["safe"] for row in rows()] == [True, True]
    lines = leeway("keys", "list", "--data-dir", data_dir).assert_done().splitlines()
    assert lines[0].split() == ["KID", "ALGORITHM", "STATE", "SINCE", "NEXT", "STEP"]
    assert lines[1].split()[:4] == [kid, "ES256", "active", "2027-01-15T07:43:20Z"]
    assert lines[2].endswith("active, safe now")


def test_a_complete_rotation(leeway: Leeway, data_dir: Path, at: Callable[[int], None]) -> None:
    def rotate() -> str:
        return leeway("keys", "rotate", "--data-dir", data_dir).assert_done()

    first = keyring_of(data_dir).keys[0].kid
    made = re.fullmatch(
        r"key (\S+) created, it is pending\n"
        r"next: key \1 active, safe from 2027-01-15T09:13:20Z on\n",
        rotate(),
    )
    assert made
    second = made[1]
    at(PUBLISH - 1)
    leeway("keys", "rotate", "--data-dir", data_dir).assert_failed(
        1, second, "2027-01-15T09:13:20Z", "--force"
    )
    assert states_of(data_dir) == ["active", "pending"]
    at(PUBLISH)
    assert rotate() == (
        f"key {second} is active\nnext: key {first} retired, safe from 2028-01-15T10:13:20Z on\n"
    )
    assert keyring_of(data_dir).signing_key().verification_key.kid == second
    leeway("keys", "retire", first, "--data-dir", data_dir).assert_failed(
        1, first, "2028-01-15T10:13:20Z", "--force"
    )
    at(PUBLISH + KEEP)
    assert rotate() == f"key {first} is retired\n"
    text = leeway("keys", "list", "--data-dir", data_dir).assert_done()
    (line,) = [line for line in text.splitlines() if line.startswith(first)]
    assert line.split()[2:] == ["retired", "2028-01-15T10:13:20Z", "-"]
    again = leeway("keys", "retire", first, "--data-dir", data_dir).assert_done()
    assert again == f"key {first} is already retired\n"


def test_a_forced_step_says_what_it_breaks(
    leeway: Leeway, data_dir: Path, at: Callable[[int], None]
) -> None:
    first = keyring_of(data_dir).keys[0].kid
    leeway("keys", "rotate", "--data-dir", data_dir).assert_done()
    for arguments, told in (
        (("rotate",), "clients that keep an older JWKS may refuse the tokens of key"),
        (("retire", first), f"tokens signed with key {first} are refused from now on"),
    ):
        ran = leeway("keys", *arguments, "--force", "--data-dir", data_dir)
        assert ran.code == 0
        assert re.fullmatch(r"leeway: warning: [^\n]+\n", ran.err)
        assert told in ran.err
    assert sorted(states_of(data_dir)) == ["active", "retired"]


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["plain", "by-force"])
def test_the_active_key_is_not_retired(
    leeway: Leeway, data_dir: Path, force: tuple[str, ...]
) -> None:
    kid = keyring_of(data_dir).keys[0].kid
    ran = leeway("keys", "retire", kid, *force, "--data-dir", data_dir)
    ran.assert_failed(2, kid, "never retired", "leeway keys rotate")
    assert states_of(data_dir) == ["active"]


@pytest.mark.parametrize("kid", ["nobody", "-" + "x" * 42, "-habcd" + "-" * 37])
def test_retiring_an_unknown_key(leeway: Leeway, data_dir: Path, kid: str) -> None:
    ran = leeway("keys", "retire", kid, "--force", "--data-dir", data_dir)
    ran.assert_failed(2, kid, "leeway keys list")


def test_a_longer_lived_token_makes_its_key_verify_longer(
    leeway: Leeway, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = data_dir / "keys"
    monkeypatch.setenv("LEEWAY_TOKENS_MAX_EXPIRATION", "87600h")
    command = ("token", "create", "loofah", "-n", "argo-run", "--data-dir", data_dir)
    leeway(*command).assert_done()
    (key,) = keyring_of(data_dir).keys
    assert key.until is not None
    assert key.until >= START + 87600 * 3600
    before = (folder / "schedule.json").read_bytes()
    leeway(*command).assert_done()
    assert (folder / "schedule.json").read_bytes() == before


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


@pytest.fixture
def with_signer(data_dir: Path) -> None:
    with (data_dir / "leeway.yaml").open("a") as file:
        file.write("signer: {refreshHint: 10m}\n")


@pytest.mark.usefixtures("with_signer")
def test_with_a_signer_a_key_waits_for_its_hint_too(
    leeway: Leeway, data_dir: Path, at: Callable[[int], None]
) -> None:
    out = leeway("keys", "rotate", "--data-dir", data_dir).assert_done()
    assert out.endswith("active, safe from 2027-01-15T09:23:20Z on\n")
    at(PUBLISH + 599)
    ran = leeway("keys", "rotate", "--data-dir", data_dir)
    assert (ran.code, ran.out) == (1, "")
    assert "may sign from 2027-01-15T09:23:20Z on" in ran.err
    ran = leeway("keys", "rotate", "--force", "--data-dir", data_dir)
    assert ran.code == 0
    assert "may refuse the tokens of key" in ran.err
    assert "kube-apiserver fetches the keys when it sees an unknown kid" in ran.err


@pytest.mark.usefixtures("with_signer")
@pytest.mark.parametrize("is_first", [False, True])
def test_with_a_signer_no_key_is_made_that_kube_apiserver_does_not_accept(
    leeway: Leeway, data_dir: Path, is_first: bool
) -> None:
    if is_first:
        for path in (data_dir / "keys").iterdir():
            path.unlink()
    before = sorted((data_dir / "keys").iterdir())
    ran = leeway("keys", "generate", "--algorithm", "EdDSA", "--data-dir", data_dir)
    assert (ran.code, ran.out) == (2, "")
    assert "RS256, ES256, ES384, ES512 are allowed" in ran.err
    assert sorted((data_dir / "keys").iterdir()) == before


def test_a_signer_configured_later_does_not_let_a_key_sign(
    leeway: Leeway, data_dir: Path, at: Callable[[int], None]
) -> None:
    leeway("keys", "generate", "--algorithm", "EdDSA", "--data-dir", data_dir).assert_done()
    with (data_dir / "leeway.yaml").open("a") as file:
        file.write("signer: {}\n")
    at(10 * PUBLISH)
    line = leeway("keys", "list", "--data-dir", data_dir).assert_done().splitlines()[2]
    assert line.endswith("retired, safe now")
    out = leeway("keys", "rotate", "--data-dir", data_dir).assert_done()
    assert "created, it is pending" in out
    assert [key.verification_key.algorithm for key in keyring_of(data_dir).keys] == [
        "ES256", "EdDSA", "ES256",
    ]  # fmt: skip


def test_the_first_key_is_active(leeway: Leeway, data_dir: Path) -> None:
    for path in (data_dir / "keys").iterdir():
        path.unlink()
    out = leeway("keys", "generate", "--data-dir", data_dir).assert_done()
    assert out.endswith(" created, it is active\n")
    assert keyring_of(data_dir).signing_key().verification_key.algorithm == "RS256"


def test_jwks(leeway: Leeway, data_dir: Path) -> None:
    leeway("keys", "generate", "--algorithm", "RS256", "--data-dir", data_dir).assert_done()
    document = json.loads(leeway("keys", "jwks", "--data-dir", data_dir).assert_done())
    for output, read in (("text", json.loads), ("json", json.loads), ("yaml", yaml.safe_load)):
        shown = leeway("keys", "jwks", "-o", output, "--data-dir", data_dir).assert_done()
        assert read(shown) == document
    assert {key["kid"]: key["alg"] for key in document["keys"]} == {
        key.kid: key.verification_key.algorithm for key in keyring_of(data_dir).keys
    }
    # Public parts only: no member of RFC 7518's private ones.
    assert not {"d", "p", "q", "dp", "dq", "qi", "oth", "k"} & {
        name for key in document["keys"] for name in key
    }


COMMANDS = [
    ("keys", "list"),
    ("keys", "jwks"),
    ("keys", "generate", "--algorithm", "ES256"),
    ("keys", "rotate", "--force"),
    ("keys", "retire", "some-kid", "--force"),
]


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
    (lost_key, 3, (".pem is missing", "restore")),
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
