"""``leeway init``."""

import os
import secrets
from contextlib import closing
from pathlib import Path
from time import time

import click

from keys.encryption import read_encryption_keys
from keys.pem import generate_signing_key
from webhook.assembly import etcd_backend_of
from webhook.cli.options import data_dir_option, example
from webhook.cli.output import say
from webhook.config.load import load_configuration
from webhook.config.model import Configuration
from webhook.config.store import EtcdSection, SQLiteSection
from webhook.rbac.records import Record
from webhook.setup.first_records import first_records
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
    now = time()
    made = initialise(data_dir, options, now, os.environ)
    # Before etcd is asked, which may not answer.
    for path in made:
        say(f"created {path}")
    configuration = load_configuration(data_dir, os.environ, {})
    section = configuration.store.etcd
    is_filled = section is not None and _fill(data_dir, configuration, section, options, now)
    if not (made or is_filled):
        say(f"{data_dir} is complete; nothing was changed")


def _fill(
    data_dir: Path,
    configuration: Configuration,
    section: EtcdSection,
    options: InitOptions,
    now: float,
) -> bool:
    """Fill a store in etcd in one transaction, and return whether it was empty."""
    store_id, records = secrets.token_hex(16), first_records()
    if configuration.keys.store == "etcd":
        records += _first_key(data_dir, configuration, options, store_id, now)
    with closing(etcd_backend_of(data_dir, section)) as backend:
        is_filled = backend.initialise(records, store_id)
        place = backend.place
    say(f"filled the store {place}" if is_filled else f"left the store {place} as it is")
    before = data_dir / SQLiteSection().path
    if is_filled and before.exists():
        say(
            f"leeway: warning: nothing of {before} is in it, no revocation either; `leeway store "
            "export` without store.etcd and `leeway store import` bring it there",
            err=True,
        )
    return is_filled


def _first_key(
    data_dir: Path, configuration: Configuration, options: InitOptions, store_id: str, now: float
) -> list[Record]:
    """Return the records of a first signing key, in the transaction that makes the store."""
    # Imported here, for most stores have no keys.
    from webhook.store_keys.changes import first_key_records
    from webhook.store_keys.contents import Vault

    files = [data_dir / name for name in configuration.keys.encryption_key_files]
    vault = Vault(store_id, read_encryption_keys(files))
    key = generate_signing_key(options.algorithm or DEFAULT_ALGORITHM)
    return first_key_records({}, vault, key, int(now))
