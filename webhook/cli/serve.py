"""``leeway serve``: check everything once, then run gunicorn."""

import gc
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from time import time
from typing import Any

import click

from keys.keyring import Keyring
from keys.messages import utc
from webhook.assembly import (
    authenticator_of,
    check_etcd_files,
    lifetimes_of,
    source_of,
    store_of,
)
from webhook.cli.etcd_look import look_at_etcd
from webhook.cli.options import data_dir_option, example, fields_of, serve_options
from webhook.cli.process import set_limits
from webhook.config.load import load_configuration
from webhook.config.model import Configuration
from webhook.config.paths import TLSFiles, check_folders, check_private_files, tls_files
from webhook.errors import DataDirectoryError
from webhook.rbac import revocations
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreUnavailableError
from webhook.server.connection.stop_signals import exit_on_signal
from webhook.server.gunicorn_settings import gunicorn_settings, pass_on_hangup, shared_memory
from webhook.signing_keys import encryption_keys_of, keyring_for
from webhook.telemetry.logs import LOGGER, log_to_stderr

_logger = logging.getLogger(LOGGER)


@click.command(epilog=example("leeway serve", "leeway serve --bind 0.0.0.0:8443 --workers 4"))
@data_dir_option
@serve_options
def serve(data_dir: Path, **options: object) -> None:
    """Serve on one TLS port.

    SIGTERM finishes open requests and ends the server. SIGHUP reloads every file.
    """

    def configure() -> Configuration:
        return load_configuration(data_dir, os.environ, fields_of(options))

    # Before the fork there is almost no garbage, and a collection takes long.
    gc.disable()
    configuration = configure()
    files = tls_files(data_dir)
    metrics_dir = tempfile.mkdtemp(prefix="leeway-metrics-", dir=shared_memory())
    # prometheus_client reads it when it is imported, which happens below.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics_dir
    master = os.getpid()
    exit_on_signal(metrics_dir)
    try:
        _run(data_dir, configure, configuration, files)
    finally:
        # Workers are forked inside _run, and also get here when they exit.
        if os.getpid() == master:
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]
            shutil.rmtree(metrics_dir, ignore_errors=True)


def _run(
    data_dir: Path,
    configure: Callable[[], Configuration],
    configuration: Configuration,
    files: TLSFiles,
) -> None:
    from gunicorn.app.base import BaseApplication
    from gunicorn.arbiter import Arbiter

    from webhook.server.reload.live_application import LiveApplication

    log_to_stderr(configuration.server.log_format, configuration.server.log_level)
    prepare_to_serve(data_dir, configuration, files)

    class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
        def load_config(self) -> None:
            for name, value in gunicorn_settings(configuration, files).items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            return LiveApplication(data_dir, configure, configuration)

    class Master(Arbiter):  # type: ignore[misc]
        def reload(self) -> None:
            pass_on_hangup(self)

    # A collection in a worker would write to the pages that it shares with the master.
    gc.freeze()
    gc.enable()
    Master(Server()).run()


def prepare_to_serve(data_dir: Path, configuration: Configuration, files: TLSFiles) -> None:
    """Check once, before the workers start, that everything a worker loads can be loaded.

    Raises DataDirectoryError, and the errors of ``keys``, of the store and of ``webhook.assembly``.
    """
    from webhook.server.connection.tls import load_context, revocations_of

    set_limits()
    check_folders(data_dir)
    check_private_files(data_dir, configuration)
    load_context(files)
    if files.client_crl is not None:
        found = revocations_of(files, files.client_crl)
        _logger.info(
            "certificates revoked by %s: %d; without a newer list no client certificate is "
            "accepted after %s",
            files.client_crl,
            found.revoked,
            utc(found.next_update),
        )
    section = configuration.store.etcd
    if section is not None:
        check_etcd_files(data_dir, section)
    _check_bind(configuration.server.bind)
    if section is not None:
        look_at_etcd(data_dir, configuration)
        _check_authenticator(data_dir, configuration)
        return
    # It must be closed before workers are forked: SQLite's locks belong to a process.
    with closing(store_of(data_dir, configuration)) as store:
        _check_authenticator(data_dir, configuration)
        _tidy_revocations(store, configuration)


def _check_authenticator(data_dir: Path, configuration: Configuration) -> None:
    if configuration.keys.store == "etcd":
        # The keys are read after the fork.
        encryption_keys_of(data_dir, configuration)
        keyring = Keyring()
    else:
        keyring = keyring_for(data_dir, configuration)
    authenticator_of(
        data_dir,
        configuration,
        keyring,
        objects=source_of(data_dir, configuration),
    )


def _tidy_revocations(store: AuthStore, configuration: Configuration) -> None:
    try:
        store.change(revocations.tidy, lifetimes_of(configuration), time())
    except StoreUnavailableError as error:
        # The server can start: old revocations do no harm, and `leeway revoke` drops them too.
        _logger.warning("old revocations were not dropped: %s", error)


def _check_bind(bind: str) -> None:
    # gunicorn would retry for five seconds, log each attempt, and exit with 1.
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, int(port)), family=family).close()
    except OSError as error:
        # Python appends the address to the message of the system.
        why = (error.strerror or str(error)).partition(" (while")[0]
        raise DataDirectoryError(
            f"cannot listen on {bind}: {why}; stop what listens there, or give another address "
            "with --bind HOST:PORT"
        ) from error
