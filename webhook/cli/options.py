"""Options that several commands share, and the examples at the end of a command's help."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from keys.messages import shown
from webhook.config.load import DEFAULT_DATA_DIR, data_dir_of
from webhook.config.model import EVERY_ADDRESS
from webhook.https_url import HTTPSAddress, parse_https_url

# A command reports a directory that it cannot read itself, with exit code 3.
_data_dir_type = click.Path(path_type=Path, file_okay=False, readable=False)
# The parameters of `leeway serve`, and the fields that they set.
_SERVE_FIELDS: Final = {
    "bind": "server.bind",
    "workers": "server.workers",
    "log_format": "server.logFormat",
    "log_level": "server.logLevel",
}
_LOG_OPTIONS: Final = (
    click.option("--log-format", type=click.Choice(["json", "text"]), help="The format of logs."),
    click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="The lowest level to log. Changes are logged at every level.",
    ),
)
_SERVE_OPTIONS: Final = (
    click.option("--bind", metavar="HOST:PORT", help="The address to listen on."),
    click.option("--workers", type=int, help="The number of worker processes."),
    *_LOG_OPTIONS,
)


def _data_dir() -> Path:
    given: Path | None = click.get_current_context().find_root().obj
    return given or data_dir_of(os.environ)


def _set_for_commands(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    context.obj = value


class ServerAddress(click.ParamType[HTTPSAddress]):
    """``https://hook.example.com``, ``hook.example.com:8443`` or ``[::1]:8443``."""

    name = "URL|HOST:PORT"

    def convert(self, value: Any, param: Any, ctx: Any) -> HTTPSAddress:
        """Return the address. Fails for anything else, and does not repeat a possible password."""
        text = str(value)
        url = text if "://" in text else f"https://{text}"
        try:
            address = parse_https_url(url)
        except ValueError:
            address = None
        has_port = "://" in text or text.rpartition(":")[2].isdigit()
        if address is None or address.target != "/" or not has_port:
            self.fail(
                f"{shown(text)} is not a server; write HOST:PORT, like 127.0.0.1:8443, or an "
                "https URL without a path",
                param,
                ctx,
            )
        return address._replace(host=EVERY_ADDRESS.get(address.host, address.host))


root_data_dir_option = click.option(
    "--data-dir",
    type=_data_dir_type,
    expose_value=False,
    callback=_set_for_commands,
    help="The data directory. Can also follow the command.",
)
data_dir_option = click.option(
    "--data-dir",
    type=_data_dir_type,
    default=_data_dir,
    show_default=f"$LEEWAY_DATA_DIR, else ./{DEFAULT_DATA_DIR}",
    help="The data directory.",
)
output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json", "yaml"]),
    default="text",
    show_default=True,
    help="The output format.",
)
server_option = click.option(
    "--server", type=ServerAddress(), help="The Leeway server, if not at server.bind."
)


def serve_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of ``leeway serve``; it takes them as ``**options``."""
    return _with_options(command, _SERVE_OPTIONS)


def log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of the log; it takes them as ``**options``."""
    return _with_options(command, _LOG_OPTIONS)


def _with_options(
    command: Callable[..., Any], options: Sequence[Callable[..., Any]]
) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


def fields_of(options: Mapping[str, object]) -> dict[str, object]:
    """Return the fields that ``serve_options`` set, as ``load_configuration`` takes them."""
    return {_SERVE_FIELDS[name]: value for name, value in options.items()}


def example(*commands: str) -> str:
    r"""Return the end of a command's help: commands that can be typed as they are.

    >>> example("leeway init")
    '\x08\nExample:\n  leeway init'
    """
    title = "Example:" if len(commands) == 1 else "Examples:"
    # \b keeps click from filling the lines as a paragraph.
    return "\n".join(["\b", title, *(f"  {command}" for command in commands)])
