"""The flags of ``leeway serve``, which ``leeway config`` takes too."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import click

# The parameters of a command, and the fields that they set.
_FIELDS: Final = {
    "bind": "server.bind",
    "workers": "server.workers",
    "log_format": "server.logFormat",
    "log_level": "server.logLevel",
}
_OPTIONS: Final = (
    click.option("--bind", metavar="HOST:PORT", help="Where to listen."),
    click.option("--workers", type=int, help="How many processes."),
    click.option("--log-format", type=click.Choice(["json", "text"]), help="How to log."),
    click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="What to log. Changes are logged whatever it is.",
    ),
)


def serve_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these flags; it takes them as ``**flags``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def flagged_fields(flags: Mapping[str, object]) -> dict[str, object]:
    """Return the fields that flags set, as ``load_configuration`` takes them."""
    return {_FIELDS[name]: value for name, value in flags.items()}
