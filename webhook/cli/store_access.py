"""The store, ranges of keys and Go's boolean flags, for the commands on users and roles."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from webhook.assembly import store_of
from webhook.config.load import FILE_NAME, load_configuration
from webhook.config.model import Configuration
from webhook.config.store import SQLiteSection
from webhook.errors import DataDirectoryError
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.ranges import OPEN_END, prefix_end


class GoFlagsCommand(click.Command):
    """Accepts ``--flag=true`` and ``--flag=false`` for a boolean flag, as etcdctl does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse a command line with its flags in click's form."""
        return super().parse_args(ctx, self.plain_flags(args))

    def plain_flags(self, args: list[str]) -> list[str]:
        """Return the arguments with ``--flag=true`` as ``--flag``, without ``--flag=false``."""
        flags = {n for p in self.params if getattr(p, "is_flag", False) for n in p.opts}
        values = {f"{flag}=true": [flag] for flag in flags}
        values |= {f"{flag}=false": [] for flag in flags}
        values["--interactive=false"] = ["--no-interactive"]
        return [plain for argument in args for plain in values.get(argument, [argument])]


prefix_option = click.option("--prefix", is_flag=True, help="All keys that begin with KEY.")
from_key_option = click.option("--from-key", is_flag=True, help="All keys from KEY on.")


create_option = click.option(
    "--create", is_flag=True, help="Create a store in a directory that is not a data directory."
)


@contextmanager
def opened_store(
    data_dir: Path, *, create: bool = False
) -> Iterator[tuple[AuthStore, Configuration]]:
    """Open the store of a data directory, with the default configuration if it has none.

    With ``create``, a directory that has neither gets an empty store. Raises DataDirectoryError if
    there is nothing to open, and the errors of ``store_of``.
    """
    configuration = configuration_in(data_dir, create=create)
    # A missing store is lost data: an empty one would have auth disabled.
    create = create and not (data_dir / FILE_NAME).exists()
    store = store_of(data_dir, configuration, create=create)
    try:
        yield store, configuration
    finally:
        store.close()


def configuration_in(data_dir: Path, *, create: bool = False) -> Configuration:
    """Return the configuration of a data directory, the default one if it only has a store.

    With ``create`` it may have neither. Raises DataDirectoryError if there is nothing to open.
    """
    if not data_dir.is_dir():
        raise DataDirectoryError.none_at(data_dir)
    if (data_dir / FILE_NAME).exists():
        return load_configuration(data_dir, os.environ, {})
    path = data_dir / SQLiteSection().path
    if not (create or path.exists()):
        raise DataDirectoryError(
            f"{data_dir} is not a data directory: it has neither {FILE_NAME} nor {path.name}; "
            "create one with `leeway init`, create only a store with `leeway user add --create`, "
            "or give another directory with --data-dir"
        )
    return Configuration()


def wire_range(
    key: str, range_end: str | None, *, prefix: bool, from_key: bool
) -> tuple[bytes, bytes]:
    r"""Return etcd's key and range end for the arguments of a command. Raises UsageError.

    Source: etcd ``etcdctl/ctlv3/command/role_command.go``, ``permRange``.

    >>> wire_range("/app/", None, prefix=True, from_key=False)
    (b'/app/', b'/app0')
    >>> wire_range("a", None, prefix=False, from_key=True)
    (b'a', b'\x00')
    """
    if prefix and from_key:
        raise click.UsageError("--from-key and --prefix flags are mutually exclusive")
    if range_end is not None and (prefix or from_key):
        flag = "--prefix" if prefix else "--from-key"
        raise click.UsageError(f"unexpected RANGE_END argument with {flag} flag")
    start = os.fsencode(key)
    if range_end is not None:
        return start, os.fsencode(range_end)
    if prefix and start:
        return start, prefix_end(start)
    if prefix or from_key:
        return start or b"\0", OPEN_END
    return start, b""
