"""``leeway can-i``: may a user read or write a key or a range of keys."""

from pathlib import Path

import click

from webhook.cli.output import data_dir_option, example, output_option, show
from webhook.cli.store import (
    GoFlagsCommand,
    from_key_option,
    opened_store,
    prefix_option,
    wire_range,
)
from webhook.rbac.access import explain_access
from webhook.rbac.model import Permission, PermissionType
from webhook.rbac.ranges import in_words, to_wire


@click.command(
    "can-i",
    cls=GoFlagsCommand,
    epilog=example(
        "leeway can-i write /leeway/tokenreviews --user kube-apiserver",
        "leeway can-i read /registry/pods/ --prefix --user alice",
    ),
)
@click.argument("kind", type=click.Choice(["read", "write"]))
@click.argument("key")
@click.argument("range_end", required=False)
@data_dir_option
@prefix_option
@from_key_option
@click.option("--user", required=True, help="Who asks.")
@click.option("--group", "groups", multiple=True, help="A group of the one who asks.")
@output_option
def can_i(
    data_dir: Path,
    kind: str,
    key: str,
    range_end: str | None,
    user: str,
    groups: tuple[str, ...],
    output: str,
    **flags: bool,
) -> None:
    """Say yes and which role grants it, or no and what nothing covers. Exit 0 for yes, 1 for no."""
    asked = Permission(*wire_range(key, range_end, **flags), PermissionType[kind.upper()])
    if not asked.is_valid:
        raise click.UsageError("KEY and RANGE_END hold no key; give a key, and an end after it")
    with opened_store(data_dir) as (store, _):
        access = explain_access(store, user, groups, asked.type, asked.span)
    gaps = [to_wire(gap) for gap in access.uncovered]
    if access.allowed:
        text = f"yes, granted by role {' and '.join(access.roles)}"
    else:
        missing = ", ".join(in_words(start, end) for start, end in gaps)
        text = f"no, nothing lets {user} {kind} {missing}"
    value = {
        "allowed": access.allowed,
        "roles": access.roles,
        "uncovered": [{"key": start, "rangeEnd": end} for start, end in gaps],
    }
    show(value, text, output)
    if not access.allowed:
        raise click.exceptions.Exit(1)
