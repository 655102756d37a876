"""``leeway token``: review and inspect tokens."""

import os
from contextlib import ExitStack, closing
from pathlib import Path
from textwrap import fill
from time import time

import click
import msgspec

from keys import jws
from keys.encoding import decode_base64url, decode_json
from keys.errors import EncodingError, MalformedJWSError
from keys.messages import utc
from webhook.assembly import (
    authenticator_of,
    clock_leeway_of,
    issuer_keys_of,
    source_of,
    store_of,
)
from webhook.cli.at_time import Moment, MomentType
from webhook.cli.options import data_dir_option, example, output_option
from webhook.cli.output import printable, show
from webhook.cli.token_argument import token_argument
from webhook.cli.token_create import create
from webhook.config.load import load_configuration
from webhook.config.paths import sqlite_file
from webhook.duration import rounded_duration
from webhook.kube.token_review import TokenReviewRequest, render_token_review
from webhook.rbac.access import role_groups
from webhook.rbac.state import AuthState
from webhook.signing_keys import keyring_for
from webhook.telemetry.audit import fingerprint
from webhook.token.authenticator import Authenticator, Revocations
from webhook.token.bound_objects import Lookup, LookupNeeded, ObjectKey, ObjectSource
from webhook.token.claims import read_unverified
from webhook.token.explain import Explanation, explain
from webhook.token.outcome import Authenticated, Outcome

_WIDTH = 100
_TIME_CLAIMS = ("exp", "iat", "nbf", "warnafter")


@click.group(epilog=example("leeway token review @token"))
def token() -> None:
    """Sign, review and inspect service account tokens.

    TOKEN is a token, @FILE, or - for standard input. A token on the command line is visible to
    other users in the list of processes.
    """


token.add_command(create)


@token.command(
    epilog=example("leeway token review @token --at iat-92s", "leeway token review - < token")
)
@token_argument
@data_dir_option
@click.option("--audience", "audiences", multiple=True, help="An audience to accept, repeatable.")
@click.option("--at", "at", type=MomentType(), help="Review it as of this time instead of now.")
@output_option
def review(
    token: str, data_dir: Path, audiences: tuple[str, ...], at: Moment | None, output: str
) -> None:
    """Review a token, check by check. Exit 0 if it is accepted, 1 if it is refused.

    --at is a date, Unix seconds, or a distance from now (-92s) or from a claim of the token:
    iat-92s reviews it by a clock that was 92 s behind when it was signed. -o json prints the
    TokenReview that the API server would get.
    """
    configuration = load_configuration(data_dir, os.environ, {})
    now = time() if at is None else at.of_token(token)
    with ExitStack() as stack:
        state: AuthState | None = None
        path = sqlite_file(data_dir, configuration)
        if path is None or path.exists():
            store = stack.enter_context(closing(store_of(data_dir, configuration)))
            state = store.state
        else:
            click.echo("leeway: warning: there is no store: revocations are not checked", err=True)
        objects = source_of(data_dir, configuration)
        if objects is not None:
            stack.callback(objects.close)
        issuer_keys = issuer_keys_of(data_dir, configuration)
        issuer_keys.fetch_now(_unverified_issuer(token))
        authenticator = authenticator_of(
            data_dir,
            configuration,
            keyring_for(data_dir, configuration),
            issuer_keys=issuer_keys,
            objects=objects,
        )
        outcome = _reviewed(authenticator, objects, state, token, audiences, now)
        entry = authenticator.entry_of(token, now)
    prefix = configuration.mapping.role_group_prefix
    groups = role_groups(outcome, state, prefix) if state else ()
    asked = TokenReviewRequest("authentication.k8s.io/v1", token, audiences)
    answer = msgspec.json.decode(render_token_review(asked, outcome, groups))
    leeway = (entry.leeway if entry else None) or clock_leeway_of(configuration)
    looks_up = objects is not None
    explanation = explain(token, outcome, leeway, now, looks_up_objects=looks_up)
    show(answer, render_explanation(token, explanation, now), output)
    if not isinstance(outcome, Authenticated):
        raise click.exceptions.Exit(1)


def _reviewed(
    authenticator: Authenticator,
    objects: ObjectSource | None,
    revocations: Revocations | None,
    token: str,
    audiences: tuple[str, ...],
    now: float,
) -> Outcome:
    answers: dict[ObjectKey, Lookup] = {}
    while True:
        try:
            return authenticator.authenticate(token, audiences, now, answers, revocations)
        except LookupNeeded as needed:
            assert objects is not None  # noqa: S101 - nothing else raises LookupNeeded
            answers[needed.key] = objects.look_up(needed.key, needed.uid)


def _unverified_issuer(token: str) -> str:
    try:
        claims = read_unverified(jws.parse(token).unverified_payload)
    except MalformedJWSError:
        return ""
    return claims.issuer if claims else ""


def render_explanation(token: str, explanation: Explanation, now: float) -> str:
    """Return an explanation as text: a line for each check, the verdict, and what to do."""
    lines = [f"Token {fingerprint(token)}, reviewed as of {utc(now)}", ""]
    for place, check in enumerate(explanation.checks, 1):
        start = f"  {place:>2}  {check.name:<10}  {check.result:<4}  "
        indent = " " * len(start)
        detail = printable(check.detail)
        lines.append(fill(detail, _WIDTH, initial_indent=start, subsequent_indent=indent))
    lines += ["", printable(explanation.verdict), "", fill(explanation.advice, _WIDTH)]
    return "\n".join(lines)


@token.command(epilog=example("leeway token inspect @token"))
@token_argument
@output_option
def inspect(token: str, output: str) -> None:
    """Show the header and claims of a token without checking anything."""
    try:
        parsed = jws.parse(token)
        header = decode_json(decode_base64url(parsed.header_segment))
        claims = decode_json(parsed.unverified_payload)
    except (MalformedJWSError, EncodingError) as error:
        raise click.UsageError(f"this is not a JWT: {error}") from error
    lines = ["UNVERIFIED: nothing below has been checked; anyone could have written it.", ""]
    lines += ["Header", *_lines(header), "", "Claims", *_lines(claims)]
    show({"unverified": {"header": header, "claims": claims}}, "\n".join(lines), output)


def _lines(value: object, prefix: str = "") -> list[str]:
    if not isinstance(value, dict):
        return [f"  {_json(value)}"]
    lines = []
    for name, member in value.items():
        if isinstance(member, dict):
            lines += _lines(member, f"{prefix}{name} ")
        else:
            shown = _json(member) + _time_of_claim(name, member)
            lines.append(f"  {printable(prefix + str(name)):<36} {shown}")
    return lines


def _time_of_claim(name: object, value: object) -> str:
    if name not in _TIME_CLAIMS or isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    moment = utc(value)
    if not moment[0].isdigit():
        return f"  {moment}"
    ahead = value - time()
    distance = rounded_duration(abs(ahead))
    return f"  {moment}, " + (f"in {distance}" if ahead > 0 else f"{distance} ago")


def _json(value: object) -> str:
    return printable(msgspec.json.encode(value).decode("utf-8"))
