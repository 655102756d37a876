"""``leeway auth``, with the words and output of ``etcdctl auth``."""

from pathlib import Path

import click

from webhook.cli.audit import audit
from webhook.cli.options import data_dir_option, example, output_option
from webhook.cli.output import show
from webhook.cli.store_access import opened_store
from webhook.rbac import changes
from webhook.rbac.errors import RootRoleNotExistError
from webhook.rbac.model import ROOT


@click.group(epilog=example("leeway auth status"))
def auth() -> None:
    """Enable and disable auth."""


@auth.command(epilog=example("leeway auth enable"))
@data_dir_option
def enable(data_dir: Path) -> None:
    """Enable auth. The user root must exist, and is given the role root if it lacks it."""
    with opened_store(data_dir) as (store, _):
        try:
            store.change(changes.enable)
        except RootRoleNotExistError:
            # As etcdctl does (``auth_command.go``, ``authEnableCommandFunc``).
            if ROOT not in store.state.roles:
                store.change(changes.add_role, ROOT)
            store.change(changes.grant_role, ROOT, ROOT)
            store.change(changes.enable)
        audit(data_dir, "auth.enable", revision=store.own_revision)
    click.echo("Authentication Enabled")


@auth.command(epilog=example("leeway auth disable"))
@data_dir_option
def disable(data_dir: Path) -> None:
    """Disable auth: every client certificate then allows anything."""
    with opened_store(data_dir) as (store, _):
        store.change(changes.disable)
        audit(data_dir, "auth.disable", revision=store.own_revision)
    click.echo("Authentication Disabled")


@auth.command(epilog=example("leeway auth status -o json"))
@data_dir_option
@output_option
def status(data_dir: Path, output: str) -> None:
    """Show whether auth is enabled, and the auth revision."""
    with opened_store(data_dir) as (store, _):
        enabled, revision = store.enabled, store.revision
    text = f"Authentication Status: {str(enabled).lower()}\nAuthRevision: {revision}"
    show({"enabled": enabled, "authRevision": revision}, text, output)
