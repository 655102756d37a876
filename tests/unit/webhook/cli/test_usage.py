"""How the command line is used: its flags and variables, help, completion, colours, ctrl-C."""

import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.test_docs import check_command
from tests.unit.webhook.cli.cli_support import LEEWAY, Leeway
from tests.unit.webhook.cli.test_main import COMMANDS
from webhook.cli.options import ServerAddress
from webhook.version import VERSION

CTRL_C = b"\x03"
CTRL_D = b"\x04"


def run_on_terminal(
    *arguments: str | Path, typed: Sequence[tuple[bytes, bytes]] = (), **environment: str
) -> tuple[int, str]:
    """Run ``leeway`` on a terminal; return its status and output.

    Each pair of ``typed`` is a text to wait for, and what is typed then.
    """
    waiting = list(typed)
    ours, theirs = pty.openpty()
    own = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        [LEEWAY, *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=own | environment,
        start_new_session=True,
    )
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + 30
    try:
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    shown += os.read(ours, 65536)
                except OSError:  # the other side is closed
                    break
            if waiting and waiting[0][0] in shown:
                _, text = waiting.pop(0)
                if text == CTRL_C:
                    process.send_signal(signal.SIGINT)
                else:
                    os.write(ours, text)
        return process.wait(10), shown.decode()
    finally:
        os.close(ours)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()


@pytest.mark.fault(35)
def test_version_as_a_flag(leeway: Leeway) -> None:
    assert leeway("--version").assert_done() == leeway("version").assert_done()
    assert leeway("--version", "keys", "list").assert_done().startswith(f"leeway {VERSION}")


@pytest.mark.fault(35)
def test_the_data_directory_before_the_command(
    leeway: Leeway, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = leeway("keys", "list", "--data-dir", made).assert_done()
    assert leeway("--data-dir", made, "keys", "list").assert_done() == expected
    assert leeway("--data-dir", "/no", "keys", "list", "--data-dir", made).assert_done() == expected
    monkeypatch.setenv("LEEWAY_DATA_DIR", "/nowhere")
    assert leeway("--data-dir", made, "keys", "list").assert_done() == expected
    leeway("--data-dir", "/no", "keys", "list").assert_failed(3, "/no is not a data directory")


UNKNOWN = [
    ("LEEWAY_ISUER", "set LEEWAY_ISSUER, or unset it"),
    ("LEEWAY_SERVER_WORKER", "LEEWAY_SERVER_WORKERS"),
    ("LEEWAY_WORKERS", "LEEWAY_SERVER_WORKERS"),
    ("LEEWAY_XYZZYX", "unset it; `leeway config show` has the names"),
    ("LEEWAY_", "unset it"),
    ("LEEWAY_SERVER_PORT", "unset it"),
]


@pytest.mark.fault(35)
@pytest.mark.parametrize(("name", "words"), UNKNOWN, ids=[case[0] for case in UNKNOWN])
def test_an_unknown_variable_stops_the_start(
    leeway: Leeway, made: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.setenv(name, "hunter2hunter2")
    for command in (("serve",), ("token", "create", "a", "-n", "b")):
        ran = leeway(*command, "--data-dir", made)
        error = ran.assert_failed(2, f"'{name}' is not known", words)
        assert "hunter2" not in error


SERVICE = {
    "LEEWAY_SERVICE_HOST": "10.0.0.7",
    "LEEWAY_SERVICE_PORT": "443",
    "LEEWAY_SERVICE_PORT_HTTPS": "443",
    "LEEWAY_PORT": "tcp://10.0.0.7:443",
    "LEEWAY_PORT_443_TCP": "tcp://10.0.0.7:443",
    "LEEWAY_PORT_443_TCP_PROTO": "tcp",
    "LEEWAY_PORT_443_TCP_PORT": "443",
    "LEEWAY_PORT_443_TCP_ADDR": "10.0.0.7",
    "LEEWAY_METRICS_SERVICE_HOST": "10.0.0.8",
    "LEEWAY_METRICS_PORT": "tcp://10.0.0.8:443",
}


@pytest.mark.fault(35)
def test_variables_that_a_kubelet_sets_for_a_service_are_not_errors(
    leeway: Leeway, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SERVICE.items():
        monkeypatch.setenv(name, value)
    leeway("keys", "list", "--data-dir", made).assert_done()


@pytest.mark.fault(35)
def test_ctrl_c_at_a_prompt_exits_as_a_shell_expects(data_dir: Path) -> None:
    arguments = ("user", "passwd", "root", "--data-dir", data_dir)
    code, shown = run_on_terminal(*arguments, typed=[(b"Password of root", CTRL_C)])
    assert code == 130
    assert shown.endswith("leeway: interrupted\r\n")
    assert "Traceback" not in shown


@pytest.mark.fault(35)
def test_the_end_of_input_at_a_prompt_is_wrong_input(data_dir: Path) -> None:
    arguments = ("user", "passwd", "root", "--data-dir", data_dir)
    code, shown = run_on_terminal(*arguments, typed=[(b"Password of root", CTRL_D)])
    assert (code, "Traceback" in shown) == (2, False)


@pytest.mark.fault(41)
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_help_of_each_command_ends_with_examples_that_parse(
    leeway: Leeway, path: tuple[str, ...]
) -> None:
    out = leeway(*path, "--help").assert_done()
    _, _, examples = out.rpartition("\n\n  Example")
    lines = [line.strip() for line in examples.splitlines()[1:] if line.strip()]
    assert lines, f"add epilog=example(...) to `leeway {' '.join(path)}`"
    for line in lines:
        text = re.split(r" [<>|] |\)", line)[0].removeprefix("source <(")
        words = shlex.split(text, comments=True)
        assert words[: 1 + len(path)] == ["leeway", *path], line
        if "--help" not in words:
            check_command(words[1:])


@pytest.mark.fault(41)
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:8443", ("127.0.0.1", 8443)),
        ("https://hook.example.com", ("hook.example.com", 443)),
        ("https://hook.example.com:8443/", ("hook.example.com", 8443)),
        ("HOOK.example.com:1", ("hook.example.com", 1)),
        ("[2001:db8::1]:8443", ("2001:db8::1", 8443)),
        ("https://[::1]:8443", ("::1", 8443)),
        ("0.0.0.0:8443", ("127.0.0.1", 8443)),
    ],
)
def test_a_server_is_a_url_or_a_host_with_a_port(text: str, found: tuple[str, int]) -> None:
    address = ServerAddress().convert(text, None, None)
    assert (address.host, address.port) == found


@pytest.mark.fault(41)
@pytest.mark.parametrize("command", ["doctor", "skew"])
def test_both_forms_of_a_server_reach_it(leeway: Leeway, tmp_path: Path, command: str) -> None:
    made = tmp_path / "data"
    leeway("init", "--data-dir", made, "--algorithm", "ES256").assert_done()
    for server in ("127.0.0.1:9", "https://127.0.0.1:9"):
        ran = leeway(command, "--server", server, "--data-dir", made)
        assert "127.0.0.1:9" in ran.out + ran.err
        assert ran.code in (1, 3)
    error = leeway(command, "--server", "https://u:hunter2@h", "--data-dir", made).err
    assert "hunter2" not in error
    assert "HOST:PORT" in error


@pytest.mark.fault(41)
@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_no_color(made: Path, no_color: str, coloured: bool) -> None:
    _, shown = run_on_terminal("doctor", "--data-dir", made, NO_COLOR=no_color)
    assert "CA certificate" in shown
    assert ("\x1b[" in shown) is coloured


def test_completion_in_bash(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on this machine")
    script = (
        "source <(leeway completion bash) && COMP_WORDS=(leeway cert re) COMP_CWORD=2 && "
        "_leeway_completion leeway && echo ${COMPREPLY[@]}"
    )
    environment = {**os.environ, "PATH": f"{Path(LEEWAY).parent}:{os.environ['PATH']}"}
    ran = subprocess.run(
        [bash, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert (ran.stdout, ran.stderr) == ("renew revoke\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(leeway: Leeway, shell: str) -> None:
    assert f"_LEEWAY_COMPLETE={shell}_complete" in leeway("completion", shell).assert_done()
    leeway("completion", "tcsh").assert_failed(2, "bash", "fish")
