"""``leeway can-i``: whether a user is allowed to read or write keys, or to make a request."""

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from keys.errors import EncodingError
from webhook.cli.options import data_dir_option, example, output_option
from webhook.cli.output import printable, show
from webhook.cli.store_access import (
    GoFlagsCommand,
    from_key_option,
    opened_store,
    prefix_option,
    wire_range,
)
from webhook.kube.access_review import SUBJECT_KIND, AccessReviewRequest, parse_access_review
from webhook.kube.bodies import decode_body
from webhook.kube.request_access import decide_for_cluster, describe_keys
from webhook.rbac.access import explain_access
from webhook.rbac.model import Permission, PermissionType
from webhook.rbac.ranges import format_range, to_wire


@click.command(
    "can-i",
    cls=GoFlagsCommand,
    epilog=example(
        "leeway can-i write /leeway/tokenreviews --user kube-apiserver",
        "leeway can-i read /registry/pods/ --prefix --user alice",
        "leeway can-i --request @review.json",
    ),
)
@click.argument("kind", type=click.Choice(["read", "write"]), required=False)
@click.argument("key", required=False)
@click.argument("range_end", required=False)
@data_dir_option
@prefix_option
@from_key_option
@click.option("--user", help="The name of the user.")
@click.option("--group", "groups", multiple=True, help="A group of the user, repeatable.")
@click.option(
    "--request",
    metavar="JSON",
    help="A Kubernetes request instead of a key: its attributes or a SubjectAccessReview, as JSON, "
    "@FILE, or - for standard input.",
)
@output_option
def can_i(
    data_dir: Path,
    kind: str | None,
    key: str | None,
    range_end: str | None,
    user: str | None,
    groups: tuple[str, ...],
    request: str | None,
    output: str,
    **flags: bool,
) -> None:
    """Print whether a user is allowed to read or write keys.

    The answer is yes with the role that allows it, or no with the keys that no role covers. Exit 0
    for yes, 1 for no.
    """
    if request is not None:
        if kind or any(flags.values()):
            raise click.UsageError("give either --request, or read or write and a KEY")
        allowed = _show_request(data_dir, request, user, groups, output)
    elif kind is None or key is None:
        raise click.UsageError("give read or write and a KEY, or a request with --request")
    elif user is None:
        raise click.UsageError("Missing option '--user'")
    else:
        asked = Permission(*wire_range(key, range_end, **flags), PermissionType[kind.upper()])
        if not asked.is_valid:
            raise click.UsageError(
                "there is no key from KEY to RANGE_END; give a RANGE_END that is after KEY"
            )
        allowed = _show_range(data_dir, asked, user, groups, output)
    if not allowed:
        raise click.exceptions.Exit(1)


def _show_range(
    data_dir: Path, asked: Permission, user: str, groups: tuple[str, ...], output: str
) -> bool:
    with opened_store(data_dir) as (store, _):
        access = explain_access(store.state, user, groups, asked.type, asked.span)
    gaps = [to_wire(gap) for gap in access.uncovered]
    if access.allowed:
        text = f"yes, granted by role {' and '.join(access.roles)}"
    else:
        missing = ", ".join(format_range(start, end) for start, end in gaps)
        text = f"no, nothing lets {user} {asked.type.name.lower()} {missing}"
    value = {
        "allowed": access.allowed,
        "roles": access.roles,
        "uncovered": [{"key": start, "rangeEnd": end} for start, end in gaps],
    }
    show(value, printable(text), output)
    return access.allowed


def _show_request(
    data_dir: Path, text: str, user: str | None, groups: tuple[str, ...], output: str
) -> bool:
    asked = _read_request(text, user, groups)
    with opened_store(data_dir) as (store, configuration):
        decision = decide_for_cluster(
            store.state,
            asked.user,
            asked.groups,
            asked.request,
            allow_root=configuration.authorizer.allow_root,
        )
    allowed, required = bool(decision.roles), decision.required
    kinds = [kind.name for kind in required.kinds]
    value = {
        "allowed": allowed,
        "roles": decision.roles,
        "reason": decision.reason,
        "permissions": kinds,
        "keys": [
            {"key": start, "rangeEnd": end, "text": format_range(start, end)}
            for start, end in map(to_wire, required.spans)
        ],
    }
    needs = f"{' and '.join(kinds)} on {describe_keys(required)}"
    verdict = f"{'yes' if allowed else 'no'}, {decision.reason}"
    show(value, f"{printable(needs)}\n{printable(verdict)}", output)
    return allowed


def _read_request(text: str, user: str | None, groups: tuple[str, ...]) -> AccessReviewRequest:
    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        text = Path(text[1:]).read_text("utf-8")
    try:
        value: Any = decode_body(text.encode("utf-8"))
    except EncodingError as error:
        raise click.UsageError(f"--request is {error}") from error
    if not isinstance(value, dict):
        raise click.UsageError("--request must be a JSON object with a verb")
    if "spec" not in value:
        # The spec of a review, or the attributes alone.
        if not value.keys() & {"resourceAttributes", "nonResourceAttributes"}:
            field = "nonResourceAttributes" if "path" in value else "resourceAttributes"
            value = {field: value}
        value = {"spec": value}
    spec = value["spec"]
    if isinstance(spec, dict):
        if user is not None:
            spec["user"] = user
        if groups:
            beta = str(value.get("apiVersion", "")).endswith("/v1beta1")
            spec["group" if beta else "groups"] = list(groups)
        if not spec.keys() & {"user", "groups", "group"}:
            raise click.UsageError("the request names no user; give --user or --group")
    return parse_access_review(msgspec.json.encode(value), SUBJECT_KIND)
