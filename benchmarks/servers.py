"""The servers that are measured, each in its own process on a free loopback port."""

import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from webhook.assembly import keyring_of
from webhook.config.model import Configuration
from webhook.server.gunicorn_settings import shared_memory

HOST: Final = "127.0.0.1"
WORKERS: Final = 2
SERVER_LOG: Final = "serve.log"
SIGNER_LOG: Final = "signer.log"
BASELINE_THREADS: Final = 8
KEEP_ALIVE_SECONDS: Final = 75
_PORTS: Final = range(19100, 19200)
_START_SECONDS: Final = 30
_STOP_SECONDS: Final = 40
_LOG_CHARACTERS: Final = 2000


ROOT: Final = Path(__file__).parent.parent

# Of a checkout with dependencies of its own.
PYTHON: Final = Path(".venv", "bin", "python")


def make_data_dir(folder: Path, algorithm: str = "RS256", tree: Path = ROOT) -> Path:
    """Run ``leeway init``, of the checkout in ``tree``."""
    data_dir = folder / "data"
    command = [*_leeway("init", data_dir, tree), "--algorithm", algorithm]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=tree)
    return data_dir


def _leeway(command: str, data_dir: Path, tree: Path) -> list[str]:
    # Python looks for the package in its working directory first.
    python = sys.executable if tree == ROOT else tree / PYTHON
    return [str(python), "-m", "webhook", command, "--data-dir", str(data_dir)]


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server: its port, and the parent process of its workers."""

    port: int
    pid: int

    def workers(self) -> list[int]:
        """Return the process ids of the workers, who are there once a request was answered."""
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text("ascii")
        return [int(child) for child in text.split()]


@dataclass(frozen=True, slots=True)
class RunningSigner:
    """A signer: its socket and its process."""

    socket: Path
    pid: int


@contextmanager
def leeway_server(
    data_dir: Path, workers: int = WORKERS, *, wait: bool = True, tree: Path = ROOT
) -> Iterator[int]:
    """Run ``leeway serve`` and yield its port; at once, where it is not waited for."""
    with leeway_process(data_dir, workers, wait=wait, tree=tree) as running:
        yield running.port


@contextmanager
def leeway_process(
    data_dir: Path, workers: int = WORKERS, *, wait: bool = True, tree: Path = ROOT
) -> Iterator[RunningServer]:
    """Run ``leeway serve`` of the checkout in ``tree``, and yield it."""
    port = _free_port()
    command = _leeway("serve", data_dir, tree)
    command += ["--bind", f"{HOST}:{port}", "--workers", str(workers)]
    with _running(command, {}, port, data_dir / SERVER_LOG, wait=wait, tree=tree) as process:
        yield RunningServer(port, process.pid)


@contextmanager
def signer_process(data_dir: Path, processor: int | None = None) -> Iterator[RunningSigner]:
    """Run ``leeway signer``, confined to one processor if that is given, and yield it."""
    path = data_dir / "signer.sock"
    command = [*_leeway("signer", data_dir, ROOT), "--socket", str(path)]
    with (
        confined_to(processor),
        _running(command, {}, 0, data_dir / SIGNER_LOG, wait=False) as process,
    ):
        _await(process, lambda: _connects(socket.AF_UNIX, str(path)))
        yield RunningSigner(path, process.pid)


@contextmanager
def confined_to(processor: int | None) -> Iterator[None]:
    """Confine this thread, and what it starts meanwhile, to a processor, or to none for None."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if processor is None else {processor})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def profile_server(kind: str, data_dir: Path, file: Path) -> Iterator[RunningServer]:
    """Run ``profile_server``, ``bare`` or ``traced``, with one worker, and yield it."""
    port = _free_port()
    command = [sys.executable, "-m", "benchmarks.profile_server", kind, str(data_dir)]
    command += [f"{HOST}:{port}", str(file)]
    with tempfile.TemporaryDirectory(prefix="leeway-metrics-", dir=shared_memory()) as metrics:
        environment = {"PROMETHEUS_MULTIPROC_DIR": metrics}
        with _running(command, environment, port, data_dir / f"{kind}.log") as process:
            yield RunningServer(port, process.pid)


@contextmanager
def baseline_server(data_dir: Path, configuration: Configuration) -> Iterator[int]:
    """Run ``baseline_app`` on gunicorn with the certificates of a data directory."""
    port = _free_port()
    tls = data_dir / "tls"
    public_key = data_dir / "public.pem"
    key = keyring_of(data_dir).signing_key().verification_key.public_key
    public_key.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    environment = {
        "BASELINE_PUBLIC_KEY": str(public_key),
        "BASELINE_ISSUER": configuration.issuer,
        "BASELINE_AUDIENCE": configuration.audiences[0],
    }
    options = {
        "bind": f"{HOST}:{port}",
        "worker-class": "gthread",
        "workers": WORKERS,
        "threads": BASELINE_THREADS,
        "keep-alive": KEEP_ALIVE_SECONDS,
        "certfile": tls / "server.crt",
        "keyfile": tls / "server.key",
        "ca-certs": tls / "ca.crt",
        "cert-reqs": 2,  # ssl.CERT_REQUIRED
    }
    command = [sys.executable, "-m", "gunicorn", "benchmarks.baseline_app:app"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with _running(command, environment, port, data_dir / "baseline.log"):
        yield port


def script(name: str) -> str:
    """Return the path of a command that is installed beside Python."""
    return str(Path(sys.executable).with_name(name))


def _free_port() -> int:
    # In any order: another run may look for one at the same time.
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no port of {_PORTS.start} to {_PORTS.stop - 1} is free")


@contextmanager
def _running(
    command: Sequence[str],
    environment: Mapping[str, str],
    port: int,
    log: Path,
    *,
    wait: bool = True,
    tree: Path = ROOT,
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=tree, env=os.environ | environment
        )
    try:
        if wait:
            _await(process, lambda: _connects(socket.AF_INET, (HOST, port)))
        yield process
    except Exception as error:
        error.add_note(f"log of the server: {log.read_text('utf-8')[-_LOG_CHARACTERS:]}")
        raise
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if is_ready():
            return
        time.sleep(0.05)
    raise RuntimeError("a server did not start")


def _connects(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as client:
        client.settimeout(1)
        try:
            client.connect(address)
        except OSError:
            return False
    return True
