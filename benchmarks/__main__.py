"""``python -m benchmarks [NAME...]``: measure, report, and fail if a limit is missed."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from benchmarks import (
    growth,
    issuing,
    latency,
    loaded,
    memory,
    rbac,
    rbac_etcd,
    signer,
    startup,
    store,
    tokenreview,
    verification,
)
from benchmarks.load_client import LoadError
from benchmarks.report import Row, render, write_json

_CLAIMS: Final[dict[str, Callable[..., list[Row]]]] = {
    "verification": verification.run,
    "tokenreview": tokenreview.run,
    "latency": latency.run,
    "issuing": issuing.run,
    "signer": signer.run,
    "loaded": loaded.run,
    "growth": growth.run,
    "rbac": rbac.run,
    "rbac-etcd": rbac_etcd.run,
    "store": store.run,
    "startup": startup.run,
    "memory": memory.run,
}


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, type=click.Choice(list(_CLAIMS)))
@click.option("--quick", is_flag=True, help="Measure for a shorter time, for CI.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the rows."
)
@click.option("--indicative", is_flag=True, help="Exit with 0 also where a limit is missed.")
def main(names: tuple[str, ...], *, quick: bool, json_file: Path | None, indicative: bool) -> None:
    """Measure every claim, or those that are named. Exit code 1 if a limit is missed."""
    rows: list[Row] = []
    for name in names or _CLAIMS:
        click.echo(f"measuring {name} ...", err=True)
        try:
            rows += _CLAIMS[name](quick=quick)
        except LoadError as error:
            # The notes contain the log of the server.
            notes = getattr(error, "__notes__", [])
            raise click.ClickException("\n".join([f"{name}: {error}", *notes])) from error
    click.echo(render(rows), nl=False)
    if json_file is not None:
        write_json(rows, json_file)
    sys.exit(not indicative and any(row.verdict == "MISSED" for row in rows))


if __name__ == "__main__":
    main()
