"""Signs service account tokens, with the defaults and limits of Kubernetes' TokenRequest.

Source: kubernetes ``pkg/registry/core/serviceaccount/storage/token.go``.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from keys import jws
from keys.keyring import Keyring
from webhook.claims import Claims, ObjectReference, is_dns_label, is_dns_subdomain
from webhook.claims_json import MAX_AUDIENCES, build_projected
from webhook.errors import IssueError, TokenRefusedError

MAX_REQUEST_SECONDS: Final = 1 << 32
# The expiration that kubelet asks for, and what it is extended to: clients that never read their
# token again keep working for a year, and show up as stale after ``warnafter``.
EXTENDABLE_SECONDS: Final = 3607
EXTENDED_SECONDS: Final = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """What an issuer grants; all times in seconds."""

    issuer: str
    audiences: tuple[str, ...]
    default_seconds: int
    min_seconds: int
    max_seconds: int
    extend: bool


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What is asked for. ``expiration_seconds`` None and no audiences mean the policy's."""

    namespace: str
    name: str
    uid: str = ""
    audiences: Sequence[str] = ()
    expiration_seconds: int | None = None
    pod: ObjectReference | None = None
    secret: ObjectReference | None = None
    node: ObjectReference | None = None


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A signed token, its claims, and a warning where it is not what was asked for."""

    token: str
    claims: Claims
    warning: str = ""

    def __repr__(self) -> str:
        return f"IssuedToken(claims={self.claims!r})"


def issue_token(
    request: TokenRequest, policy: TokenPolicy, keyring: Keyring, now: float
) -> IssuedToken:
    """Sign a token with the active key at the time ``now`` (Unix seconds).

    Raises IssueError where the request is out of range, KeyScheduleError where no key is active.
    """
    _check(request, policy)
    audiences = tuple(dict.fromkeys(request.audiences)) or policy.audiences
    seconds = request.expiration_seconds or policy.default_seconds
    warning = ""
    if seconds > policy.max_seconds:
        warning = (
            f"requested expiration of {seconds} seconds shortened to {policy.max_seconds} seconds"
        )
        seconds = policy.max_seconds
    warn_after = None
    for_api_server = set(audiences) <= set(policy.audiences)
    if policy.extend and request.pod and seconds == EXTENDABLE_SECONDS and for_api_server:
        warn_after, seconds = seconds, EXTENDED_SECONDS
    uid = request.uid or stable_uid(policy.issuer, request.namespace, request.name)
    signing_key = keyring.signing_key()
    try:
        claims, payload = build_projected(
            issuer=policy.issuer,
            namespace=request.namespace,
            service_account=ObjectReference(request.name, uid),
            audiences=audiences,
            now=now,
            expiration_seconds=seconds,
            warn_after_seconds=warn_after,
            pod=request.pod,
            secret=request.secret,
            node=request.node,
        )
    except TokenRefusedError as error:
        raise IssueError(f"such a token would not be accepted: {error}") from error
    token = jws.sign(payload, signing_key)
    if len(token) > jws.MAX_COMPACT_LENGTH:
        raise IssueError(
            f"the token would have {len(token)} characters, {jws.MAX_COMPACT_LENGTH} are "
            "accepted; ask for fewer or shorter audiences"
        )
    return IssuedToken(token, claims, warning)


def stable_uid(issuer: str, namespace: str, name: str) -> str:
    """Return a UID (RFC 9562 version 5) for a service account that nobody has given one."""
    path = f"{issuer}/api/v1/namespaces/{namespace}/serviceaccounts/{name}"
    return str(uuid.uuid5(uuid.NAMESPACE_URL, path))


def _check(request: TokenRequest, policy: TokenPolicy) -> None:
    if not is_dns_label(request.namespace):
        raise IssueError(
            f"namespace {request.namespace[:64]!r} is not allowed; use at most 63 of a-z 0-9 and "
            "'-', beginning and ending with a letter or digit"
        )
    objects = [request.pod, request.secret, request.node]
    names = [request.name, *(reference.name for reference in objects if reference)]
    for name in names:
        if not is_dns_subdomain(name):
            raise IssueError(
                f"name {name[:64]!r} is not allowed; use at most 253 of a-z 0-9 '-' and '.', "
                "beginning and ending with a letter or digit"
            )
    if len(request.audiences) > MAX_AUDIENCES:
        raise IssueError(
            f"{len(request.audiences)} audiences are too many, {MAX_AUDIENCES} are allowed"
        )
    seconds = request.expiration_seconds
    if seconds is not None and seconds < policy.min_seconds:
        raise IssueError(
            f"may not specify a duration less than {policy.min_seconds} seconds: {seconds} were "
            "asked for"
        )
    if seconds is not None and seconds > MAX_REQUEST_SECONDS:
        raise IssueError(
            f"may not specify a duration larger than 2^32 seconds: {seconds} were asked for"
        )
