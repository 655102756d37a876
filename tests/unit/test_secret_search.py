"""The search for secrets finds them wherever and however they are written."""

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from keys.pem import private_key_pem
from tests.secret_search import (
    KEY,
    PASSWORD,
    TOKEN,
    Secret,
    holds_secrets_by_design,
    search,
    token_secret,
)
from tests.support import good_claims, signing_key, token_of

ALGORITHMS = ("RS256", "ES256", "ES384", "ES512", "EdDSA")
TEXT = "correct-horse-battery-staple"


def pem_of(algorithm: str) -> bytes:
    return private_key_pem(signing_key(algorithm, "searched for").private_key)


def kubeconfig_with(user: dict[str, str]) -> bytes:
    return yaml.safe_dump({"kind": "Config", "users": [{"name": "root", "user": user}]}).encode()


# How a secret can appear in a file.
WAYS: dict[str, Callable[[bytes], bytes]] = {
    "it is": lambda secret: secret,
    "JSON": lambda secret: json.dumps({"message": f"of {secret.decode()}."}).encode(),
    "bytes": lambda secret: repr(secret).encode(),
    "base64": base64.b64encode,
    "base64 beside others": lambda secret: base64.b64encode(b"Basic u:" + secret + b"\n"),
    "base64 for URLs": lambda secret: base64.urlsafe_b64encode(b"u:" + secret),
    "binary": lambda secret: b"\0\xff\x80" + secret + b"\xfe" * 40,
    "its end cut off": lambda secret: secret[:-10],
    "its end": lambda secret: secret[-60:],
}
SECRETS = {
    **{f"{PASSWORD}": ([Secret(PASSWORD, TEXT.encode())], TEXT.encode())},
    **{
        f"{TOKEN} {algorithm}": (
            [token_secret(token)],
            token.encode(),
        )
        for algorithm in ALGORITHMS
        for token in [token_of(good_claims(), signing_key(algorithm))]
    },
    **{f"{KEY} {algorithm}": ([], pem_of(algorithm)) for algorithm in ALGORITHMS},
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that is removed before the run's own search."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.bad_input(56)
@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_in_a_log_is_found(folder: Path, name: str) -> None:
    made, secret = SECRETS[name]
    if not made:  # a key is known by its file
        (folder / "signing.pem").write_bytes(secret)
    kind = next(kind for kind in (PASSWORD, TOKEN, KEY) if name.startswith(kind))
    # The end of a key's PEM is public.
    ways = [way for way in WAYS if (kind, way) != (KEY, "its end")]
    for way in ways:
        line = b'{"level": "info"}\nbefore ' + WAYS[way](secret) + b" behind\n"
        (folder / f"{way}.log").write_bytes(line)
    _, findings = search([folder], made, {})
    expected = {f"a {kind} is in {folder / way}.log" for way in ways}
    assert {str(finding) for finding in findings} == expected
    assert len(findings) == len(expected)


@pytest.mark.bad_input(56)
@pytest.mark.parametrize("name", SECRETS)
def test_a_file_that_holds_a_secret_by_design_is_not_a_finding(folder: Path, name: str) -> None:
    made, secret = SECRETS[name]
    (folder / "server.log").write_bytes(b'{"level": "info"}\n')
    if name != PASSWORD:
        (folder / "kept").write_bytes(secret)
    assert search([folder], made, {"an answer": b"{}"})[1] == []


@pytest.mark.bad_input(56)
@pytest.mark.parametrize(
    "user",
    [
        {"token": token_of(good_claims())},
        {"client-key-data": base64.b64encode(pem_of("ES256")).decode()},
    ],
    ids=["token", "key"],
)
def test_the_secret_of_a_kubeconfig_is_searched_elsewhere(
    folder: Path, user: dict[str, str]
) -> None:
    (folder / "root.yaml").write_bytes(kubeconfig_with(user))
    (secret,) = user.values()
    _, findings = search([folder], (), {"an answer": secret.encode()})
    assert [finding.place for finding in findings] == ["an answer"]


@pytest.mark.bad_input(56)
@pytest.mark.parametrize(
    "data",
    [
        b"note\n" + pem_of("ES256"),
        pem_of("ES256") + b"note\n",
        b'{"key": "' + pem_of("ES256").replace(b"\n", b"\\n") + b'"}',
        b"token " + token_of(good_claims()).encode(),
        token_of(good_claims()).encode() + b"\nnote",
        b"kind: Configuration\ntoken: x\n",
    ],
)
def test_a_file_with_more_than_a_key_or_a_token_is_searched(data: bytes) -> None:
    assert not holds_secrets_by_design(data)


@pytest.mark.bad_input(56)
@pytest.mark.parametrize("kind", ["-----BEGIN", "token", "kind: Config"])
def test_logs_are_always_searched(folder: Path, kind: str) -> None:
    token = token_of(good_claims())
    data = {
        "-----BEGIN": pem_of("ES256"),
        "token": token.encode(),
        "kind: Config": kubeconfig_with({"token": token}),
    }[kind]
    (folder / "kept").write_bytes(data)
    (folder / "server.log").write_bytes(data)
    (finding,) = search([folder], (), {})[1]
    assert finding.place == str(folder / "server.log")


@pytest.mark.bad_input(56)
def test_a_core_file_is_a_finding(folder: Path) -> None:
    header = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    (folder / "core.1").write_bytes(header + b"\x04\x00" + bytes(100))
    (folder / "library.so").write_bytes(header + b"\x03\x00" + bytes(100))
    findings = [str(finding) for finding in search([folder], (), {})[1]]
    assert findings == [f"a process's memory is in {folder / 'core.1'}"]


TOKEN_PLANTED, PASSWORD_PLANTED = "s" * 20 + "ecret" * 20, "correct-horse-battery-staple"
PLANTED = f"""
from tests.secrets_made import answered, password_made, shown, token_made

def test_of_a_server(tmp_path):
    token_made("e30.e30.{TOKEN_PLANTED}")
    password_made("{PASSWORD_PLANTED}")
"""
PLANTS = f"""
    (tmp_path / "a.log").write_text("token {TOKEN_PLANTED}")
    (tmp_path / "x").write_bytes(b"\\0{PASSWORD_PLANTED}\\0")
    shown("standard error", "{PASSWORD_PLANTED}")
    print("{PASSWORD_PLANTED}")
    answered("GET", "/x", {{}}, b"of {PASSWORD_PLANTED}")
"""
PLACES = (
    "a token is in .*0/a.log",
    "a password is in .*0/x",
    "a password is in standard error",
    "a password is in test_it.py::test_of_a_server: Captured stdout call",
    "a password is in an answer to GET /x",
)


@pytest.mark.bad_input(56)
@pytest.mark.parametrize(
    ("plants", "workers"),
    [(PLANTS, ()), (PLANTS, ("-n", "1")), ("", ("-n", "1"))],
    ids=["alone", "a worker", "nothing"],
)
def test_a_run_that_leaves_secrets_fails(
    folder: Path, plants: str, workers: tuple[str, ...]
) -> None:
    (folder / "pytest.ini").touch()
    (folder / "conftest.py").write_text(
        "from tests.secrets_made import SecretSearch\n"
        "def pytest_configure(config):\n"
        "    config.pluginmanager.register(SecretSearch(config))\n"
    )
    (folder / "test_it.py").write_text(PLANTED + plants)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *workers, f"--basetemp={folder / 'base'}"],
        cwd=folder,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    is_failed = "FAILED" in done.stdout and "::test_no_secret" in done.stdout
    assert is_failed is bool(plants), done.stdout + done.stderr
    assert done.returncode == bool(plants), done.stdout + done.stderr
    for place in PLACES:
        assert bool(re.search(f"^{place}$", done.stdout, re.M)) is bool(plants), done.stdout
    shown = done.stdout.partition("test_no_secret")[2]
    assert bool(shown) is bool(plants)
    assert PASSWORD_PLANTED not in shown
    assert "ecretecret" not in shown
