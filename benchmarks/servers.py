"""The servers that are measured, each a process of its own on a free loopback port."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from webhook.assembly import keyring_of
from webhook.config import Configuration

HOST: Final = "127.0.0.1"
WORKERS: Final = 2
BASELINE_THREADS: Final = 8
KEEP_ALIVE_SECONDS: Final = 75
_PORTS: Final = range(19100, 19200)
_START_SECONDS: Final = 30
_STOP_SECONDS: Final = 40
_LOG_CHARACTERS: Final = 2000


def make_data_dir(folder: Path) -> Path:
    """Run ``leeway init``."""
    data_dir = folder / "data"
    command = [_script("leeway"), "init", "--data-dir", str(data_dir)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return data_dir


@contextmanager
def leeway_server(data_dir: Path) -> Iterator[int]:
    """Run ``leeway serve`` and yield its port."""
    port = _free_port()
    command = [_script("leeway"), "serve", "--data-dir", str(data_dir)]
    command += ["--bind", f"{HOST}:{port}", "--workers", str(WORKERS)]
    with _running(command, {}, port, data_dir / "serve.log"):
        yield port


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


def _script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _free_port() -> int:
    for port in _PORTS:
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
    command: Sequence[str], environment: Mapping[str, str], port: int, log: Path
) -> Iterator[None]:
    root = Path(__file__).parent.parent
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=root, env=os.environ | environment
        )
    try:
        _await_port(process, port)
        yield
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


def _await_port(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("a server did not start")
