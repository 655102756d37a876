"""Replicas of a server on one store in etcd: their data directories, and the servers."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.unit.webhook.cli.cli_support import Ran, run_process

from .harness import AUDIENCE, HOST, RunningServer, free_port, serve

_CONFIGURATION = """\
apiVersion: leeway.dev/v1
kind: LeewayConfiguration
issuer: https://leeway.default.svc
audiences: [{audience}]
server: {{bind: "{host}:{port}", workers: 2}}
store: {{etcd: {{{etcd}}}}}
"""
# What a cut or an election leaves in a log.
TROUBLE = r"need the store are refused|the store|there is no store|what is here of"


def section_of(endpoints: Sequence[str], prefix: str, **more: object) -> str:
    """Return the content of ``store.etcd`` in YAML."""
    values = {"endpoints": list(endpoints), "prefix": prefix, **more}
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def write_configuration(data_dir: Path, port: int, etcd: str) -> None:
    """Write the leeway.yaml of a replica."""
    text = _CONFIGURATION.format(audience=AUDIENCE, host=HOST, port=port, etcd=etcd)
    (data_dir / "leeway.yaml").write_text(text)


def make_directory(folder: Path, etcd: str) -> Path:
    """Make the data directory of the first replica, and fill the store: ``leeway init``."""
    data_dir = folder / "data"
    data_dir.mkdir(mode=0o700, parents=True)
    write_configuration(data_dir, free_port(), etcd)
    run_process("init", "--data-dir", data_dir).assert_done()
    return data_dir


def copy_directory(data_dir: Path, folder: Path, etcd: str) -> Path:
    """Make the data directory of another replica: the same keys and certificates."""
    folder.mkdir(mode=0o700)
    copy = shutil.copytree(data_dir, folder / "data")
    write_configuration(copy, free_port(), etcd)
    return copy


def port_of(data_dir: Path) -> int:
    """Return the port in a leeway.yaml."""
    text = (data_dir / "leeway.yaml").read_text()
    return int(text.partition(f"{HOST}:")[2].partition('"')[0])


@contextmanager
def running(
    *data_dirs: Path,
    environment: Mapping[str, str] | None = None,
    readyz: int = 200,
    expected_trouble: str = TROUBLE,
) -> Iterator[list[RunningServer]]:
    """Run a server on each data directory."""
    with ExitStack() as stack:
        servers = []
        for data_dir in data_dirs:
            server = serve(data_dir, port_of(data_dir), environment, readyz)
            stack.callback(_stop, server, expected_trouble)
            servers.append(server)
        yield servers


def _stop(server: RunningServer, expected_trouble: str) -> None:
    try:
        server.stop(expected_trouble)
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def leeway(data_dir: Path, *words: str) -> Ran:
    """Run a command on a data directory."""
    return run_process(*words, "--data-dir", data_dir)


def libraries_of(pid: int) -> set[str]:
    """Return the files that a process has mapped."""
    maps = Path(f"/proc/{pid}/maps").read_text("utf-8", "replace")
    return {line.split(maxsplit=5)[-1] for line in maps.splitlines()}
