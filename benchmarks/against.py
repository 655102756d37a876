"""``python -m benchmarks.against REVISION``: is this checkout slower than an older one?

Both serve the same data directory and the same tokens, in turn, on the same machine. The older one
gets the libraries that it names, in the versions installed here where it allows them. Exit code 1
if the median of the ratios of the pairs is below the floor.
"""

import importlib.metadata
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
from packaging.requirements import Requirement

from benchmarks.load_client import build
from benchmarks.report import Row, rate_row, render
from benchmarks.servers import PYTHON, ROOT, leeway_server, make_data_dir
from benchmarks.tokenreview import FULL, Server, measure_in_turn, prepare

_KINDS: Final = ("warm", "cold")


@click.command()
@click.argument("revision")
@click.option("--pairs", type=click.IntRange(min=1), default=9, show_default=True)
@click.option("--floor", type=float, default=0.97, show_default=True, help="Of this to the other.")
def main(revision: str, pairs: int, floor: float) -> None:
    """Compare the rate of TokenReviews with that of another REVISION of this repository."""
    with tempfile.TemporaryDirectory(prefix="leeway-bench-") as name:
        folder = Path(name)
        other = _check_out(revision, folder / "other")
        # The older revision creates it, since the newer one can read it.
        data_dir = make_data_dir(folder, tree=other)
        servers: dict[str, Server] = {
            "this checkout": lambda: leeway_server(data_dir),
            revision: lambda: leeway_server(data_dir, tree=other),
        }
        bench = prepare(build(folder), data_dir, servers, replace(FULL, rounds=pairs))
        rows = [_row(kind, floor, *measure_in_turn(bench, kind)) for kind in _KINDS]
    click.echo(render(rows), nl=False)
    sys.exit(any(row.verdict == "MISSED" for row in rows))


def _row(
    kind: str,
    floor: float,
    ours: tuple[str, list[float]],
    other: tuple[str, list[float]],
    notes: list[str],
) -> Row:
    return rate_row(f"TokenReview, {kind}", floor, ours, other, "requests/s", notes)


def _check_out(revision: str, folder: Path) -> Path:
    """Write the files of a revision into a folder, and install what it needs beside them."""
    folder.mkdir()
    archive = subprocess.run(
        ["git", "archive", revision], cwd=ROOT, check=True, capture_output=True
    )
    subprocess.run(["tar", "-x"], cwd=folder, check=True, input=archive.stdout)
    click.echo(f"installing what {revision} needs", err=True)
    subprocess.run([sys.executable, "-m", "venv", folder / ".venv"], check=True)
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    here = {d.name.lower(): d.version for d in importlib.metadata.distributions()}
    wanted = [_in_version_here(Requirement(text), here) for text in project["dependencies"]]
    pip = (str(folder / PYTHON), "-m", "pip", "--disable-pip-version-check")
    subprocess.run([*pip, "install", "--quiet", *wanted], check=True)
    return folder


def _in_version_here(requirement: Requirement, here: Mapping[str, str]) -> str:
    version = here.get(requirement.name.lower())
    allowed = version is not None and requirement.specifier.contains(version)
    return f"{requirement.name}=={version}" if allowed else str(requirement)


if __name__ == "__main__":
    main()
