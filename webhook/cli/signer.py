"""``leeway signer``: sign service account tokens for kube-apiserver."""

import os
from pathlib import Path
from typing import Final

import click

from webhook.cli.options import data_dir_option, example, log_options
from webhook.cli.process import set_limits
from webhook.config.load import load_configuration
from webhook.config.model import Configuration
from webhook.config.paths import check_folders, check_private_files
from webhook.telemetry.logs import log_to_stderr

_FIELDS: Final = {
    "socket": "signer.socket",
    "refresh_hint": "signer.refreshHint",
    "log_format": "server.logFormat",
    "log_level": "server.logLevel",
}


@click.command(epilog=example("leeway signer", "leeway signer --socket /run/leeway/signer.sock"))
@data_dir_option
@click.option("--socket", metavar="PATH", help="The Unix socket to listen on.")
@click.option(
    "--refresh-hint", metavar="DURATION", help="After how long kube-apiserver fetches the keys."
)
@log_options
def signer(data_dir: Path, **options: object) -> None:
    """Sign service account tokens for kube-apiserver.

    It calls this over the Unix socket that its flag --service-account-signing-endpoint names.
    SIGTERM finishes open calls and ends the signer. SIGHUP reloads every file.
    """

    def configure() -> Configuration:
        fields = {_FIELDS[name]: value for name, value in options.items()}
        return load_configuration(data_dir, os.environ, fields)

    configuration = configure()
    log_to_stderr(configuration.server.log_format, configuration.server.log_level)
    set_limits()
    check_folders(data_dir)
    check_private_files(data_dir, configuration)
    # Imported here, since only this command needs gRPC.
    from webhook.signer.server import SignerServer

    SignerServer(data_dir, configure, configuration).run()
