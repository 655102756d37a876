"""``leeway doctor``: the faults of a set-up, and the commands that fix them."""

import os
from pathlib import Path
from time import time
from typing import Final

import click

from keys.messages import counted
from webhook.cli.options import (
    ServerAddress,
    data_dir_option,
    example,
    output_option,
    server_option,
)
from webhook.cli.output import printable, show
from webhook.doctor.diagnosis import Options, examine
from webhook.doctor.findings import Report, Status
from webhook.doctor.remote import Targets
from webhook.https_url import HTTPSAddress

_COLOURS: Final = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILURE: "red"}
_STATUS_WIDTH: Final = len("WARNING")
_file = click.Path(path_type=Path)


def _openable(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    """Return the path. Raises OSError if it cannot be opened."""
    if path is not None:
        path.open("rb").close()
    return path


@click.command(
    short_help="Find what is wrong with a set-up.",
    epilog=example(
        "leeway doctor",
        "leeway doctor --server hook.example.com:8443 --api-server https://192.0.2.1:6443",
    ),
)
@data_dir_option
@server_option
@click.option("--api-server", type=ServerAddress(), help="An API server to compare the clock with.")
@click.option(
    "--api-server-ca",
    type=_file,
    callback=_openable,
    metavar="FILE",
    help="The CA of its certificate, if not the system's.",
)
@click.option(
    "--manifest",
    type=_file,
    callback=_openable,
    metavar="FILE",
    help="Check the flags in kube-apiserver's static Pod.",
)
@click.option(
    "--controller-manager-manifest",
    "controller_manifest",
    type=_file,
    callback=_openable,
    metavar="FILE",
    help="Check the key in kube-controller-manager's static Pod.",
)
@output_option
def doctor(
    data_dir: Path,
    server: HTTPSAddress | None,
    api_server: HTTPSAddress | None,
    api_server_ca: Path | None,
    manifest: Path | None,
    controller_manifest: Path | None,
    output: str,
) -> None:
    """Check a data directory, its server and its API server. Nothing is changed.

    Each check is ok, a warning or a failure, and names the command that fixes it. Exit 0 without a
    failure, 1 with one, 3 if the data directory cannot be opened.
    """
    if api_server_ca is not None and api_server is None:
        raise click.UsageError("--api-server-ca needs --api-server; give its URL too")
    targets = Targets(server, api_server, api_server_ca)
    options = Options(data_dir, os.environ, targets, manifest, controller_manifest)
    report = examine(options, time())
    show(report, render_report(report), output)
    if report.status is Status.FAILURE:
        raise click.exceptions.Exit(1)


def render_report(report: Report) -> str:
    """Return a report as text: a line for each check, with its fix below it, and a summary."""
    lines = [f"{printable(str(report.data_dir))}, examined at {report.examined_at}", ""]
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        word = check.status.value if check.status is Status.OK else check.status.value.upper()
        status = click.style(f"{word:<{_STATUS_WIDTH}}", fg=_COLOURS[check.status])
        lines.append(f"  {check.name:<{width}}  {status}  {printable(check.finding)}")
        if check.fix:
            indent = " " * (width + _STATUS_WIDTH + 6)
            lines.append(f"{indent}fix: {printable(check.fix)}")
    if report.not_checked:
        lines += ["", "Not checked:"]
        width = max(len(entry.name) for entry in report.not_checked)
        lines += [f"  {e.name:<{width}}  {printable(e.why)}" for e in report.not_checked]
    return "\n".join([*lines, "", _sum_of(report)])


def _sum_of(report: Report) -> str:
    counts = {status: sum(check.status is status for check in report.checks) for status in _COLOURS}
    failures, warnings = counts[Status.FAILURE], counts[Status.WARNING]
    word = "NOT HEALTHY" if failures else "HEALTHY"
    found = [
        counted(count, name)
        for count, name in ((failures, "failure"), (warnings, "warning"))
        if count
    ]
    return f"{word}: {', '.join(found) or 'nothing wrong'} in {len(report.checks)} checks"
