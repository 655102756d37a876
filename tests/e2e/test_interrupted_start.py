"""A signal at any moment of its start ends a server.

`make chaos` also judges how fast: within three seconds.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import assert_within, processes_of_session
from webhook.setup.init import InitOptions, initialise

from .harness import HOST, LEEWAY, free_port, start_server

STARTS = int(os.environ.get("TEST_INTERRUPTED_STARTS", "20"))
SEED = int(os.environ.get("TEST_INTERRUPTED_SEED", random.randrange(10**6)))
GONE_WITHIN = 3.0
STUCK_AFTER = 40.0
_SCRATCH = """
import os, signal, sys, time
from webhook.server.connection.stop_signals import hold, exit_on_signal
hold()
os.kill(os.getpid(), int(sys.argv[2]))
exit_on_signal(sys.argv[1])
time.sleep(5)
"""
_FORK = """
import os, signal, time
from webhook.server.connection.stop_signals import hold_over_forks, exit_on_signal
def lost(number, frame):
    print("lost", flush=True)
signal.signal(signal.SIGTERM, lost)
hold_over_forks()
children = []
for _ in range(200):
    pid = os.fork()
    if pid == 0:
        # Once there is a child it may be signalled; here, by itself.
        os.kill(os.getpid(), signal.SIGTERM)
        exit_on_signal()
        time.sleep(5)
        os._exit(1)
    children.append(pid)
print([os.waitpid(pid, 0)[1] for pid in children] == [0] * 200)
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.fixture(scope="module")
def start_seconds(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Return how long a server takes to become ready on this machine."""
    started = time.monotonic()
    server = start_server(tmp_path_factory.mktemp("start"))
    seconds = time.monotonic() - started
    server.stop()
    return seconds


@pytest.mark.fault(19)
@pytest.mark.parametrize("number", range(STARTS))
def test_an_interrupted_start(tmp_path: Path, start_seconds: float, number: int) -> None:
    choice = random.Random(f"{SEED} {number}")
    command = choice.choice(["serve", "demo"])
    is_terminal = choice.random() < 0.5
    delay = choice.uniform(0, 1.2 * start_seconds)
    arguments = [LEEWAY, command]
    if command == "serve":
        data_dir = tmp_path / "data"
        initialise(data_dir, InitOptions(), time.time())
        arguments += ["--data-dir", str(data_dir), "--bind", f"{HOST}:{free_port()}"]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(scratch)},
        )
    try:
        time.sleep(delay)
        sent = time.monotonic()
        if is_terminal:
            # What ctrl-C does: a terminal signals every process of its foreground group.
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGTERM)
        process.wait(STUCK_AFTER)
        while (
            processes_left := processes_of_session(process.pid)
        ) and time.monotonic() < sent + STUCK_AFTER:
            time.sleep(0.01)
        seconds = time.monotonic() - sent
    finally:
        for pid in processes_of_session(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()
    how = "ctrl-C" if is_terminal else "SIGTERM"
    print(f"{command}, {how} after {delay:.2f} s, seed {SEED}: gone after {seconds:.2f} s")
    assert not processes_left, log.read_text("utf-8", "replace")
    assert_within(seconds, GONE_WITHIN)
    assert b"SIGKILL" not in log.read_bytes()
    if command == "demo" and not is_terminal:
        assert list(scratch.iterdir()) == []


@pytest.mark.fault(19)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGTERM])
def test_a_signal_before_the_handlers_is_not_lost(tmp_path: Path, number: int) -> None:
    scratch = tmp_path / "metrics"
    scratch.mkdir()
    command = [sys.executable, "-c", _SCRATCH, str(scratch), str(int(number))]
    assert subprocess.run(command, check=False, timeout=30).returncode == 0
    assert not scratch.exists()


@pytest.mark.fault(19)
def test_a_signal_right_after_a_fork_is_not_lost() -> None:
    command = [sys.executable, "-c", _FORK]
    done = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    # The second line: the parent's own handler runs again after its forks.
    assert done.stdout.splitlines() == ["True", "lost"]
