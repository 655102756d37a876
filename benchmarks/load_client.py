"""Builds and runs the load client, ``load_client.c``."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.servers import HOST
from webhook.config.paths import TLS_FOLDER
from webhook.setup.first_records import API_SERVER_USER

_FOLDER: Final = Path(__file__).parent
_SOURCES: Final = ("load_client.c", "https.c")
_LIBRARIES: Final = ("-lssl", "-lcrypto")
_SPARE_SECONDS: Final = 60
API_SERVER_QUERY: Final = "?timeout=30s"
"""What kube-apiserver adds to the path of every review (client-go ``rest/request.go``, ``URL``)."""


class ToolMissingError(Exception):
    """A tool that is needed to build the load client is not installed."""


class LoadError(Exception):
    """The load client could not measure, or a request was not answered as expected."""


@dataclass(frozen=True, slots=True)
class Load:
    """The result of one run; latencies in milliseconds."""

    requests: int
    errors: int
    seconds: float
    requests_per_second: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    client_cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Target:
    """The server, the client certificate, and what every answer must contain."""

    host: str
    port: int
    path: str
    tls_folder: Path
    user: str
    expected: str


def review_target(port: int, path: str, data_dir: Path, expected: str) -> Target:
    """Return the target of a kube-apiserver's reviews."""
    tls = data_dir / TLS_FOLDER
    return Target(HOST, port, path + API_SERVER_QUERY, tls, API_SERVER_USER, expected)


@dataclass(frozen=True, slots=True)
class Plan:
    """How requests are sent. ``rate`` is in requests per second, 0 for a closed loop.

    With ``once`` no body is sent twice; the run ends early when they are used up.
    """

    bodies: Path
    connections: int
    seconds: float
    rate: float = 0.0
    once: bool = False


def build(folder: Path) -> Path:
    """Compile the load client into a folder. Raises ToolMissingError."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise ToolMissingError("no C compiler (cc)")
    header = [compiler, "-E", "-include", "openssl/ssl.h", "-x", "c", "/dev/null"]
    if subprocess.run(header, capture_output=True, check=False).returncode:
        raise ToolMissingError("no OpenSSL headers (openssl/ssl.h)")
    binary = folder / "load_client"
    sources = [str(_FOLDER / name) for name in _SOURCES]
    command = [compiler, "-Wall", "-Wextra", "-O2", "-o", str(binary), *sources, *_LIBRARIES]
    subprocess.run(command, check=True)
    return binary


def run_load(binary: Path, target: Target, plan: Plan) -> Load:
    """Send requests. Raises LoadError if any was not answered as expected."""
    load, first_error = count_load(binary, target, plan)
    if load.errors or not load.requests:
        raise LoadError(f"{load.errors} of {load.requests} requests failed: {first_error}")
    return load


def count_load(binary: Path, target: Target, plan: Plan) -> tuple[Load, str]:
    """Send requests; return the result and the first error, "" without one.

    Raises LoadError if the client could not measure.
    """
    tls = target.tls_folder
    command: list[str | Path] = [binary]
    if plan.once:
        command.append("-1")
    if plan.rate:
        command += ["-r", str(plan.rate)]
    command += [target.host, str(target.port), target.path]
    command += [tls / "ca.crt", tls / f"{target.user}.crt", tls / f"{target.user}.key"]
    command += [str(plan.connections), str(plan.seconds), plan.bodies, target.expected]
    limit = plan.seconds + _SPARE_SECONDS
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"the load client did not end within {limit:.0f} s") from error
    if done.returncode:
        raise LoadError(done.stderr.strip())
    return Load(**json.loads(done.stdout)), done.stderr.strip()
