"""The settings of gunicorn, for ``leeway serve`` and for ``deploy/gunicorn.conf.py``.

prometheus_client reads ``PROMETHEUS_MULTIPROC_DIR`` as soon as it is imported, and the application
imports it: so nothing at the top of this module does.
"""

import os
import signal
from typing import Any, Final

from webhook.config.load import data_dir_of, load_configuration
from webhook.config.model import Configuration
from webhook.config.paths import TLSFiles
from webhook.server.connection.stop_signals import hold_over_forks

GRACEFUL_SECONDS: Final = 25
KEEP_ALIVE_SECONDS: Final = 75
_LOGS: Final = {
    "json": "webhook.server.connection.gunicorn_log.JSONLog",
    "text": "webhook.server.connection.gunicorn_log.TextLog",
}


def gunicorn_settings(configuration: Configuration, files: TLSFiles) -> dict[str, Any]:
    """Return gunicorn's settings by name."""
    return {
        "bind": configuration.server.bind,
        "workers": configuration.server.workers,
        "worker_class": "webhook.server.connection.worker.LeewayWorker",
        "certfile": str(files.certificate),
        "keyfile": str(files.private_key),
        "ca_certs": str(files.client_ca),
        "keepalive": KEEP_ALIVE_SECONDS,
        "graceful_timeout": GRACEFUL_SECONDS,
        "forwarded_allow_ips": "",
        "control_socket_disable": True,
        "worker_tmp_dir": shared_memory(),
        "proc_name": "leeway",
        "logger_class": _LOGS[configuration.server.log_format],
        "loglevel": configuration.server.log_level,
        "when_ready": lambda _server: hold_over_forks(),
        "child_exit": _forget_worker,
    }


def pass_on_hangup(arbiter: Any) -> None:
    """Make SIGHUP reload the files in the workers, instead of replacing the workers."""
    for pid in list(arbiter.WORKERS):
        arbiter.kill_worker(pid, signal.SIGHUP)


def application() -> Any:
    """Make the application of one worker, as the environment configures it."""
    from webhook.server.reload.live_application import LiveApplication

    data_dir = data_dir_of(os.environ)
    return LiveApplication(data_dir, lambda: load_configuration(data_dir, os.environ, {}))


def shared_memory() -> str | None:
    """Return a folder in memory for what workers share, None where there is none."""
    folder = "/dev/shm"  # noqa: S108 - mkdtemp makes a private folder in it
    return folder if os.access(folder, os.W_OK) else None


def _forget_worker(_server: Any, worker: Any) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
