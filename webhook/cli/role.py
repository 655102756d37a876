"""``leeway role``, with the words, flags and output of ``etcdctl role``."""

from pathlib import Path
from typing import Any

import click

from webhook.cli.audit import audit
from webhook.cli.options import data_dir_option, example, output_option
from webhook.cli.output import printable, say, show
from webhook.cli.store_access import (
    GoFlagsCommand,
    create_option,
    from_key_option,
    opened_store,
    prefix_option,
    wire_range,
)
from webhook.kube.request_keys import covers_every_object
from webhook.rbac import changes
from webhook.rbac.model import Permission, PermissionType, Role
from webhook.rbac.ranges import format_range, prefix_end


@click.group(epilog=example("leeway role list"))
def role() -> None:
    """Add, change and show roles."""


@role.command(epilog=example("leeway role add app"))
@click.argument("name")
@data_dir_option
@create_option
def add(data_dir: Path, name: str, *, create: bool) -> None:
    """Add a role."""
    with opened_store(data_dir, create=create) as (store, _):
        store.change(changes.add_role, name)
        audit(data_dir, "role.add", role=name, revision=store.own_revision)
    say(f"Role {name} created")


@role.command(epilog=example("leeway role delete app"))
@click.argument("name")
@data_dir_option
def delete(data_dir: Path, name: str) -> None:
    """Delete a role, and revoke it from all users and groups."""
    with opened_store(data_dir) as (store, _):
        store.change(changes.delete_role, name)
        audit(data_dir, "role.delete", role=name, revision=store.own_revision)
    say(f"Role {name} deleted")


@role.command(epilog=example("leeway role get app"))
@click.argument("name")
@data_dir_option
@output_option
def get(data_dir: Path, name: str, output: str) -> None:
    """Show a role and its permissions."""
    with opened_store(data_dir) as (store, _):
        found = store.role(name)
    shown: list[dict[str, Any]] = [
        {"permission": p.type.name, "key": p.key, "rangeEnd": p.range_end}
        for p in found.permissions
    ]
    show({"name": name, "permissions": shown}, "\n".join(permission_lines(found)), output)


def permission_lines(found: Role) -> list[str]:
    """Return the lines of a role, as ``etcdctl role get`` prints them."""
    lines = [f"Role {printable(found.name)}"]
    for title, wanted in (
        ("KV Read:", [p for p in found.permissions if p.type.reads]),
        ("KV Write:", [p for p in found.permissions if p.type.writes]),
    ):
        lines.append(title)
        lines += [f"\t{_permission_text(p)}" for p in wanted]
    return lines


def _permission_text(permission: Permission) -> str:
    key, range_end = permission.key, permission.range_end
    words = printable(format_range(key, range_end))
    if range_end and key and prefix_end(key) == range_end:
        words += f" (prefix {printable(format_range(key, b''))})"
    return words


@role.command("list", epilog=example("leeway role list -o json"))
@data_dir_option
@output_option
def list_roles(data_dir: Path, output: str) -> None:
    """Show all roles."""
    with opened_store(data_dir) as (store, _):
        names = store.role_names()
    show(names, "\n".join(map(printable, names)), output)


@role.command(
    "grant-permission",
    cls=GoFlagsCommand,
    epilog=example(
        "leeway role grant-permission app read /app/ --prefix",
        "leeway role grant-permission app readwrite a b",
    ),
)
@click.argument("name", metavar="ROLE")
@click.argument("kind", type=click.Choice(["read", "write", "readwrite"], case_sensitive=False))
@click.argument("key")
@click.argument("range_end", required=False)
@data_dir_option
@prefix_option
@from_key_option
def grant_permission(
    data_dir: Path, name: str, kind: str, key: str, range_end: str | None, **flags: bool
) -> None:
    """Grant a role the permission to read or write keys.

    The keys are KEY alone, or those from KEY up to but not including RANGE_END.
    """
    permission = Permission(*wire_range(key, range_end, **flags), PermissionType[kind.upper()])
    with opened_store(data_dir) as (store, _):
        store.change(changes.grant_permission, name, permission)
        keys = format_range(permission.key, permission.range_end)
        about = {"role": name, "permission": permission.type.name, "keys": keys}
        audit(data_dir, "role.grant-permission", **about, revision=store.own_revision)
    say(f"Role {name} updated")
    warn_of_every_object(permission)


def warn_of_every_object(permission: Permission) -> None:
    """Print a warning if a permission is probably meant for paths, but includes all objects."""
    if covers_every_object(permission.span):
        keys = format_range(permission.key, permission.range_end)
        say(
            f"leeway: warning: {keys} includes more than paths: every object of a cluster that "
            "uses Leeway as its authorizer is below /registry/. To allow paths only, revoke this "
            "permission and grant them one by one",
            err=True,
        )


@role.command(
    "revoke-permission",
    cls=GoFlagsCommand,
    epilog=example("leeway role revoke-permission app /app/ --prefix"),
)
@click.argument("name", metavar="ROLE")
@click.argument("key")
@click.argument("range_end", required=False)
@data_dir_option
@prefix_option
@from_key_option
def revoke_permission(
    data_dir: Path, name: str, key: str, range_end: str | None, **flags: bool
) -> None:
    """Revoke a permission from a role. The range must be exactly the one that was granted."""
    start, end = wire_range(key, range_end, **flags)
    with opened_store(data_dir) as (store, _):
        store.change(changes.revoke_permission, name, start, end)
        about = {"role": name, "keys": format_range(start, end)}
        audit(data_dir, "role.revoke-permission", **about, revision=store.own_revision)
    what = "range" if end else "key"
    say(f"Permission of {what} {format_range(start, end)} is revoked from role {name}")
