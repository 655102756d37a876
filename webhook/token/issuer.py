"""A token issuer: signs service account tokens, and describes itself in a public document.

Sources: kubernetes ``pkg/registry/core/serviceaccount/storage/token.go`` (the defaults and limits)
and ``pkg/serviceaccount/openidmetadata.go``; OpenID Connect Discovery 1.0 section 3.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from keys import jws
from keys.jwk import VerificationKey
from keys.keyring import Keyring
from webhook.errors import IssueError, TokenRefusedError
from webhook.token.claims import (
    MAX_AUDIENCES,
    Claims,
    ObjectReference,
    build_projected,
    is_dns_label,
    is_dns_subdomain,
)

CONFIGURATION_PATH: Final = "/.well-known/openid-configuration"
JWKS_PATH: Final = "/openid/v1/jwks"
JWKS_CONTENT_TYPE: Final = "application/jwk-set+json"
MAX_AGE_SECONDS: Final = 3600
MAX_REQUEST_SECONDS: Final = 1 << 32
# The expiration that kubelet requests, and its extension: clients that read their token only once
# keep working for a year, and are reported as stale after ``warnafter``. Source: kubernetes
# ``pkg/serviceaccount/claims.go``, WarnOnlyBoundTokenExpirationSeconds.
EXTENDABLE_SECONDS: Final = 3607
EXTENDED_SECONDS: Final = 365 * 24 * 3600
_LABEL_RULE: Final = (
    "use at most 63 of a-z 0-9 and '-', beginning and ending with a letter or digit"
)
_SUBDOMAIN_RULE: Final = (
    "use at most 253 of a-z 0-9 '-' and '.', beginning and ending with a letter or digit"
)


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """The limits and defaults of an issuer; all times in seconds."""

    issuer: str
    audiences: tuple[str, ...]
    default_seconds: int
    min_seconds: int
    max_seconds: int
    extend: bool


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """A token to be issued. Without ``expiration_seconds`` or ``audiences`` the policy's apply.

    ``objects_confirmed`` is true only if every object in it was looked up and found.
    """

    namespace: str
    name: str
    uid: str = ""
    audiences: Sequence[str] = ()
    expiration_seconds: int | None = None
    pod: ObjectReference | None = None
    secret: ObjectReference | None = None
    node: ObjectReference | None = None
    objects_confirmed: bool = False


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A signed token, its claims, and a warning if it differs from the request.

    ``granted_seconds`` is the lifetime that the client is told; an extended token lives longer.
    """

    token: str
    claims: Claims
    granted_seconds: int
    warning: str = ""

    def __repr__(self) -> str:
        return f"IssuedToken(claims={self.claims!r})"


def issue_token(spec: TokenSpec, policy: TokenPolicy, keyring: Keyring, now: float) -> IssuedToken:
    """Sign a token with the active key at the time ``now`` (Unix seconds).

    Raises IssueError if the request is out of range, KeyScheduleError if no key is active.
    """
    _check_spec(spec, policy)
    audiences = tuple(spec.audiences) or policy.audiences
    seconds = spec.expiration_seconds or policy.default_seconds
    warning = ""
    if seconds > policy.max_seconds:
        warning = (
            f"requested expiration of {seconds} seconds shortened to {policy.max_seconds} seconds"
        )
        seconds = policy.max_seconds
    granted = seconds
    warn_after = None
    if (
        policy.extend
        and spec.pod
        # Otherwise a made-up Pod would extend its token beyond ``max_seconds``.
        and spec.objects_confirmed
        and seconds == EXTENDABLE_SECONDS
        and set(audiences) <= set(policy.audiences)
    ):
        warn_after, seconds = seconds, EXTENDED_SECONDS
    uid = spec.uid or stable_uid(policy.issuer, spec.namespace, spec.name)
    signing_key = keyring.signing_key()
    try:
        claims, payload = build_projected(
            issuer=policy.issuer,
            namespace=spec.namespace,
            service_account=ObjectReference(spec.name, uid),
            audiences=audiences,
            now=now,
            expiration_seconds=seconds,
            warn_after_seconds=warn_after,
            pod=spec.pod,
            secret=spec.secret,
            node=spec.node,
        )
    except TokenRefusedError as error:
        raise IssueError(f"such a token would not be accepted: {error}") from error
    token = jws.sign(payload, signing_key)
    if len(token) > jws.MAX_COMPACT_LENGTH:
        raise IssueError(
            f"the token would have {len(token)} characters, {jws.MAX_COMPACT_LENGTH} are "
            "accepted; ask for fewer or shorter audiences",
            "spec.audiences",
        )
    return IssuedToken(token, claims, granted, warning)


def stable_uid(issuer: str, namespace: str, name: str) -> str:
    """Return a UID (RFC 9562 version 5) for a service account without one."""
    path = f"{issuer}/api/v1/namespaces/{namespace}/serviceaccounts/{name}"
    return str(uuid.uuid5(uuid.NAMESPACE_URL, path))


def check_names(namespace: str, name: str) -> None:
    """Check that a service account can have these names. Raises IssueError."""
    if not is_dns_label(namespace):
        raise IssueError(
            f"namespace {namespace[:64]!r} is not allowed; {_LABEL_RULE}",
            "metadata.namespace",
            namespace,
            _LABEL_RULE,
        )
    _check_name(name, "metadata.name")


def _check_name(name: str, field: str) -> None:
    if not is_dns_subdomain(name):
        message = f"name {name[:64]!r} is not allowed; {_SUBDOMAIN_RULE}"
        raise IssueError(message, field, name, _SUBDOMAIN_RULE)


def _check_spec(spec: TokenSpec, policy: TokenPolicy) -> None:
    """Make every check that does not need the token. Raises IssueError."""
    check_names(spec.namespace, spec.name)
    for reference in (spec.pod, spec.secret, spec.node):
        if reference is not None:
            _check_name(reference.name, "spec.boundObjectRef.name")
    check_seconds(spec.expiration_seconds, policy)
    if len(spec.audiences) > MAX_AUDIENCES:
        raise IssueError(
            f"{len(spec.audiences)} audiences are too many, {MAX_AUDIENCES} are allowed",
            "spec.audiences",
        )
    for place, audience in enumerate(spec.audiences):
        if not (audience and audience.isprintable()):
            field, rule = f"spec.audiences[{place}]", "must be printable text, and not empty"
            raise IssueError(f"{field} is {audience[:64]!r}, but {rule}", field, audience, rule)


def check_seconds(seconds: int | None, policy: TokenPolicy) -> None:
    """Check that a lifetime is within the limits. Raises IssueError."""
    if seconds is None:
        return
    if seconds < policy.min_seconds:
        bound, shown = "less than", f"{policy.min_seconds} seconds"
        in_go = shown if policy.min_seconds % 60 else f"{policy.min_seconds // 60} minutes"
    elif seconds > MAX_REQUEST_SECONDS:
        bound, shown = "larger than", "2^32 seconds"
        in_go = shown
    else:
        return
    phrase = f"may not specify a duration {bound}"
    raise IssueError(
        f"{phrase} {shown}: {seconds} were requested",
        "spec.expirationSeconds",
        seconds,
        f"{phrase} {in_go}",
    )


def openid_configuration(issuer: str, jwks_uri: str, keys: Iterable[VerificationKey]) -> bytes:
    """Render the discovery document; an empty ``jwks_uri`` means the issuer's own."""
    return msgspec.json.encode(
        {
            "issuer": issuer,
            "jwks_uri": jwks_uri or issuer.rstrip("/") + JWKS_PATH,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted({key.algorithm for key in keys}),
        }
    )
