"""``leeway group``: the roles of Kubernetes groups."""

from pathlib import Path

import click

from webhook.cli.audit import audit
from webhook.cli.options import data_dir_option, example, output_option
from webhook.cli.output import printable, say, show
from webhook.cli.store_access import opened_store
from webhook.rbac import changes


@click.group(epilog=example("leeway group list"))
def group() -> None:
    """Grant roles to Kubernetes groups."""


@group.command(
    "grant-role",
    epilog=example("leeway group grant-role system:serviceaccounts:argo-run argo-run-tokens"),
)
@click.argument("name", metavar="GROUP")
@click.argument("role")
@data_dir_option
def grant_role(data_dir: Path, name: str, role: str) -> None:
    """Grant a role to the members of a group."""
    with opened_store(data_dir) as (store, _):
        store.change(changes.grant_group_role, name, role)
        audit(data_dir, "group.grant-role", group=name, role=role, revision=store.own_revision)
    say(f"Role {role} is granted to group {name}")


@group.command(
    "revoke-role",
    epilog=example("leeway group revoke-role system:serviceaccounts:argo-run argo-run-tokens"),
)
@click.argument("name", metavar="GROUP")
@click.argument("role")
@data_dir_option
def revoke_role(data_dir: Path, name: str, role: str) -> None:
    """Revoke a role from a group."""
    with opened_store(data_dir) as (store, _):
        store.change(changes.revoke_group_role, name, role)
        audit(data_dir, "group.revoke-role", group=name, role=role, revision=store.own_revision)
    say(f"Role {role} is revoked from group {name}")


@group.command(epilog=example("leeway group get system:serviceaccounts:argo-run"))
@click.argument("name", metavar="GROUP")
@data_dir_option
@output_option
def get(data_dir: Path, name: str, output: str) -> None:
    """Show the roles of a group."""
    with opened_store(data_dir) as (store, _):
        found = store.state.groups.get(name)
    roles = found.roles if found else ()
    text = f"Group: {printable(name)}\n" + printable(" ".join(["Roles:", *roles]))
    show({"name": name, "roles": roles}, text, output)


@group.command("list", epilog=example("leeway group list -o json"))
@data_dir_option
@output_option
def list_groups(data_dir: Path, output: str) -> None:
    """Show all groups that have roles."""
    with opened_store(data_dir) as (store, _):
        names = sorted(store.state.groups)
    show(names, "\n".join(map(printable, names)), output)
