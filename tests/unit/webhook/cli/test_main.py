"""The root of the command line: help, version, exit codes, and where the data directory is."""

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from tests.support import assert_token_not_in, good_claims, token_of
from tests.unit.webhook.cli.cli_support import Leeway, run_process
from webhook.cli.main import cli
from webhook.version import COMMIT, VERSION


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command, **cli.context_settings)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, (*path, name))


COMMANDS = list(commands(cli))


def test_every_command_of_the_contract_that_exists_is_tested() -> None:
    assert {(), ("init",), ("serve",), ("demo",), ("version",), ("keys", "jwks")} <= set(COMMANDS)
    assert {("token", name) for name in ("create", "review", "inspect")} <= set(COMMANDS)


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help(leeway: Leeway, path: tuple[str, ...], flag: str) -> None:
    out = leeway(*path, flag).assert_done()
    assert out.startswith("Usage: " + " ".join(("leeway", *path)))
    # Every command has a description.
    assert len(out.split("\n\n")[1].strip()) > 10


@pytest.mark.parametrize(
    "path", [path for path in COMMANDS if path in ((), ("token",), ("keys",))], ids=" ".join
)
def test_a_group_alone_shows_its_help_and_fails(leeway: Leeway, path: tuple[str, ...]) -> None:
    ran = leeway(*path)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("Usage: leeway")
    assert "\nCommands:\n" in ran.err


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_no_command_is_cut_off_in_the_list_of_its_group(
    leeway: Leeway, path: tuple[str, ...]
) -> None:
    _, _, listed = leeway(*path, "--help").assert_done().partition("\nCommands:\n")
    assert "..." not in listed


UNKNOWN = [
    (("nope",), "leeway --help"),
    (("--nope",), "leeway --help"),
    (("keys", "nope"), "leeway keys --help"),
    (("token", "nope"), "leeway token --help"),
    (("init", "--nope"), "leeway init --help"),
    (("init", "extra"), "leeway init --help"),
    (("version", "-o", "xml"), "leeway version --help"),
    (("keys", "list", "-o", "xml"), "leeway keys list --help"),
    (("keys", "generate", "--algorithm", "HS256"), "leeway keys generate --help"),
    (("init", "--algorithm", "HS256"), "leeway init --help"),
    (("token", "create"), "leeway token create --help"),
    (("token", "create", "a"), "leeway token create --help"),
    (("token", "review", "--nope"), "leeway token review --help"),
    (("token", "review", "a", "b"), "leeway token review --help"),
    (("token", "inspect", "--at", "0"), "leeway token inspect --help"),
    (("serve", "--workers", "many"), "leeway serve --help"),
    (("demo", "extra"), "leeway demo --help"),
]


@pytest.mark.parametrize(("arguments", "see"), UNKNOWN, ids=[" ".join(case[0]) for case in UNKNOWN])
def test_wrong_usage(leeway: Leeway, arguments: tuple[str, ...], see: str) -> None:
    leeway(*arguments).assert_failed(2, f"see `{see}`")


def test_values_that_may_be_secret_are_not_repeated(leeway: Leeway) -> None:
    token = token_of(good_claims())
    for arguments in (("token", token), ("revoke", token), ("token", "review", "a", token)):
        assert_token_not_in(token, leeway(*arguments).assert_failed(2, "; see `leeway "))
    error = leeway("user", "passwd", "somebody", "hunter2").assert_failed(2, "too many arguments")
    assert "hunter2" not in error


def test_version(leeway: Leeway) -> None:
    text = leeway("version").assert_done()
    assert text == f"leeway {VERSION}" + (f" ({COMMIT})\n" if COMMIT else "\n")
    assert leeway("version", "-o", "text").assert_done() == text
    expected = {"version": VERSION, "commit": COMMIT}
    assert json.loads(leeway("version", "-o", "json").assert_done()) == expected
    assert yaml.safe_load(leeway("version", "--output", "yaml").assert_done()) == expected


def test_version_of_an_image() -> None:
    ran = run_process("version", environment={"LEEWAY_COMMIT": "0123abc"})
    assert ran.assert_done() == f"leeway {VERSION} (0123abc)\n"


def test_data_directory_flag_over_environment_over_default(
    leeway: Leeway, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = leeway("keys", "list", "--data-dir", made).assert_done()
    monkeypatch.chdir(tmp_path)
    leeway("keys", "list").assert_failed(3, "leeway-data is not a data directory", "`leeway init`")
    monkeypatch.setenv("LEEWAY_DATA_DIR", "")
    leeway("keys", "list").assert_failed(3, "leeway-data is not a data directory")
    monkeypatch.setenv("LEEWAY_DATA_DIR", str(made))
    assert leeway("keys", "list").assert_done() == listed
    monkeypatch.setenv("LEEWAY_DATA_DIR", "/nowhere")
    leeway("keys", "list").assert_failed(3, "/nowhere is not a data directory")
    assert leeway("keys", "list", "--data-dir", made).assert_done() == listed
    monkeypatch.delenv("LEEWAY_DATA_DIR")
    (tmp_path / "leeway-data").symlink_to(made)
    assert leeway("keys", "list").assert_done() == listed


NOT_UTF8 = [
    (("token", "create", "a", "-n", "b", "--uid", "\udcff"), "UTF-8"),
    (("token", "create", "a", "-n", "b", "--audience", "\udcff"), "printable text"),
]


@pytest.mark.parametrize(("arguments", "words"), NOT_UTF8, ids=["uid", "audience"])
def test_an_argument_that_is_not_utf8(
    leeway: Leeway, made: Path, arguments: tuple[str, ...], words: str
) -> None:
    leeway(*arguments, "--data-dir", made).assert_failed(2, words)


@pytest.mark.parametrize("command", ["review", "inspect"])
def test_standard_input_that_is_not_utf8(made: Path, command: str) -> None:
    environment = {"LEEWAY_DATA_DIR": str(made), "PYTHONIOENCODING": "utf-8:strict"}
    ran = run_process("token", command, "-", stdin=b"\xff\xfe", environment=environment)
    ran.assert_failed(2, "UTF-8")
