"""``leeway signer`` as users run it, beside a server or alone."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.external_jwt.client import SignerClient
from tests.secrets_made import folder_made, shown
from webhook.setup.init import InitOptions, initialise

from .harness import LEEWAY, records_of, trouble_in

REFUSED = "the claims were refused"
_START_SECONDS = 30.0
_STOP_SECONDS = 40.0
_CONFIGURATION = """\
apiVersion: leeway.dev/v1
kind: LeewayConfiguration
issuer: https://leeway.default.svc
audiences: [https://kubernetes.default.svc]
"""
_SECTION = "signer: {}\n"


@dataclass
class RunningSigner:
    """A process, its socket and its log, which it shares with those that ran before it."""

    data_dir: Path
    socket: Path
    log_file: Path
    process: subprocess.Popen[bytes]
    log_before: int = 0

    def client(self) -> SignerClient:
        return SignerClient(self.socket)

    def log(self) -> str:
        """Return what this process has logged."""
        return self.log_file.read_bytes()[self.log_before :].decode()

    def records(self) -> list[dict[str, Any]]:
        return records_of(self.log())

    def refusals(self) -> list[dict[str, Any]]:
        """Return the records of claims that were not signed."""
        return [record for record in self.records() if record.get("event") == "sign"]

    def signed(self) -> list[dict[str, Any]]:
        """Return the audit records of tokens."""
        return [record for record in self.records() if record.get("action") == "token.sign"]

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_SECONDS)

    def stop(self, expected_trouble: str = "") -> None:
        """End it, and check that nothing unexpected is in its log; see ``RunningServer.stop``."""
        folder_made(self.data_dir)
        assert self.terminate() == 0, self.log()
        trouble = trouble_in(self.log())
        if expected_trouble:
            trouble = [line for line in trouble if not re.search(expected_trouble, line)]
        assert trouble == [], "\n".join(trouble)


def add_signer(data_dir: Path) -> None:
    """Configure a signer in the data directory of a server."""
    with (data_dir / "leeway.yaml").open("a") as file:
        file.write(_SECTION)


def make_data_dir(folder: Path, algorithm: str = "RS256", section: str = _SECTION) -> Path:
    """Make a data directory for a signer alone, with its section of leeway.yaml."""
    data_dir = folder / "data"
    data_dir.mkdir(mode=0o700)
    (data_dir / "leeway.yaml").write_text(_CONFIGURATION + section)
    initialise(data_dir, InitOptions(algorithm=algorithm), time.time(), os.environ)
    folder_made(data_dir)
    return data_dir


def spawn_signer(
    data_dir: Path, socket: Path, log_file: Path, *arguments: str
) -> subprocess.Popen[bytes]:
    """Start a process, and do not wait."""
    with log_file.open("ab") as log:
        return subprocess.Popen(
            [LEEWAY, "signer", "--data-dir", data_dir, "--socket", socket, *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def start_signer(
    data_dir: Path, arguments: Sequence[str] = (), socket: Path | None = None
) -> RunningSigner:
    """Start a signer, and wait until it serves."""
    socket = socket or data_dir.parent / "run" / "signer.sock"
    log_file = data_dir.parent / "signer.log"
    before = log_file.stat().st_size if log_file.exists() else 0
    configuration = data_dir / "leeway.yaml"
    if "\nsigner:" not in (text := configuration.read_text()):
        configuration.write_text(f"{text}signer: {{}}\n")
    process = spawn_signer(data_dir, socket, log_file, *arguments)
    running = RunningSigner(data_dir, socket, log_file, process, before)
    deadline = time.monotonic() + _START_SECONDS
    try:
        while '"event": "serving"' not in running.log():
            assert process.poll() is None, running.log()
            assert time.monotonic() < deadline, running.log()
            time.sleep(0.02)
    except BaseException:
        running.kill()
        raise
    return running


@contextmanager
def signer(
    data_dir: Path, arguments: Sequence[str] = (), expected_trouble: str = ""
) -> Iterator[RunningSigner]:
    """Run a signer; at the end it stops, or is killed after a failure."""
    running = start_signer(data_dir, arguments)
    try:
        yield running
        running.stop(expected_trouble)
    finally:
        running.kill()


def leeway(data_dir: Path, *arguments: str) -> str:
    """Run a command on a data directory, and return what it printed."""
    command = [LEEWAY, *arguments, "--data-dir", str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    shown(f"what `leeway {' '.join(arguments[:2])}` printed", done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
