"""``leeway token create``: sign a token for a service account."""

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any

import click

from webhook.assembly import clock_leeway_of, policy_of, source_of
from webhook.cli.audit import audit
from webhook.cli.options import data_dir_option, example
from webhook.cli.output import say
from webhook.config.load import load_configuration
from webhook.config.model import Configuration
from webhook.duration import parse_duration
from webhook.errors import (
    InvalidReviewError,
    NotIssuedError,
    ObjectConflictError,
    ObjectNotFoundError,
)
from webhook.kube.token_binding import resolve_token_request
from webhook.kube.token_request import BoundObjectReference, TokenRequest
from webhook.signing_keys import opened_signing_keys
from webhook.telemetry.audit import token_fields
from webhook.token.bound_objects import ObjectSource
from webhook.token.claims import ObjectReference
from webhook.token.issuer import TokenSpec, issue_token


class _Duration(click.ParamType[int]):
    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            return int(parse_duration(str(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(epilog=example("leeway token create loofah -n argo-run > token"))
@click.argument("name")
@data_dir_option
@click.option("-n", "--namespace", required=True, help="The namespace of the service account.")
@click.option("--audience", "audiences", multiple=True, help="An audience, repeatable.")
@click.option("--duration", type=_Duration(), help="The lifetime of the token, like 1h.")
@click.option("--uid", default="", help="The UID of the service account.")
@click.option("--bound-object-kind", type=click.Choice(["Pod", "Secret", "Node"]))
@click.option("--bound-object-name")
@click.option("--bound-object-uid", help="Needed only if objects are not looked up.")
@click.option("--node-name", help="The node of the Pod.")
@click.option("--node-uid", default="")
def create(
    name: str,
    data_dir: Path,
    namespace: str,
    audiences: tuple[str, ...],
    duration: int | None,
    uid: str,
    bound_object_kind: str | None,
    bound_object_name: str | None,
    bound_object_uid: str | None,
    node_name: str | None,
    node_uid: str,
) -> None:
    """Sign a token for the service account NAME. Only the token is printed.

    If leeway.yaml has a source of objects, the service account and the bound object are looked up
    there, as the server does, and their UIDs need not be given. Exit 1 if one does not exist or has
    another UID, 3 if it cannot be looked up.
    """
    configuration = load_configuration(data_dir, os.environ, {})
    looks_up = configuration.objects.source != "none"
    bound = None
    if bound_object_kind or bound_object_name or bound_object_uid:
        if not bound_object_kind or not bound_object_name:
            raise click.UsageError("--bound-object-kind and --bound-object-name go together")
        if not bound_object_uid and not looks_up:
            raise click.UsageError(
                "--bound-object-uid is needed: with `objects.source: none` nothing is looked up"
            )
        bound = BoundObjectReference(
            bound_object_kind, "v1", bound_object_name, bound_object_uid or ""
        )
    if (node_name or node_uid) and bound_object_kind != "Pod":
        raise click.UsageError("--node-name and --node-uid need --bound-object-kind Pod")
    if node_uid and not node_name:
        raise click.UsageError("--node-uid needs --node-name")
    asked = TokenRequest(namespace, name, uid, audiences, duration, bound)
    node = ObjectReference(node_name, node_uid) if node_name else None
    now = time()
    objects = source_of(data_dir, configuration)
    if objects is None:
        request = _taken_at_its_word(asked, node)
    else:
        with closing(objects):
            request = _looked_up(asked, node, objects, configuration, now)
    with opened_signing_keys(data_dir, configuration) as keys:
        keyring = keys.keyring_to_sign(int(now))
    issued = issue_token(request, policy_of(configuration), keyring, now)
    audit(data_dir, "token.issue", **token_fields(issued.claims, issued.token))
    if issued.warning:
        say(f"leeway: warning: {issued.warning}", err=True)
    click.echo(issued.token)


def _taken_at_its_word(asked: TokenRequest, node: ObjectReference | None) -> TokenSpec:
    request = TokenSpec(
        asked.namespace, asked.name, asked.uid, asked.audiences, asked.expiration_seconds
    )
    if asked.bound is None:
        return request
    reference = ObjectReference(asked.bound.name, asked.bound.uid)
    match asked.bound.kind:
        case "Pod":
            return replace(request, pod=reference, node=node)
        case "Secret":
            return replace(request, secret=reference)
        case _:
            return replace(request, node=reference)


def _looked_up(
    asked: TokenRequest,
    node: ObjectReference | None,
    objects: ObjectSource,
    configuration: Configuration,
    now: float,
) -> TokenSpec:
    """Look up the objects as the server does. Raises NotIssuedError and LookupUnavailableError."""
    leeway = clock_leeway_of(configuration).expiry
    source = configuration.objects.source
    where = configuration.objects.file.path if source == "file" else "the cluster"
    try:
        _, request = resolve_token_request(asked, policy_of(configuration), objects, leeway, now)
    except ObjectNotFoundError as error:
        raise NotIssuedError(
            f"no token was made: {error} in {where} (objects.source is {source}); create it there "
            "first, or name one that exists"
        ) from error
    except (ObjectConflictError, InvalidReviewError) as error:
        raise NotIssuedError(f"no token was made: {error}") from error
    if node is not None and (request.node is None or node.name != request.node.name):
        found = request.node.name if request.node else "none"
        raise NotIssuedError(
            f"no token was made: --node-name is {node.name[:64]!r}, but the node of the Pod in "
            f"{where} is {found!r}; leave --node-name out, it is looked up"
        )
    if node is not None and request.node and node.uid not in ("", request.node.uid):
        raise NotIssuedError(
            f"no token was made: --node-uid is {node.uid[:64]!r}, but the UID of node {node.name} "
            f"in {where} is {request.node.uid!r}; leave --node-uid out, it is looked up"
        )
    return request
