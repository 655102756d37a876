"""Passwords on the command line: typed twice, a line of standard input, or a file."""

import sys
from pathlib import Path

import click

from keys.files import read_public_file
from webhook.cli.output import printable

interactive_option = click.option(
    "--interactive/--no-interactive",
    default=True,
    help="Ask for the password at a terminal, else read a line of standard input.",
)
password_file_option = click.option(
    "--password-file",
    metavar="FILE|-",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Read the password from a file, or with - from a line of standard input.",
)


def password_of(name: str, given: str | None, file: str | None, *, ask: bool) -> str:
    """Return a password: the one given, of a file, typed twice, or a line of standard input.

    A line feed at the end of a file is not part of it. Raises KeyFileError, and UsageError for a
    file of more than one line.
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
