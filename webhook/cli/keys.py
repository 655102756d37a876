"""``leeway keys``."""

from datetime import UTC, datetime
from pathlib import Path
from time import time

import click
import msgspec

from keys.jwk import jwks_document
from keys.key_files import generate_key
from keys.pem import ALGORITHMS
from webhook.assembly import keyring_of
from webhook.cli.output import data_dir_option, output_option, show
from webhook.data_dir import KEYS_FOLDER
from webhook.errors import DataDirectoryError


@click.group()
def keys() -> None:
    """Show and make signing keys."""


@keys.command("list")
@data_dir_option
@output_option
def list_keys(data_dir: Path, output: str) -> None:
    """Show each key, what it is used for, and since when."""
    rows = [
        {
            "kid": key.kid,
            "algorithm": key.verification_key.algorithm,
            "state": key.state.value,
            "since": datetime.fromtimestamp(key.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        for key in keyring_of(_checked(data_dir)).keys
    ]
    lines = [f"{'KID':<43}  {'ALGORITHM':<9}  {'STATE':<11}  SINCE"]
    lines += [f"{r['kid']:<43}  {r['algorithm']:<9}  {r['state']:<11}  {r['since']}" for r in rows]
    show(rows, "\n".join(lines), output)


@keys.command("generate", short_help="Make a key.")
@data_dir_option
@click.option("--algorithm", type=click.Choice(ALGORITHMS), default="RS256", show_default=True)
def generate(data_dir: Path, algorithm: str) -> None:
    """Make a key: active if it is the first one, else pending, that is published only."""
    key = generate_key(_checked(data_dir) / KEYS_FOLDER, algorithm, int(time()))
    click.echo(f"key {key.kid} created, it is {key.state.value}")


@keys.command("jwks")
@data_dir_option
def jwks(data_dir: Path) -> None:
    """Show the JSON Web Key Set as it is published."""
    document = jwks_document(keyring_of(_checked(data_dir)).published_keys())
    click.echo(msgspec.json.format(document, indent=2))


def _checked(data_dir: Path) -> Path:
    if not (data_dir / KEYS_FOLDER).is_dir():
        raise DataDirectoryError(f"{data_dir} is no data directory; make one with `leeway init`")
    return data_dir
