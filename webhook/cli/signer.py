"""``leeway signer``: sign service account tokens for kube-apiserver."""

import logging
import os
from pathlib import Path
from typing import Final

import click
import msgspec

from keys.messages import shown
from webhook.cli.options import data_dir_option, example, log_options
from webhook.cli.process import set_limits
from webhook.config.load import FILE_NAME, load_configuration
from webhook.config.model import Configuration
from webhook.config.paths import check_folders, check_private_files
from webhook.config.section import is_address
from webhook.duration import format_duration
from webhook.errors import ConfigurationError
from webhook.server.connection.stop_signals import exit_on_signal
from webhook.telemetry.logs import LOGGER, log_to_stderr

_FIELDS: Final = {
    "socket": "signer.socket",
    "refresh_hint": "signer.refreshHint",
    "log_format": "server.logFormat",
    "log_level": "server.logLevel",
}


def _address(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if value and not is_address(value):
        raise click.BadParameter(f"{shown(value)} is not HOST:PORT, like 127.0.0.1:8444")
    return value


def _check_hint(used: Configuration, shared: Configuration) -> None:
    """Raise ConfigurationError if the rotation of keys does not wait as long as the flag says."""
    hint, known = used.signer_settings.refresh_hint, shared.signer_settings.refresh_hint
    if hint > known:
        raise ConfigurationError(
            f"flag --refresh-hint: {format_duration(hint)} is longer than signer.refreshHint, "
            f"{format_duration(known)}, by which other processes rotate the keys; set it in "
            f"{FILE_NAME} instead"
        )


@click.command(epilog=example("leeway signer", "leeway signer --socket /run/leeway/signer.sock"))
@data_dir_option
@click.option("--socket", metavar="PATH", help="The Unix socket to listen on.")
@click.option(
    "--refresh-hint", metavar="DURATION", help="After how long kube-apiserver fetches the keys."
)
@click.option(
    "--metrics-bind",
    metavar="HOST:PORT",
    default="",
    callback=_address,
    help="Serve /metrics and /livez there, over plain HTTP; off by default.",
)
@log_options
def signer(data_dir: Path, metrics_bind: str, **options: object) -> None:
    """Sign service account tokens for kube-apiserver.

    It calls this over the Unix socket that its flag --service-account-signing-endpoint names.
    SIGTERM finishes open calls and ends the signer. SIGHUP reloads every file.
    """

    def configure() -> Configuration:
        fields = {_FIELDS[name]: value for name, value in options.items()}
        configuration = load_configuration(data_dir, os.environ, fields)
        _check_hint(configuration, load_configuration(data_dir, os.environ, {}))
        return msgspec.structs.replace(configuration, signer=configuration.signer_settings)

    exit_on_signal()
    configuration = configure()
    log_to_stderr(configuration.server.log_format, configuration.server.log_level)
    if load_configuration(data_dir, os.environ, {}).signer is None:
        logging.getLogger(LOGGER).warning(
            "leeway.yaml has no section signer, so other commands do not know that kube-apiserver "
            "uses the keys, and could rotate them too early; add `signer: {}`"
        )
    set_limits()
    check_folders(data_dir)
    check_private_files(data_dir, configuration)
    # gRPC core would write lines of its own to standard error, in another format.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Imported here, since only this command needs gRPC.
    from webhook.signer.server import SignerServer

    SignerServer(data_dir, configure, configuration, metrics_bind).run()
