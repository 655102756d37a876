"""What commands share: the data directory option, and showing a value as text, JSON or YAML."""

import os
from pathlib import Path

import click
import msgspec
import yaml

from webhook.config_file import DEFAULT_DATA_DIR, data_dir_of

_data_dir_type = click.Path(path_type=Path, file_okay=False)
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
    elif output == "yaml":
        text = yaml.safe_dump(msgspec.to_builtins(value), sort_keys=False).rstrip("\n")
    click.echo(text)


def printable(text: str) -> str:
    """Make harmless what anybody may have written: it cannot move the cursor or begin a line."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
