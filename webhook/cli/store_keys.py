"""``leeway keys``: the commands for keys in the store."""

import os
from pathlib import Path
from time import time

import click

from keys.encryption import create_encryption_key_file
from keys.errors import KeyFileError
from keys.files import make_folder
from keys.messages import os_error_with_advice
from webhook.assembly import rotation_policy_of
from webhook.cli.audit import audit
from webhook.cli.options import data_dir_option, example
from webhook.cli.output import say
from webhook.config.load import load_configuration
from webhook.config.model import Configuration
from webhook.config.paths import KEYS_FOLDER
from webhook.errors import ConfigurationError
from webhook.signing_keys import opened_key_store
from webhook.store_keys import changes
from webhook.store_keys.moving import move_to_folder, move_to_store

_force_option = click.option("--force", is_flag=True, help="Do it even if it is not safe yet.")


@click.command(
    "encryption-key",
    short_help="Create an encryption key for keys in the store.",
    epilog=example("leeway keys encryption-key store.key"),
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def encryption_key(file: Path) -> None:
    """Create FILE with a new encryption key: 32 random bytes in base64, mode 0600.

    Copy it to every replica, and name it in keys.encryptionKeyFiles. Keep a copy in a safe place:
    without it the signing keys in the store are lost. An existing file is not replaced.
    """
    try:
        key = create_encryption_key_file(file)
    except OSError as error:
        raise KeyFileError(f"{file} cannot be created: {os_error_with_advice(error)}") from error
    say(f"created {file}, encryption key {key.id}")


@click.command(
    short_help="Move the signing keys to the store, or back to the folder.",
    epilog=example("leeway keys move --to etcd", "leeway keys move --to folder"),
)
@data_dir_option
@click.option("--to", "to", type=click.Choice(["etcd", "folder"]), required=True)
def move(data_dir: Path, to: str) -> None:
    """Move the signing keys from the folder to the store, or back.

    The place that they leave is marked as moved, and signs nothing from then on: restart every
    server with keys.store set to the other place. A move that was interrupted is completed by the
    same command.
    """
    configuration = _configured(data_dir)
    folder, now = data_dir / KEYS_FOLDER, int(time())
    with opened_key_store(data_dir, configuration) as keys:
        if to == "etcd":
            moved = move_to_store(keys, folder, rotation_policy_of(configuration), now)
        else:
            make_folder(folder)
            moved = move_to_folder(keys, folder, now)
    where = "store" if to == "etcd" else "folder"
    if not moved:
        say(f"the signing keys are in the {where} already")
        return
    audit(data_dir, "keys.move", to=to)
    say(f"the signing keys are in the {where}")
    if configuration.keys.store != to:
        say(f"next: set `keys.store: {to}` in every leeway.yaml, and restart the servers")


@click.command(
    short_help="Encrypt the stored signing keys with the first encryption key.",
    epilog=example("leeway keys reencrypt"),
)
@data_dir_option
@_force_option
def reencrypt(data_dir: Path, force: bool) -> None:
    """Encrypt the signing keys in the store with the first of keys.encryptionKeyFiles.

    Exit 1 while a replica that is running does not have it. Afterwards the other encryption keys
    are not needed; destroy them if one was stolen, for backups of the store still need them.
    """
    configuration = _configured(data_dir)
    with opened_key_store(data_dir, configuration) as keys:
        first = keys.encryption.first.id
        before = changes.reencrypt(keys, int(time()), force=force)
    audit(data_dir, "keys.reencrypt", encryptionKey=first, force=force)
    say(f"the signing keys are encrypted with {first}, before with {before.key_id}")


@click.command(
    short_help="Use the signing keys of a store that was restored.",
    epilog=example("leeway keys accept --restored"),
)
@data_dir_option
@click.option("--restored", is_flag=True, help="The store was restored on purpose.")
def accept(data_dir: Path, restored: bool) -> None:
    """Use the signing keys as they are in the store, although newer ones were seen.

    Look at them first with `leeway keys list`. A key that was stolen must not be among them; name
    it in keys.refused.
    """
    if not restored:
        raise click.UsageError("--restored is needed: only a store that was restored is accepted")
    configuration, now = _configured(data_dir), int(time())
    with opened_key_store(data_dir, configuration) as keys:
        before = changes.accept(keys, now)
        after = keys.present()
    audit(data_dir, "keys.accept", versionBefore=before.version, version=after.version)
    say(f"the signing keys are accepted, at version {after.version} (before {before.version})")
    for key in after.keyring.keys:
        say(f"key {key.kid} is {key.state.value}")


def _configured(data_dir: Path) -> Configuration:
    configuration = load_configuration(data_dir, os.environ, {})
    if configuration.store.etcd is None:
        raise ConfigurationError(
            "leeway.yaml has no section store.etcd, so there is no store for signing keys; add it, "
            "with keys.encryptionKeyFiles"
        )
    return configuration
