"""How a password reaches ``leeway user``: typed twice, from a file, from standard input."""

from pathlib import Path

import bcrypt
import pytest

from tests.unit.webhook.cli.cli_support import Leeway
from tests.unit.webhook.cli.test_usage import run_on_terminal
from webhook.assembly import store_of
from webhook.config.load import load_configuration

pytestmark = pytest.mark.fault(58)
PASSWORD = "Qm7vXk2pRt9sWz4y"


def has_password(data_dir: Path, user: str, password: str = PASSWORD) -> bool:
    store = store_of(data_dir, load_configuration(data_dir, {}, {}))
    try:
        return bcrypt.checkpw(password.encode(), store.state.users[user].password_hash)
    finally:
        store.close()


GIVEN = {
    "stdin": ((), f"{PASSWORD}\n"),
    "stdin-without-line-feed": ((), PASSWORD),
    "etcdctl": (("--interactive=false",), f"{PASSWORD}\n"),
    "dash": (("--password-file", "-"), f"{PASSWORD}\r\n"),
    "file": (("--password-file", "{}"), "not this one\n"),
}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("command", ["add", "passwd"])
def test_a_password_from_a_file_or_standard_input(
    leeway: Leeway, data_dir: Path, tmp_path: Path, command: str, given: str
) -> None:
    flags, stdin = GIVEN[given]
    (tmp_path / "p").write_text(f"{PASSWORD}\n")
    name = "a:b" if command == "add" and "--password-file" in flags else "a"
    if command == "passwd":
        leeway("user", "add", name, "--data-dir", data_dir, stdin="another one\n").assert_done()
    words = [flag.format(tmp_path / "p") for flag in flags]
    leeway("user", command, name, *words, "--data-dir", data_dir, stdin=stdin).assert_done()
    (tmp_path / "p").unlink()
    assert has_password(data_dir, name)


@pytest.mark.parametrize("command", ["add", "passwd"])
def test_a_password_is_typed_twice_and_not_shown(
    leeway: Leeway, data_dir: Path, command: str
) -> None:
    user = "alice"
    if command == "passwd":
        leeway("user", "add", user, "--data-dir", data_dir, stdin="another one\n").assert_done()
    line = f"{PASSWORD}\n".encode()
    typed = [(b"Password of ", line), (b"again for confirmation: ", line)]
    arguments = ("user", command, user, "--data-dir", data_dir)
    code, shown = run_on_terminal(*arguments, typed=typed)
    assert code == 0, shown
    assert PASSWORD not in shown
    assert f"Type password of {user} again" in shown
    assert has_password(data_dir, user)


WRONG = [
    (("--password-file", "{}/two", "--no-password"), 2, "mutually exclusive"),
    (("--password-file", "{}/two", "--new-user-password", "x"), 2, "mutually exclusive"),
    (("--password-file", "{}/two"), 2, "more than one line"),
    (("--password-file", "{}/empty"), 3, "is empty"),
    (("--password-file", "{}/none"), 3, "is missing"),
    (("--password-file", "{}"), 2, "directory"),
    (("--password-file", "-"), 2, "password is empty"),
]


@pytest.mark.parametrize(("flags", "code", "words"), WRONG)
def test_text_that_is_not_a_password(
    leeway: Leeway, data_dir: Path, tmp_path: Path, flags: tuple[str, ...], code: int, words: str
) -> None:
    (tmp_path / "two").write_text("one\ntwo\n")
    (tmp_path / "empty").touch()
    given = [flag.format(tmp_path) for flag in flags]
    leeway("user", "add", "a", *given, "--data-dir", data_dir).assert_failed(code, words)
    assert leeway("user", "list", "--data-dir", data_dir).out == "kube-apiserver\nroot\n"


def test_the_help_shows_no_password_as_an_argument(leeway: Leeway) -> None:
    usage, _, rest = leeway("user", "add", "--help").assert_done().partition("\n")
    assert "PASSWORD" not in usage
    assert "list of processes" in " ".join(rest.split())
