"""``leeway init``."""

import os
from contextlib import closing
from pathlib import Path
from time import time

import click

from webhook.assembly import etcd_backend_of
from webhook.cli.options import data_dir_option, example
from webhook.cli.output import say
from webhook.config.model import Configuration
from webhook.rbac.records import Record
from webhook.setup.init import DEFAULT_ALGORITHM, InitOptions, initialise
from webhook.setup.init_differences import require_same


@click.command(
    short_help="Create a data directory.",
    epilog=example(
        "leeway init", "leeway init --issuer https://hook.example.com --host hook.example.com"
    ),
)
@data_dir_option
@click.option("--issuer", default="", help="The `iss` of the tokens: an https URL.")
@click.option("--audience", "audiences", multiple=True, help="An audience of tokens, repeatable.")
@click.option("--host", "hosts", multiple=True, help="This server's name or IP, repeatable.")
@click.option(
    "--algorithm",
    type=click.Choice(["RS256", "ES256", "ES384", "ES512"]),
    show_default=DEFAULT_ALGORITHM,
    help="The algorithm of the first signing key.",
)
def init(
    data_dir: Path,
    issuer: str,
    audiences: tuple[str, ...],
    hosts: tuple[str, ...],
    algorithm: str | None,
) -> None:
    """Create a data directory: configuration, keys, certificates and kubeconfigs.

    Nothing is overwritten; running it twice changes nothing. A store in etcd that leeway.yaml names
    is filled if it is empty. Exit 1 if an option differs from what the data directory was created
    with, 3 if etcd cannot be reached: repeat it then.
    """
    options = InitOptions(issuer, audiences, hosts, algorithm or "")
    require_same(data_dir, options, os.environ)
    filled: list[str] = []

    def fill(configuration: Configuration, records: list[Record]) -> None:
        section = configuration.store.etcd
        assert section is not None  # noqa: S101 - a file is filled by initialise itself
        with closing(etcd_backend_of(data_dir, section)) as backend:
            if backend.initialise(records):
                filled.append(backend.place)

    made = initialise(data_dir, options, time(), os.environ, fill)
    for path in made:
        say(f"created {path}")
    for place in filled:
        say(f"filled the store {place}")
    if not (made or filled):
        say(f"{data_dir} is complete; nothing was changed")
