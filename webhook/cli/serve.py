"""``leeway serve``."""

import os
import resource
import shutil
import socket
import ssl
import tempfile
from pathlib import Path
from typing import Any, Final

import click

from webhook.cli.output import data_dir_option
from webhook.config import Configuration
from webhook.config_file import load_configuration
from webhook.data_dir import TLSFiles, tls_files
from webhook.errors import DataDirectoryError

GRACEFUL_SECONDS: Final = 25
KEEP_ALIVE_SECONDS: Final = 75


@click.command()
@data_dir_option
@click.option("--bind", metavar="HOST:PORT", help="Where to listen.")
@click.option("--workers", type=int, help="How many processes.")
def serve(data_dir: Path, bind: str | None, workers: int | None) -> None:
    """Serve on one TLS port until SIGTERM, which drains it."""
    flags = {"server.bind": bind, "server.workers": workers}
    configuration = load_configuration(data_dir, os.environ, flags)
    files = tls_files(data_dir)
    metrics_dir = tempfile.mkdtemp(prefix="leeway-metrics-", dir=_shared_memory())
    # Read by prometheus_client as soon as it is imported, hence before everything below.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics_dir
    master = os.getpid()
    try:
        _run(data_dir, configuration, files)
    finally:
        # A worker is forked from in there, and comes by here when it exits.
        if os.getpid() == master:
            shutil.rmtree(metrics_dir, ignore_errors=True)


def _run(data_dir: Path, configuration: Configuration, files: TLSFiles) -> None:
    from gunicorn.app.base import BaseApplication

    from webhook.server.app import create_app
    from webhook.server.tls import server_context

    # What cannot be served is said here, once, and not by every worker.
    try:
        server_context(files.certificate, files.private_key, files.client_ca)
    except ssl.SSLError as error:
        raise DataDirectoryError(
            f"{files.certificate}, {files.private_key.name} and {files.client_ca.name} beside it "
            f"cannot be served with: {error.strerror or error}; restore them, or remove the broken "
            "pair and run `leeway init`"
        ) from error
    _check_bind(configuration.server.bind)
    # Nothing of it may be open when workers are forked: SQLite's locks belong to a process.
    create_app(data_dir, configuration).store.close()
    _raise_file_limit()

    class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
        def load_config(self) -> None:
            for name, value in _settings(configuration, files).items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            return create_app(data_dir, configuration)

    Server().run()


def _check_bind(bind: str) -> None:
    # gunicorn would try for five seconds, log each time, and exit with 1.
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, int(port)), family=family).close()
    except OSError as error:
        raise DataDirectoryError(
            f"cannot listen on {bind}: {error.strerror or error}; give another --bind HOST:PORT"
        ) from error


def _settings(configuration: Configuration, files: TLSFiles) -> dict[str, Any]:
    return {
        "bind": configuration.server.bind,
        "workers": configuration.server.workers,
        "worker_class": "webhook.server.worker.LeewayWorker",
        "certfile": str(files.certificate),
        "keyfile": str(files.private_key),
        "ca_certs": str(files.client_ca),
        "asgi_loop": "uvloop",
        "http_parser": "python",
        "keepalive": KEEP_ALIVE_SECONDS,
        "graceful_timeout": GRACEFUL_SECONDS,
        "forwarded_allow_ips": "",
        "control_socket_disable": True,
        "worker_tmp_dir": _shared_memory(),
        "proc_name": "leeway",
        "child_exit": _forget_worker,
    }


def _forget_worker(_server: Any, worker: Any) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def _shared_memory() -> str | None:
    folder = "/dev/shm"  # noqa: S108 - mkdtemp makes a private folder in it
    return folder if os.access(folder, os.W_OK) else None


def _raise_file_limit() -> None:
    # A connection is a file; the usual soft limit of 1,024 is fewer than one API server may open.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
