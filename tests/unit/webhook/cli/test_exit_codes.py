"""Exit code 3: something could not be reached or opened. A table of commands."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest

from tests.other_user import folder_in_reach, run_as_nobody
from tests.unit.webhook.cli.cli_support import Leeway
from webhook.backends.sqlite import SQLiteBackend
from webhook.rbac.errors import (
    NotInitialisedError,
    OutcomeUnknownError,
    StoreStaleError,
    TooLargeError,
)

OF_THE_STORE = (
    "user list", "role list", "group list", "auth status", "can-i read a --user b",
    "user add z --no-password", "revoke jti x", "revoke list", "store status", "store export",
)  # fmt: skip
OF_THE_KEYS = ("keys list", "keys jwks", "keys generate", "keys rotate", "token create a -n b")
EVERY = (*OF_THE_STORE, *OF_THE_KEYS, "serve", "init", "token review @{token}", "cert create q")


def without_pem(data_dir: Path) -> None:
    for path in (data_dir / "keys").glob("*.pem"):
        path.unlink()


def without(name: str) -> Callable[[Path], None]:
    return lambda data_dir: (data_dir / name).unlink()


def configured(text: str) -> Callable[[Path], None]:
    def write(data_dir: Path) -> None:
        with (data_dir / "leeway.yaml").open("a") as file:
            file.write(text)

    return write


def gone(data_dir: Path) -> None:
    shutil.rmtree(data_dir)


OBJECTS = configured("objects: {source: file, file: {path: objects.yaml}}\n")
KUBECONFIG = configured("objects: {source: kubernetes, kubernetes: {kubeconfig: no.yaml}}\n")
JWKS = configured('trustedIssuers: [{url: "https://x.example", keys: {jwksFile: no.json}}]\n')
PEM = configured('trustedIssuers: [{url: "https://x.example", keys: {publicKeyFiles: [n.pem]}}]\n')

CASES = [
    ("no data directory", gone, (*OF_THE_STORE, *OF_THE_KEYS, "serve", "token review @{token}")),
    (
        "no leeway.yaml",
        without("leeway.yaml"),
        ("keys list", "keys rotate", "token create a -n b", "serve", "token review @{token}"),
    ),
    ("no signing key", without_pem, (*OF_THE_KEYS, "serve", "token review @{token}")),
    ("no objects.yaml", OBJECTS, ("serve", "token create a -n b", "token review @{token}")),
    ("no kubeconfig", KUBECONFIG, ("serve", "token review @{token}")),
    ("no jwksFile", JWKS, ("serve", "token review @{token}")),
    ("no publicKeyFiles", PEM, ("serve", "token review @{token}")),
    ("no store", without("auth.db"), (*OF_THE_STORE, "serve")),
    ("no server.key", without("tls/server.key"), ("serve",)),
    ("no ca.key", without("tls/ca.key"), ("cert create q",)),
    (
        "no file that was named",
        lambda _: None,
        (
            *("token review @{nowhere}", "token inspect @{nowhere}", "doctor --manifest {nowhere}"),
            *("store import {nowhere}", "store export {nowhere}/backup.yaml"),
        ),
    ),
    ("nobody listens", lambda _: None, ("skew --server 127.0.0.1:1",)),
]


def words_of(line: str, data_dir: Path, token: Path) -> list[str]:
    words = line.format(token=token, nowhere=data_dir / "nowhere").split()
    return words if "inspect" in words else [*words, "--data-dir", str(data_dir)]


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        pytest.param(spoil, line, id=f"{what}: {line}")
        for what, spoil, lines in CASES
        for line in lines
    ],
)
def test_exit_code_3_if_something_cannot_be_opened_or_reached(
    leeway: Leeway, data_dir: Path, tmp_path: Path, spoil: Callable[[Path], None], line: str
) -> None:
    token = tmp_path / "token"
    token.write_text(leeway("token", "create", "a", "-n", "b", "--data-dir", data_dir).out)
    spoil(data_dir)
    message = leeway(*words_of(line, data_dir, token)).assert_failed(3)
    assert "Errno" not in message


@pytest.mark.fault(36)
@pytest.mark.parametrize("line", OF_THE_STORE)
def test_a_locked_store_is_exit_code_3(leeway: Leeway, data_dir: Path, line: str) -> None:
    with closing(sqlite3.connect(data_dir / "auth.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        leeway(*words_of(line, data_dir, data_dir)).assert_failed(3, "locked", "try again")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreStaleError("the store is far away; try again"), 3),
        (NotInitialisedError("there is no store; run `leeway init`"), 3),
        (OutcomeUnknownError("it is not known; look before you repeat it"), 3),
        (TooLargeError("there are too many records; change less at once"), 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes_of_a_change_that_the_store_does_not_make(
    leeway: Leeway,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
) -> None:
    def commit(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(SQLiteBackend, "commit", commit)
    leeway("revoke", "jti", "x", "--data-dir", data_dir).assert_failed(code, str(error))


@pytest.fixture(scope="module")
def closed(made: Path) -> Iterator[Path]:
    """Return a folder with a token, and a data directory that only root can open."""
    folder = folder_in_reach()
    shutil.copytree(made, folder / "data")
    (folder / "token").write_text("e30.e30.AAAA")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.fault(36)
@pytest.mark.parametrize("line", EVERY)
def test_a_directory_without_permission_is_exit_code_3(closed: Path, line: str) -> None:
    ran = run_as_nobody(*words_of(line, closed / "data", closed / "token"))
    assert (ran.returncode, ran.stdout) == (3, ""), ran
    (message,) = ran.stderr.splitlines()
    assert "Permission denied; let the user that this runs as" in message
    assert "Errno" not in message
