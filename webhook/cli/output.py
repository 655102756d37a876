"""What commands share: the data directory option, and showing a value as text, JSON or YAML."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
import yaml

from webhook.config.load import DEFAULT_DATA_DIR, data_dir_of

# What may not be read is for the command to say, with exit code 3.
_data_dir_type = click.Path(path_type=Path, file_okay=False, readable=False)
_default_data_dir = f"$LEEWAY_DATA_DIR, else ./{DEFAULT_DATA_DIR}"


def _data_dir() -> Path:
    given: Path | None = click.get_current_context().find_root().obj
    return given or data_dir_of(os.environ)


def _keep_for_commands(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    context.obj = value


root_data_dir_option = click.option(
    "--data-dir",
    type=_data_dir_type,
    expose_value=False,
    callback=_keep_for_commands,
    help="The data directory, here or after the command.",
)
data_dir_option = click.option(
    "--data-dir",
    type=_data_dir_type,
    default=_data_dir,
    show_default=_default_data_dir,
    help="The data directory.",
)
output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json", "yaml"]),
    default="text",
    show_default=True,
    help="How to show it.",
)


def example(*commands: str) -> str:
    """Return the end of a command's help: commands that can be typed as they are."""
    title = "Example:" if len(commands) == 1 else "Examples:"
    # The first line keeps click from filling the others like a paragraph.
    return "\n".join(["\b", title, *(f"  {command}" for command in commands)])


def show(value: object, text: str, output: str) -> None:
    """Print a value: ``text`` as it is, or ``value`` as JSON or YAML."""
    if output == "json":
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode("utf-8")
        # An escape of JSON's own, and only texts can hold what is escaped.
        text = "\n".join(map(_json_printable, text.split("\n")))
    elif output == "yaml":
        text = yaml.safe_dump(msgspec.to_builtins(value), sort_keys=False).rstrip("\n")
    click.echo(text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under a head, in columns as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = (
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        for row in (head, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def say(text: str, *, err: bool = False) -> None:
    """Print one line, whatever the names in it hold."""
    click.echo(printable(text), err=err)


def printable(text: str) -> str:
    """Escape what could move the cursor, begin a line or turn the direction of a text."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_printable(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)
