"""The claims of a service account token, and the checks of audience and time.

Sources: kubernetes ``pkg/serviceaccount/claims.go`` and ``jwt.go``, RFC 7519 section 4.1.

Times are Unix seconds. ``now`` is passed in; nothing here reads a clock.
"""

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from webhook.errors import ClockError, Reason, TokenRefusedError

LEGACY_ISSUER: Final = "kubernetes/serviceaccount"
USERNAME_PREFIX: Final = "system:serviceaccount:"
# Up to so many, searching a list is faster than making a set of it.
_FEW: Final = 4
_DNS_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(rf"{_DNS_LABEL.pattern}(?:\.{_DNS_LABEL.pattern})*")


# The types of the hot path are msgspec's structs, because they are created faster than dataclasses
# and the garbage collector can ignore them.
class ObjectReference(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A Kubernetes object that a token names. ``uid`` is empty if the token has none."""

    name: str
    uid: str = ""


class Claims(msgspec.Struct, frozen=True, gc=False):
    """The claims of a token whose signature is valid, or that is about to be signed.

    Times are None only in legacy tokens. Before its signature is verified, a token has
    ``UnverifiedClaims``.
    """

    issuer: str
    subject: str
    audiences: tuple[str, ...]
    namespace: str
    service_account: ObjectReference
    jti: str = ""
    issued_at: int | None = None
    not_before: int | None = None
    expires_at: int | None = None
    warn_after: int | None = None
    pod: ObjectReference | None = None
    secret: ObjectReference | None = None
    node: ObjectReference | None = None


class ClockLeeway(msgspec.Struct, frozen=True, gc=False):
    """How many seconds each claim can be on the wrong side of the clock."""

    not_before: float
    issued_at: float
    expiry: float


def check_audience(
    claims: Claims, configured: Sequence[str], requested: Sequence[str]
) -> tuple[str, ...]:
    """Return the requested audiences that the token is for, in the order of the token.

    A token without audiences (a legacy one) is for the configured ones. Raises TokenRefusedError
    if there are none. Source: ``jwt.go``, ``AuthenticateToken``.
    """
    own = claims.audiences or tuple(configured)
    wanted = requested if len(requested) <= _FEW else frozenset(requested)
    common = tuple([audience for audience in own if audience in wanted])
    if not common:
        raise TokenRefusedError(
            Reason.AUDIENCE_MISMATCH,
            f"token audiences {_go_list(own)} is invalid for the target audiences "
            f"{_go_list(requested)}",
        )
    return common


def check_times(claims: Claims, leeway: ClockLeeway, now: float) -> tuple[str, ...]:
    """Check ``nbf``, then ``exp``, then ``iat``, in the order of go-jose's ``Claims.Validate``.

    A token exactly at the leeway passes. Returns the names of the claims that pass only thanks to
    the leeway. Raises ClockError.

    >>> at_noon = Claims("i", "s", ("a",), "ns", ObjectReference("sa"), issued_at=43200)
    >>> check_times(at_noon, ClockLeeway(60, 60, 60), now=43150)
    ('iat',)
    """
    not_before, expires_at, issued_at = claims.not_before, claims.expires_at, claims.issued_at
    within_leeway: tuple[str, ...] = ()
    if not_before is not None and not_before > now:
        if not_before > now + leeway.not_before:
            raise ClockError(Reason.NOT_YET_VALID, "nbf", not_before - now, leeway.not_before)
        within_leeway += ("nbf",)
    if expires_at is not None and expires_at < now:
        if now - leeway.expiry > expires_at:
            raise ClockError(Reason.EXPIRED, "exp", now - expires_at, leeway.expiry)
        within_leeway += ("exp",)
    if issued_at is not None and issued_at > now:
        if issued_at > now + leeway.issued_at:
            raise ClockError(Reason.ISSUED_IN_FUTURE, "iat", issued_at - now, leeway.issued_at)
        within_leeway += ("iat",)
    return within_leeway


def is_dns_label(text: str) -> bool:
    """Return whether a text can name a namespace (RFC 1123 label, 63 characters)."""
    return len(text) <= 63 and _DNS_LABEL.fullmatch(text) is not None


def is_dns_subdomain(text: str) -> bool:
    """Return whether a text can name any other object (RFC 1123 subdomain, 253 characters)."""
    return len(text) <= 253 and _DNS_SUBDOMAIN.fullmatch(text) is not None


def _go_list(values: Sequence[str]) -> str:
    shown = " ".join(f'"{value[:256]}"' for value in values[:5])
    return f"[{shown}]" if len(values) <= 5 else f"[{shown} and {len(values) - 5} more]"
