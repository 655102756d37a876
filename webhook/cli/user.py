"""``leeway user``, with the words, flags and output of ``etcdctl user``."""

import sys
from pathlib import Path

import click

from keys.files import read_public_file
from webhook.cli.audit import audit
from webhook.cli.options import data_dir_option, example, output_option
from webhook.cli.output import printable, say, show
from webhook.cli.role import permission_lines
from webhook.cli.store_access import GoFlagsCommand, create_option, opened_store
from webhook.rbac import changes
from webhook.rbac.passwords import Passwords

_interactive_option = click.option(
    "--interactive/--no-interactive",
    default=True,
    help="Ask for the password at a terminal, or read a line of standard input.",
)
_password_file_option = click.option(
    "--password-file",
    metavar="FILE|-",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Read the password from a file, or with - from a line of standard input.",
)


@click.group(epilog=example("leeway user list"))
def user() -> None:
    """Add, change and show users."""


@user.command(
    cls=GoFlagsCommand,
    epilog=example(
        "leeway user add alice",
        "leeway user add alice --password-file alice.txt",
        "leeway user add lead --no-password",
    ),
)
@click.argument("name")
@data_dir_option
@click.option("--no-password", is_flag=True, help="Add a user that only uses a client certificate.")
@click.option("--new-user-password", metavar="PASSWORD", help="The password, visible in ps.")
@_password_file_option
@_interactive_option
@create_option
def add(
    data_dir: Path,
    name: str,
    *,
    no_password: bool,
    new_user_password: str | None,
    password_file: str | None,
    interactive: bool,
    create: bool,
) -> None:
    """Add a user. The password is typed twice, or read from a file or standard input.

    NAME:PASSWORD is accepted as in etcdctl, but other users can see it in the list of processes.
    With an option for the password, NAME is only a name and can contain colons.
    """
    given = new_user_password
    if no_password + (given is not None) + (password_file is not None) > 1:
        raise click.UsageError(
            "--new-user-password, --password-file and --no-password are mutually exclusive"
        )
    if not no_password and given is None and password_file is None:
        name, colon, inline = name.partition(":")
        given = inline if colon else None
    with opened_store(data_dir, create=create) as (store, configuration):
        password_hash = b""
        if not no_password and name and name not in store.state.users:
            password = _password(name, given, password_file, ask=interactive)
            password_hash = Passwords(configuration.auth.bcrypt_cost).hash(password)
        store.change(changes.add_user, name, password_hash)
        audit(data_dir, "user.add", user=name, revision=store.own_revision)
    say(f"User {name} created")


@user.command(epilog=example("leeway user delete alice"))
@click.argument("name")
@data_dir_option
def delete(data_dir: Path, name: str) -> None:
    """Delete a user and its auth tokens."""
    with opened_store(data_dir) as (store, _):
        store.change(changes.delete_user, name)
        audit(data_dir, "user.delete", user=name, revision=store.own_revision)
    say(f"User {name} deleted")


@user.command(cls=GoFlagsCommand, epilog=example("leeway user get alice --detail"))
@click.argument("name")
@data_dir_option
@click.option("--detail", is_flag=True, help="Show the permissions of its roles.")
@output_option
def get(data_dir: Path, name: str, output: str, *, detail: bool) -> None:
    """Show a user and its roles."""
    with opened_store(data_dir) as (store, _):
        roles = store.user(name).roles
        lines = [f"User: {printable(name)}"]
        if detail:
            for role in roles:
                lines += ["", *permission_lines(store.role(role))]
        else:
            lines.append(printable(" ".join(["Roles:", *roles])))
    show({"name": name, "roles": roles}, "\n".join(lines), output)


@user.command("list", epilog=example("leeway user list -o json"))
@data_dir_option
@output_option
def list_users(data_dir: Path, output: str) -> None:
    """Show all users."""
    with opened_store(data_dir) as (store, _):
        names = store.user_names()
    show(names, "\n".join(map(printable, names)), output)


@user.command(cls=GoFlagsCommand, epilog=example("leeway user passwd alice"))
@click.argument("name")
@data_dir_option
@_password_file_option
@_interactive_option
def passwd(data_dir: Path, name: str, *, password_file: str | None, interactive: bool) -> None:
    """Change the password of a user.

    It is typed twice, or read from a file or standard input. The user's auth tokens stop working.
    """
    with opened_store(data_dir) as (store, configuration):
        store.user(name)
        password = _password(name, None, password_file, ask=interactive)
        password_hash = Passwords(configuration.auth.bcrypt_cost).hash(password)
        store.change(changes.change_password, name, password_hash)
        audit(data_dir, "user.passwd", user=name, revision=store.own_revision)
    click.echo("Password updated")


@user.command("grant-role", epilog=example("leeway user grant-role alice app"))
@click.argument("name")
@click.argument("role")
@data_dir_option
def grant_role(data_dir: Path, name: str, role: str) -> None:
    """Grant a role to a user."""
    with opened_store(data_dir) as (store, _):
        store.change(changes.grant_role, name, role)
        audit(data_dir, "user.grant-role", user=name, role=role, revision=store.own_revision)
    say(f"Role {role} is granted to user {name}")


@user.command("revoke-role", epilog=example("leeway user revoke-role alice app"))
@click.argument("name")
@click.argument("role")
@data_dir_option
def revoke_role(data_dir: Path, name: str, role: str) -> None:
    """Revoke a role from a user."""
    with opened_store(data_dir) as (store, _):
        store.change(changes.revoke_role, name, role)
        audit(data_dir, "user.revoke-role", user=name, role=role, revision=store.own_revision)
    say(f"Role {role} is revoked from user {name}")


def _password(name: str, given: str | None, file: str | None, *, ask: bool) -> str:
    """Return the password that was given, read from a file or standard input, or typed twice.

    One line feed at the end of a file is not part of it. Raises KeyFileError, and UsageError for a
    file with more than one line.
    """
    if given is not None:
        return given
    if file not in (None, "-"):
        text = read_public_file(Path(str(file))).decode("utf-8")
        password = text.removesuffix("\n").removesuffix("\r")
        if "\n" in password:
            raise click.UsageError(f"{file} has more than one line; a password is one line")
        return password
    if file == "-" or not (ask and sys.stdin.isatty()):
        return sys.stdin.readline().rstrip("\r\n")
    name = printable(name)
    again = f"Type password of {name} again for confirmation"
    typed: str = click.prompt(f"Password of {name}", hide_input=True, confirmation_prompt=again)
    return typed
