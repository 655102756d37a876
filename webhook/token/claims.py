"""The claims of a service account token.

Sources: kubernetes ``pkg/serviceaccount/claims.go``, RFC 7519 section 4.1. Times are Unix seconds.
"""

import re
from typing import Final

import msgspec

LEGACY_ISSUER: Final = "kubernetes/serviceaccount"
USERNAME_PREFIX: Final = "system:serviceaccount:"
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


def is_dns_label(text: str) -> bool:
    """Return whether a text can name a namespace (RFC 1123 label, 63 characters)."""
    return len(text) <= 63 and _DNS_LABEL.fullmatch(text) is not None


def is_dns_subdomain(text: str) -> bool:
    """Return whether a text can name any other object (RFC 1123 subdomain, 253 characters)."""
    return len(text) <= 253 and _DNS_SUBDOMAIN.fullmatch(text) is not None
