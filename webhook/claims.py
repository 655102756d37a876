"""Claims of service account tokens: built, parsed and checked as Kubernetes does.

Sources: kubernetes ``pkg/serviceaccount/claims.go`` (projected tokens), ``legacy.go`` (tokens
kept in Secrets), RFC 7519 section 4.1.

Invariants:

1. ``parse_claims`` returns claims that are complete, of the right types and in agreement with
   each other; they need checks of time and audience only.
2. Times are Unix seconds. ``now`` is passed in; nothing here reads a clock.
"""

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NewType

import msgspec

from keys.encoding import decode_json
from keys.errors import EncodingError
from webhook.errors import (
    AudienceMismatchError,
    ExpiredError,
    InvalidClaimsError,
    IssuedInFutureError,
    NotYetValidError,
    SubjectMismatchError,
)

LEGACY_ISSUER: Final = "kubernetes/serviceaccount"
USERNAME_PREFIX: Final = "system:serviceaccount:"
MAX_AUDIENCES: Final = 100
_MAX_TEXT_LENGTH: Final = 1024
_MAX_TIME: Final = 253402300799  # the last second of the year 9999
_DNS_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(rf"{_DNS_LABEL.pattern}(?:\.{_DNS_LABEL.pattern})*")


@dataclass(frozen=True, slots=True)
class ObjectReference:
    """A Kubernetes object that a token names. ``uid`` is empty where the token has none."""

    name: str
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of one token. Times are None only in legacy tokens, which have none."""

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


VerifiedClaims = NewType("VerifiedClaims", Claims)
"""Claims whose signature is one by a key of their issuer."""


@dataclass(frozen=True, slots=True)
class ClockLeeway:
    """Seconds by which each claim may be on the wrong side of the clock."""

    not_before: float
    issued_at: float
    expiry: float


class _Reference(msgspec.Struct):
    name: str
    uid: str = ""


class _Kubernetes(msgspec.Struct):
    namespace: str
    serviceaccount: _Reference
    pod: _Reference | None = None
    secret: _Reference | None = None
    node: _Reference | None = None
    warnafter: int | float | None = None


class _Projected(msgspec.Struct):
    iss: str
    sub: str
    aud: str | list[str]
    exp: int | float
    iat: int | float
    nbf: int | float
    kubernetes: _Kubernetes = msgspec.field(name="kubernetes.io")
    jti: str = ""


class _Legacy(msgspec.Struct):
    iss: str
    sub: str
    namespace: str = msgspec.field(name="kubernetes.io/serviceaccount/namespace")
    secret_name: str = msgspec.field(name="kubernetes.io/serviceaccount/secret.name")
    account_name: str = msgspec.field(name="kubernetes.io/serviceaccount/service-account.name")
    account_uid: str = msgspec.field(name="kubernetes.io/serviceaccount/service-account.uid")
    aud: str | list[str] = []
    exp: int | float | None = None
    iat: int | float | None = None
    nbf: int | float | None = None


class _Issuer(msgspec.Struct):
    iss: str


_issuer_decoder = msgspec.json.Decoder(_Issuer)


def unverified_issuer(payload: bytes) -> str | None:
    """Return the ``iss`` that an unverified payload claims, or None where there is none.

    Only good for finding the keys to verify it with.
    """
    try:
        return _issuer_decoder.decode(payload).iss
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def parse_claims(payload: bytes, *, legacy: bool = False) -> Claims:
    """Parse the claims of a token made by the TokenRequest API.

    With ``legacy``, claims without ``kubernetes.io`` are taken for the flat ones of a token kept
    in a Secret. Raises InvalidClaimsError where a claim is missing, twice there, of the wrong
    type or out of range, and SubjectMismatchError where ``sub`` and the others disagree.
    """
    try:
        members = decode_json(payload)
        if legacy and isinstance(members, dict) and "kubernetes.io" not in members:
            return _from_legacy(msgspec.convert(members, _Legacy))
        return _from_projected(msgspec.convert(members, _Projected))
    except (EncodingError, msgspec.ValidationError) as error:
        raise InvalidClaimsError(_invalid(str(error))) from error


def _from_projected(wire: _Projected) -> Claims:
    private = wire.kubernetes
    audiences = _audiences(wire.aud)
    if not audiences:
        raise InvalidClaimsError(_invalid("aud is empty, and an audience is required"))
    bound = [private.pod, private.secret, None if private.pod else private.node]
    if sum(reference is not None for reference in bound) > 1:
        raise InvalidClaimsError(_invalid("it is bound to two objects, one is allowed"))
    _check_subject(wire.sub, private.namespace, private.serviceaccount.name)
    return Claims(
        issuer=wire.iss,
        subject=wire.sub,
        audiences=audiences,
        namespace=private.namespace,
        service_account=_object(private.serviceaccount, "serviceaccount"),
        jti=_text(wire.jti, "jti"),
        issued_at=_time(wire.iat, "iat"),
        not_before=_time(wire.nbf, "nbf"),
        expires_at=_time(wire.exp, "exp"),
        warn_after=_optional_time(private.warnafter, "warnafter"),
        pod=_optional_object(private.pod, "pod"),
        secret=_optional_object(private.secret, "secret"),
        node=_optional_object(private.node, "node", uid_required=private.pod is None),
    )


def _from_legacy(wire: _Legacy) -> Claims:
    _check_subject(wire.sub, wire.namespace, wire.account_name)
    return Claims(
        issuer=wire.iss,
        subject=wire.sub,
        audiences=_audiences(wire.aud),
        namespace=wire.namespace,
        service_account=_object(_Reference(wire.account_name, wire.account_uid), "serviceaccount"),
        issued_at=_optional_time(wire.iat, "iat"),
        not_before=_optional_time(wire.nbf, "nbf"),
        expires_at=_optional_time(wire.exp, "exp"),
        secret=_object(_Reference(wire.secret_name), "secret", uid_required=False),
    )


def check_audience(
    claims: Claims, configured: Sequence[str], requested: Sequence[str]
) -> tuple[str, ...]:
    """Return the requested audiences that the token is for, in the order of the token.

    A token without audiences (a legacy one) is for the configured ones. Raises
    AudienceMismatchError where none is left. Source: ``jwt.go``, ``AuthenticateToken``.
    """
    own = claims.audiences or tuple(configured)
    common = tuple(audience for audience in own if audience in requested)
    if not common:
        raise AudienceMismatchError(
            f"token audiences {_go_list(own)} is invalid for the target audiences "
            f"{_go_list(requested)}"
        )
    return common


def check_times(claims: Claims, leeway: ClockLeeway, now: float) -> None:
    """Check ``nbf``, then ``exp``, then ``iat``, in the order of go-jose's ``Claims.Validate``.

    A token exactly at the leeway passes. Raises NotYetValidError, ExpiredError or
    IssuedInFutureError.
    """
    if claims.not_before is not None and claims.not_before > now + leeway.not_before:
        raise NotYetValidError("nbf", claims.not_before - now, leeway.not_before)
    if claims.expires_at is not None and now - leeway.expiry > claims.expires_at:
        raise ExpiredError("exp", now - claims.expires_at, leeway.expiry)
    if claims.issued_at is not None and claims.issued_at > now + leeway.issued_at:
        raise IssuedInFutureError("iat", claims.issued_at - now, leeway.issued_at)


def build_projected(
    *,
    issuer: str,
    namespace: str,
    service_account: ObjectReference,
    audiences: Sequence[str],
    now: float,
    expiration_seconds: int,
    warn_after_seconds: int | None = None,
    pod: ObjectReference | None = None,
    secret: ObjectReference | None = None,
    node: ObjectReference | None = None,
) -> tuple[Claims, bytes]:
    """Build the claims of a new token and their JSON, members sorted as Go sorts them.

    Raises what ``parse_claims`` raises: nothing is signed that would not be accepted.
    Source: ``claims.go``, ``Claims``.
    """
    issued = int(now)
    private: dict[str, object] = {
        "namespace": namespace,
        "serviceaccount": {"name": service_account.name, "uid": service_account.uid},
    }
    for kind, reference in (("node", node), ("pod", pod), ("secret", secret)):
        if reference is not None:
            uid = {"uid": reference.uid} if reference.uid else {}
            private[kind] = {"name": reference.name} | uid
    if warn_after_seconds is not None:
        private["warnafter"] = issued + warn_after_seconds
    members = {
        "aud": list(audiences),
        "exp": issued + expiration_seconds,
        "iat": issued,
        "iss": issuer,
        "jti": str(uuid.uuid4()),
        "kubernetes.io": private,
        "nbf": issued,
        "sub": f"{USERNAME_PREFIX}{namespace}:{service_account.name}",
    }
    payload = msgspec.json.encode(members, order="sorted")
    return parse_claims(payload), payload


def is_dns_label(text: str) -> bool:
    """Tell whether a text may name a namespace (RFC 1123 label, 63 characters)."""
    return len(text) <= 63 and _DNS_LABEL.fullmatch(text) is not None


def is_dns_subdomain(text: str) -> bool:
    """Tell whether a text may name any other object (RFC 1123 subdomain, 253 characters)."""
    return len(text) <= 253 and _DNS_SUBDOMAIN.fullmatch(text) is not None


def _invalid(detail: str) -> str:
    return f"service account token claims could not be validated: {detail}"


def _audiences(value: str | list[str]) -> tuple[str, ...]:
    audiences = (value,) if isinstance(value, str) else tuple(value)
    if len(audiences) > MAX_AUDIENCES:
        raise InvalidClaimsError(
            _invalid(f"aud has {len(audiences)} entries, {MAX_AUDIENCES} are allowed")
        )
    for audience in audiences:
        if not _text(audience, "aud"):
            raise InvalidClaimsError(_invalid("aud has an empty entry"))
    return audiences


def _check_subject(subject: str, namespace: str, name: str) -> None:
    if not is_dns_label(namespace) or not is_dns_subdomain(name):
        raise InvalidClaimsError(
            _invalid("its namespace or service account has a name that Kubernetes does not allow")
        )
    if subject != f"{USERNAME_PREFIX}{namespace}:{name}":
        raise SubjectMismatchError(
            f"service account token sub claim is invalid: it is {subject[:320]!r}, "
            f"its kubernetes.io claims are those of {namespace}/{name}"
        )


def _object(reference: _Reference, claim: str, *, uid_required: bool = True) -> ObjectReference:
    if not is_dns_subdomain(reference.name):
        raise InvalidClaimsError(_invalid(f"{claim} has a name that Kubernetes does not allow"))
    if uid_required and not reference.uid:
        raise InvalidClaimsError(_invalid(f"{claim} has no uid"))
    return ObjectReference(reference.name, _text(reference.uid, f"the uid of {claim}"))


def _optional_object(
    reference: _Reference | None, claim: str, *, uid_required: bool = True
) -> ObjectReference | None:
    return None if reference is None else _object(reference, claim, uid_required=uid_required)


def _text(value: str, claim: str) -> str:
    if len(value) > _MAX_TEXT_LENGTH or not (value.isprintable() and value.isascii()):
        raise InvalidClaimsError(
            _invalid(f"{claim} is not printable ASCII of at most {_MAX_TEXT_LENGTH} characters")
        )
    return value


def _time(value: int | float, claim: str) -> int:
    if not 0 <= value <= _MAX_TIME:
        raise InvalidClaimsError(_invalid(f"{claim} is no time between 1970 and 9999"))
    return int(value)


def _optional_time(value: int | float | None, claim: str) -> int | None:
    return None if value is None else _time(value, claim)


def _go_list(values: Sequence[str]) -> str:
    shown = " ".join(f'"{value}"' for value in values[:5])
    return f"[{shown}]" if len(values) <= 5 else f"[{shown} and {len(values) - 5} more]"
