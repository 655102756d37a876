"""``leeway skew``: clocks that differ from a running server's, estimated from its tokens."""

import os
import shutil
from pathlib import Path
from typing import Final

import click
import msgspec

from keys.files import read_private_file, read_public_file
from keys.messages import describe_decoding, describe_validation
from webhook.cli.options import (
    ServerAddress,
    data_dir_option,
    example,
    output_option,
    server_option,
)
from webhook.cli.output import printable, show
from webhook.config.load import load_configuration
from webhook.config.paths import TLS_FOLDER
from webhook.errors import DataDirectoryError, ServerUnreachableError
from webhook.https_url import HTTPSAddress
from webhook.outbound.errors import OutboundError
from webhook.outbound.https import Client, Deadline, client_context, endpoint_of
from webhook.setup.first_records import ROOT_USER
from webhook.skew.report import SKEW_PATH, ClockEntry, SkewReport, SkewStatus
from webhook.skew.tracker import ClockState

_TIMEOUT_SECONDS: Final = 10.0
_MAX_BODY_BYTES: Final = 16 * 1024 * 1024
_ROWS: Final = 40
_MIN_WIDTH: Final = 60
_MAX_WIDTH: Final = 120
_MAX_NAME: Final = 40
_MIN_BAR: Final = 10
_MAX_BAR: Final = 40
_STATES: Final = {
    ClockState.AHEAD: "ahead",
    ClockState.BEHIND: "looks behind",
    ClockState.IN_STEP: "in step",
    ClockState.UNKNOWN: "not known",
}


@click.command(epilog=example("leeway skew", "leeway skew --server hook.example.com:8443"))
@data_dir_option
@server_option
@click.option("--all", "everything", is_flag=True, help=f"Show more than {_ROWS} clocks.")
@output_option
def skew(data_dir: Path, server: HTTPSAddress | None, *, everything: bool, output: str) -> None:
    """Show which clocks differ from a running server's.

    The clocks of issuers and nodes are estimated from the tokens that the server has seen in the
    last 15 minutes. Exit 0 if no clock is known to be wrong, 1 if one is, 3 if the server cannot be
    reached.
    """
    if server is None:
        bind = load_configuration(data_dir, os.environ, {}).server.bind
        server = ServerAddress().convert(bind, None, None)
    report = _request_report(data_dir / TLS_FOLDER, server)
    width = min(_MAX_WIDTH, max(_MIN_WIDTH, shutil.get_terminal_size((100, 24)).columns))
    show(report, render_report(report.status, width, None if everything else _ROWS), output)
    if report.status.verdict.kind.is_skewed:
        raise click.exceptions.Exit(1)


def _request_report(tls: Path, server: HTTPSAddress) -> SkewReport:
    read_public_file(tls / "ca.crt")
    read_private_file(tls / f"{ROOT_USER}.key")
    try:
        context = client_context(tls / "ca.crt")
        context.load_cert_chain(tls / f"{ROOT_USER}.crt", tls / f"{ROOT_USER}.key")
    except OSError as error:
        why = getattr(error, "reason", None) or error.strerror or "unknown error"
        raise DataDirectoryError(f"the certificates in {tls} cannot be used: {why}") from error
    client = Client(endpoint_of(server), context)
    try:
        with client.get(SKEW_PATH, {}, Deadline(_TIMEOUT_SECONDS), _MAX_BODY_BYTES) as answer:
            body = answer.read()
    except OutboundError as error:
        raise ServerUnreachableError(
            f"the request to {server.authority} failed: {printable(str(error))}; start the server "
            "with `leeway serve`, or give its address with --server"
        ) from error
    finally:
        client.close()
    if answer.status != 200:
        raise ServerUnreachableError(
            f"the server at {server.authority} answered {answer.status}: {_message_of(body)}"
        )
    try:
        return msgspec.json.decode(body, type=SkewReport)
    except msgspec.MsgspecError as error:
        raise ServerUnreachableError(
            f"{server.authority} is not a Leeway server of this version: {_problem(error)}"
        ) from error


def _problem(error: msgspec.MsgspecError) -> str:
    if isinstance(error, msgspec.ValidationError):
        return describe_validation(error)
    return f"its answer is not JSON: {describe_decoding(error)}"


def _message_of(body: bytes) -> str:
    try:
        text = str(msgspec.json.decode(body)["message"])
    except (msgspec.MsgspecError, UnicodeError, KeyError, TypeError):
        text = "it gave no reason"
    return printable(text[:300])


def render_report(status: SkewStatus, width: int, rows: int | None = None) -> str:
    """Return a report as a table with bars, at most ``width`` columns wide."""
    minutes = status.window_seconds // 60
    title = (
        f"Clocks against this server's at {status.observed_at}, by the tokens of {minutes} minutes"
    )
    lines = [click.wrap_text(title, width)]
    shown = status.clocks[:rows]
    if shown:
        lines += ["", *_table(shown, width)]
    left_out = len(status.clocks) - len(shown)
    if left_out:
        lines.append(f"  ... and {left_out} more that differ less; --all shows them")
    verdict = status.verdict
    word = "SKEWED" if verdict.kind.is_skewed else "FINE"
    for text in (f"{word}: {verdict.message}", verdict.advice):
        lines += ["", click.wrap_text(printable(text), width)]
    return "\n".join(lines)


def _table(clocks: tuple[ClockEntry, ...], width: int) -> list[str]:
    head = ("AHEAD BY", "", "TOKENS")
    cells = [(_seconds(clock), _STATES[clock.state], str(clock.tokens)) for clock in clocks]
    ahead, state, tokens = (max(map(len, column)) for column in zip(head, *cells, strict=True))
    room = width - ahead - state - tokens - 8
    names = [_shortened(_name(clock), min(_MAX_NAME, room)) for clock in clocks]
    longest = max(map(len, names))
    bar = min(_MAX_BAR, room - longest - 2)
    bars = _bars(clocks, bar) if bar >= _MIN_BAR else [""] * len(clocks)
    lines = [
        f"  {name:<{longest}}  {row[0]:>{ahead}}  {row[1]:<{state}}  {row[2]:>{tokens}}  {drawn}"
        for name, row, drawn in zip(["CLOCK", *names], [head, *cells], ["", *bars], strict=True)
    ]
    return [line.rstrip() for line in lines]


def _bars(clocks: tuple[ClockEntry, ...], width: int) -> list[str]:
    """Return a bar for each clock: to the right of a line if it is ahead, to the left if behind."""
    known = [0.0 if c.state is ClockState.UNKNOWN else c.ahead_seconds for c in clocks]
    most, least = max(1.0, *known), min(0.0, *known)
    if least > -1.0:
        least = 0.0
    scale = (width - 1) / (most - least)
    left, right = int(scale * -least), int(scale * most)
    return [
        f"{'#' * min(left, round(scale * -ahead)):>{left}}|{'#' * min(right, round(scale * ahead))}"
        for ahead in known
    ]


def _name(clock: ClockEntry) -> str:
    return printable(f"node {clock.node}" if clock.node else clock.issuer)


def _shortened(name: str, length: int) -> str:
    """Return a name with its middle left out if it is too long."""
    if len(name) <= length:
        return name
    half = (length - 3) // 2
    return f"{name[:half]}...{name[-half:]}"


def _seconds(clock: ClockEntry) -> str:
    least = "> " if clock.state is ClockState.UNKNOWN else ""
    return f"{least}{clock.ahead_seconds:+.1f} s"
