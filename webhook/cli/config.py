"""``leeway config``: the effective configuration, and whether a server would start with it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from webhook.cli.output import data_dir_option, example, output_option, printable, say, show
from webhook.config_file import FILE_NAME, load_configuration
from webhook.effective import effective_fields

# The flags of ``leeway serve`` and the fields that they set.
_FLAGS = {
    "bind": "server.bind",
    "workers": "server.workers",
    "log_format": "server.logFormat",
    "log_level": "server.logLevel",
}


def serve_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the flags of ``leeway serve``."""
    for flag in (
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"])),
        click.option("--log-format", type=click.Choice(["json", "text"])),
        click.option("--workers", type=int),
        click.option("--bind", metavar="HOST:PORT"),
    ):
        command = flag(command)
    return command


@click.group(epilog=example("leeway config show"))
def config() -> None:
    """Show and check the configuration: flags, environment, leeway.yaml, defaults."""


@config.command(
    "show", epilog=example("leeway config show", "leeway config show --workers 4 -o yaml")
)
@data_dir_option
@serve_flags
@output_option
def show_configuration(data_dir: Path, output: str, **flags: object) -> None:
    """Show each field with its value and where that comes from.

    The flags are those of `leeway serve`. A value that could hold a secret is not shown.
    """
    fields = effective_fields(data_dir, os.environ, _dotted(flags))
    rows = [(f.path, printable(_text(f.value)), f.origin) for f in fields]
    head = ("FIELD", "VALUE", "ORIGIN")
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
    value = [{"field": f.path, "value": f.value, "origin": f.origin} for f in fields]
    show(value, "\n".join(lines), output)


@config.command(epilog=example("leeway config validate"))
@data_dir_option
@serve_flags
def validate(data_dir: Path, **flags: object) -> None:
    """Check the configuration as `leeway serve` does. Exit 2, with what is wrong, where it is not.

    The flags are those of `leeway serve`.
    """
    load_configuration(data_dir, os.environ, _dotted(flags))
    say(f"{data_dir / FILE_NAME} is valid")


def _dotted(flags: dict[str, object]) -> dict[str, object]:
    return {_FLAGS[name]: value for name, value in flags.items()}


def _text(value: object) -> str:
    return value if isinstance(value, str) and value else msgspec.json.encode(value).decode("utf-8")
