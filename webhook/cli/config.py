"""``leeway config``: the configuration that a server would use, and where each value is from."""

import os
from pathlib import Path

import click
import msgspec

from webhook.cli.options import data_dir_option, example, fields_of, output_option, serve_options
from webhook.cli.output import printable, say, show, table
from webhook.config.effective import effective_fields
from webhook.config.load import FILE_NAME, load_configuration


@click.group(epilog=example("leeway config show"))
def config() -> None:
    """Show and check the configuration.

    It comes from flags, the environment, leeway.yaml and defaults, in this order.
    """


@config.command(
    "show", epilog=example("leeway config show", "leeway config show --workers 4 -o yaml")
)
@data_dir_option
@serve_options
@output_option
def show_configuration(data_dir: Path, output: str, **options: object) -> None:
    """Show each field, its value, and where the value comes from.

    The options are those of `leeway serve`. A value that could contain a secret is not shown.
    """
    fields = effective_fields(data_dir, os.environ, fields_of(options))
    rows = [(f.path, printable(_text(f.value)), f.origin) for f in fields]
    value = [{"field": f.path, "value": f.value, "origin": f.origin} for f in fields]
    show(value, table(("FIELD", "VALUE", "ORIGIN"), rows), output)


@config.command(epilog=example("leeway config validate"))
@data_dir_option
@serve_options
def validate(data_dir: Path, **options: object) -> None:
    """Check the configuration as `leeway serve` does. Exit 2 and name the error if it is not valid.

    The options are those of `leeway serve`.
    """
    load_configuration(data_dir, os.environ, fields_of(options))
    say(f"{data_dir / FILE_NAME} is valid")


def _text(value: object) -> str:
    return value if isinstance(value, str) and value else msgspec.json.encode(value).decode("utf-8")
