"""``leeway`` for ``etcdctl``: the same command lines have the same output and exit code."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from tests.e2e.harness import LEEWAY
from webhook.cli.main import main

from .pair import etcdctl_program, running_etcd

# One line a command, in order. What it prints, and whether it succeeds, must be the same.
SESSION = """
user add root:root-Zb6mXq9RtY3kPw
role add root
user grant-role root root
user get root
role list
role add role1
role add role1
role grant-permission --prefix=true role1 read /xxx/
role grant-permission role1 readwrite --from-key zzz
role grant-permission role1 WRITE one
role get role1
role get nobody
user add alice:pw
user add alice:pw
user add carl --no-password
user grant-role alice role1
user grant-role alice role1
user grant-role alice nobody
user grant-role nobody role1
role add admin
role grant-permission admin readwrite hello helly
role grant-permission admin readwrite --prefix=false a b
role grant-permission admin write b a
user grant-role alice admin
user get alice
user get --detail alice
user list
role get root
role revoke-permission role1 --prefix /xxx/
role revoke-permission role1 --prefix /xxx/
role revoke-permission role1 one
role revoke-permission role1 --from-key zzz
role get role1
user revoke-role alice role1
user revoke-role alice role1
role delete role1
role delete role1
user delete carl
user delete carl
auth enable
"""
# Where etcd or etcdctl 3.5 differs from 3.6: whether Leeway succeeds, and what it prints.
AS_IN_ETCD_3_6 = {
    # A range that holds no key is refused.
    "role grant-permission admin write b a": (False, ""),
    # The role root shows that it is allowed everything.
    "role get root": (
        True,
        "Role root\nKV Read:\n\t[, <open ended>\nKV Write:\n\t[, <open ended>\n",
    ),
}


class Commands:
    """Runs a command line with etcdctl, and with leeway: in a process of its own if it reads."""

    def __init__(self, etcd_port: int, folder: Path) -> None:
        self.etcd_port = etcd_port
        self.folder = folder

    def etcdctl(self, line: str, stdin: str = "") -> tuple[bool, str]:
        command = [etcdctl_program(), "--endpoints", f"http://127.0.0.1:{self.etcd_port}"]
        return run([*command, *line.split()], stdin, {"ETCDCTL_API": "3"})

    def leeway(self, line: str, stdin: str = "") -> tuple[bool, str]:
        words = line.split()
        if not (self.folder / "auth.db").exists():
            words.append("--create")
        if stdin:
            return run([LEEWAY, *words], stdin, {"LEEWAY_DATA_DIR": str(self.folder)})
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as output:
            patch.setenv("LEEWAY_DATA_DIR", str(self.folder))
            patch.setattr(sys, "argv", ["leeway", *words])
            with pytest.raises(SystemExit) as stop:
                main()
        return stop.value.code == 0, output.getvalue()


def run(command: list[str], stdin: str, environment: dict[str, str]) -> tuple[bool, str]:
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
        env=os.environ | environment,
    )
    return done.returncode == 0, done.stdout


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    (tmp_path / "etcd").mkdir()
    with running_etcd(tmp_path / "etcd") as port:
        folder = tmp_path / "leeway"
        folder.mkdir()
        yield Commands(port, folder)


def test_the_session_of_the_documentation_and_more(commands: Commands) -> None:
    for line in SESSION.strip().splitlines():
        if line in AS_IN_ETCD_3_6:
            assert commands.leeway(line) == AS_IN_ETCD_3_6[line]
            continue
        assert commands.leeway(line) == commands.etcdctl(line), line
    assert commands.leeway("can-i write hello --user alice")[0]
    assert commands.leeway("can-i read hello --user alice")[0]
    assert not commands.leeway("can-i write hey --user alice")[0]


def test_passwords_from_standard_input(commands: Commands) -> None:
    for line in ("user add dora --interactive=false", "user passwd dora --interactive=false"):
        assert commands.leeway(line, "secret\n") == commands.etcdctl(line, "secret\n"), line
