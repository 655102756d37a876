"""``leeway token create``."""

import json
from pathlib import Path
from time import time
from typing import Any

import pytest
from cli_support import Leeway, run_process
from support import unb64

POD = ("--bound-object-kind", "Pod", "--bound-object-name", "p-0", "--bound-object-uid", "u-1")
UID_OF_LOOFAH = "1314ea02-d034-5f4d-adf9-b4c6930045d5"


def claims_of(token: str) -> dict[str, Any]:
    claims = json.loads(unb64(token.split(".")[1]))
    assert isinstance(claims, dict)
    return claims


def create(leeway: Leeway, data_dir: Path, *flags: str) -> str:
    arguments = ("loofah", "-n", "argo-run", *flags, "--data-dir", str(data_dir))
    out = leeway("token", "create", *arguments).assert_done()
    # The token alone, in one line.
    assert out.count("\n") == 1
    assert out.endswith("\n")
    assert out.count(".") == 2
    return out[:-1]


def test_claims_without_a_flag(leeway: Leeway, made: Path) -> None:
    before = int(time())
    claims = claims_of(create(leeway, made))
    after = int(time())
    assert before <= claims["iat"] <= after
    assert claims["nbf"] == claims["iat"]
    assert claims["exp"] == claims["iat"] + 3600
    assert claims["iss"] == "https://leeway.default.svc"
    assert claims["aud"] == ["https://kubernetes.default.svc"]
    assert claims["sub"] == "system:serviceaccount:argo-run:loofah"
    assert claims["kubernetes.io"] == {
        "namespace": "argo-run",
        "serviceaccount": {"name": "loofah", "uid": UID_OF_LOOFAH},
    }


FLAGS: list[tuple[tuple[str, ...], dict[str, object]]] = [
    (("--uid", "u-0"), {"serviceaccount": {"name": "loofah", "uid": "u-0"}}),
    (POD, {"pod": {"name": "p-0", "uid": "u-1"}}),
    (
        (*POD, "--node-name", "n-0", "--node-uid", "u-2"),
        {"pod": {"name": "p-0", "uid": "u-1"}, "node": {"name": "n-0", "uid": "u-2"}},
    ),
    ((*POD, "--node-name", "n-0"), {"node": {"name": "n-0"}}),
    (("--bound-object-kind", "Secret", *POD[2:]), {"secret": {"name": "p-0", "uid": "u-1"}}),
    (("--bound-object-kind", "Node", *POD[2:]), {"node": {"name": "p-0", "uid": "u-1"}}),
]


@pytest.mark.parametrize(("flags", "expected"), FLAGS, ids=[" ".join(c[0]) for c in FLAGS])
def test_flags_become_claims(
    leeway: Leeway, made: Path, flags: tuple[str, ...], expected: dict[str, object]
) -> None:
    private = claims_of(create(leeway, made, *flags))["kubernetes.io"]
    kinds = {"serviceaccount", *expected}
    assert {
        kind for kind in ("pod", "secret", "node", "serviceaccount") if kind in private
    } >= kinds
    assert {name: private[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("duration", "seconds"), [("10m", 600), ("1h30m", 5400), ("24h", 86400), ("1d", 86400)]
)
def test_duration(leeway: Leeway, made: Path, duration: str, seconds: int) -> None:
    claims = claims_of(create(leeway, made, "--duration", duration))
    assert claims["exp"] - claims["iat"] == seconds


def test_audiences(leeway: Leeway, made: Path) -> None:
    token = create(leeway, made, "--audience", "vault", "--audience", "b", "--audience", "vault")
    assert claims_of(token)["aud"] == ["vault", "b"]


def test_an_extended_token_says_when_to_warn(leeway: Leeway, made: Path) -> None:
    claims = claims_of(create(leeway, made, *POD, "--duration", "3607s"))
    assert claims["exp"] - claims["iat"] == 365 * 24 * 3600
    assert claims["kubernetes.io"]["warnafter"] - claims["iat"] == 3607


def test_a_warning_goes_to_stderr_and_the_token_alone_to_stdout(made: Path) -> None:
    flags = ("--duration", "48h", "--data-dir", made)
    ran = run_process("token", "create", "loofah", "-n", "argo-run", *flags)
    assert ran.code == 0
    assert ran.err == (
        "leeway: warning: requested expiration of 172800 seconds shortened to 86400 seconds\n"
    )
    claims = claims_of(ran.out.removesuffix("\n"))
    assert claims["exp"] - claims["iat"] == 86400


def test_configuration_and_environment_are_used(
    leeway: Leeway, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEEWAY_DATA_DIR", str(made))
    monkeypatch.setenv("LEEWAY_ISSUER", "https://other.example")
    monkeypatch.setenv("LEEWAY_AUDIENCES", "a, b")
    out = leeway("token", "create", "loofah", "-n", "argo-run").assert_done()
    claims = claims_of(out.strip())
    assert (claims["iss"], claims["aud"]) == ("https://other.example", ["a", "b"])


WRONG: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("Loofah", "-n", "a"), ("name 'Loofah'", "a-z")),
    (("", "-n", "a"), ("name ''",)),
    (("a:b", "-n", "a"), ("name 'a:b'",)),
    (("a\nb", "-n", "a"), (r"name 'a\nb'",)),
    (("a", "-n", "A"), ("namespace 'A'",)),
    (("a", "-n", ""), ("namespace ''",)),
    (("a", "-n", "a.b"), ("namespace 'a.b'",)),
    (("a", "-n", "a", "--duration", "9m59s"), ("less than 600 seconds", "599")),
    (("a", "-n", "a", "--duration", "0"), ("less than 600 seconds",)),
    (("a", "-n", "a", "--duration", "3600"), ("is not a duration", "1h30m")),
    (("a", "-n", "a", "--duration", "-1h"), ("is not a duration",)),
    (("a", "-n", "a", "--duration", "5000000000s"), ("2^32",)),
    (("a", "-n", "a", "--duration", "9" * 400 + "s"), ("is not a duration",)),
    (("a", "-n", "a", "--audience", ""), ("aud",)),
    (("a", "-n", "a", "--audience", "a\nb"), ("aud", "ASCII")),
    (("a", "-n", "a", *["--audience=x"] * 101), ("101 audiences are too many",)),
    (("a", "-n", "a", "--audience", "x" * 40000), ("characters",)),
    (("a", "-n", "a", "--uid", "é"), ("uid", "ASCII")),
    (("a", "-n", "a", *POD[:2]), ("go together",)),
    (("a", "-n", "a", *POD[2:]), ("go together",)),
    (("a", "-n", "a", *POD[:4]), ("go together",)),
    (("a", "-n", "a", "--bound-object-kind", "pod", *POD[2:]), ("'Pod'",)),
    (("a", "-n", "a", *POD[:3], "P_0", *POD[4:]), ("name 'P_0'",)),
    (("a", "-n", "a", "--node-name", "n"), ("need --bound-object-kind Pod",)),
    (("a", "-n", "a", *POD, "--node-uid", "u"), ("needs --node-name",)),
    (
        ("a", "-n", "a", "--bound-object-kind", "Secret", *POD[2:], "--node-name", "n"),
        ("need --bound-object-kind Pod",),
    ),
]


@pytest.mark.parametrize(
    ("arguments", "parts"), WRONG, ids=[" ".join(c[0])[:40].replace("\n", " ") for c in WRONG]
)
def test_wrong_input(
    leeway: Leeway, made: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    leeway("token", "create", *arguments, "--data-dir", made).assert_failed(2, *parts)


def test_without_a_data_directory(leeway: Leeway, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        ran = leeway("token", "create", "a", "-n", "b", "--data-dir", folder)
        ran.assert_failed(3, f"{folder / 'leeway.yaml'} is missing", "`leeway init`")


def test_with_a_private_key_that_others_can_read(leeway: Leeway, data_dir: Path) -> None:
    path = next((data_dir / "keys").glob("*.pem"))
    path.chmod(0o640)
    ran = leeway("token", "create", "a", "-n", "b", "--data-dir", data_dir)
    error = ran.assert_failed(3, f"chmod 600 {path}")
    assert path.read_text().splitlines()[1] not in error
