"""The claims of a service account token: their types, and the conversion from and to JSON.

Sources: kubernetes ``pkg/serviceaccount/claims.go`` (projected tokens) and ``legacy.go`` (tokens
in Secrets), RFC 7519 section 4.1. Times are Unix seconds.

``parse_claims`` returns claims that are complete, of the right types and consistent.
"""

import re
import uuid
from collections.abc import Sequence
from functools import lru_cache
from sys import intern
from typing import Annotated, Final, TypeVar

import msgspec

from keys.encoding import decode_json
from keys.errors import EncodingError
from keys.messages import describe_validation
from webhook.errors import InvalidClaimsError, Reason, TokenRefusedError, UnknownBindingError

LEGACY_ISSUER: Final = "kubernetes/serviceaccount"
USERNAME_PREFIX: Final = "system:serviceaccount:"
_DNS_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(rf"{_DNS_LABEL.pattern}(?:\.{_DNS_LABEL.pattern})*")
MAX_AUDIENCES: Final = 100
# Longer values are not shared, because the cache does not count the bytes of shared ones.
_SHARED_AUDIENCES: Final = 4
_SHARED_CHARACTERS: Final = 256
_Value = TypeVar("_Value")
# 1970 to the last second of the year 9999, in whole seconds or with a fraction.
_RANGE: Final = msgspec.Meta(ge=0, le=253402300799)
_Time = Annotated[int, _RANGE] | Annotated[float, _RANGE]


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


# Members are in the order of Go's encoder, so that Kubernetes' claims encode to the same bytes.
class _Kubernetes(msgspec.Struct, omit_defaults=True, gc=False, kw_only=True):
    namespace: str
    node: ObjectReference | None = None
    pod: ObjectReference | None = None
    secret: ObjectReference | None = None
    serviceaccount: ObjectReference
    warnafter: _Time | None = None


_PRIVATE: Final = "kubernetes.io"
_KUBERNETES_MEMBERS: Final = frozenset(_Kubernetes.__struct_fields__)


class _Projected(msgspec.Struct, omit_defaults=True, gc=False, kw_only=True):
    aud: str | list[str]
    exp: _Time
    iat: _Time
    iss: str
    jti: str = ""
    kubernetes: _Kubernetes = msgspec.field(name=_PRIVATE)
    nbf: _Time
    sub: str


_PROJECTED_MEMBERS: Final = frozenset(_Projected.__struct_encode_fields__)
_REFERENCE_MEMBERS: Final = frozenset(ObjectReference.__struct_fields__)


class _Legacy(msgspec.Struct):
    iss: str
    sub: str
    namespace: str = msgspec.field(name="kubernetes.io/serviceaccount/namespace")
    secret_name: str = msgspec.field(name="kubernetes.io/serviceaccount/secret.name")
    account_name: str = msgspec.field(name="kubernetes.io/serviceaccount/service-account.name")
    account_uid: str = msgspec.field(name="kubernetes.io/serviceaccount/service-account.uid")
    aud: str | list[str] = []
    exp: _Time | None = None
    iat: _Time | None = None
    nbf: _Time | None = None


class _Issuer(msgspec.Struct):
    iss: str


_issuer_decoder = msgspec.json.Decoder(_Issuer)
_projected_decoder = msgspec.json.Decoder(_Projected)
_encoder = msgspec.json.Encoder()


class UnverifiedClaims(msgspec.Struct, frozen=True, gc=False):
    """A payload whose signature is not verified: to be used only to find the key."""

    issuer: str
    payload: bytes
    wire: _Projected | None


def read_unverified(payload: bytes) -> UnverifiedClaims | None:
    """Read a payload; return None if it does not name an issuer."""
    try:
        wire = _projected_decoder.decode(payload)
        return UnverifiedClaims(wire.iss, payload, wire)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass
    try:
        return UnverifiedClaims(_issuer_decoder.decode(payload).iss, payload, None)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def parse_claims(unverified: UnverifiedClaims, *, legacy: bool = False) -> Claims:
    """Parse the claims of a token of the TokenRequest API.

    With ``legacy``, claims without ``kubernetes.io`` are read as the flat ones of a token in a
    Secret. Raises InvalidClaimsError if a claim is missing, duplicated, of the wrong type or out of
    range, UnknownBindingError if the token is bound to an unknown kind of object, and
    TokenRefusedError if ``sub`` disagrees with the other claims.
    """
    wire, payload = unverified.wire, unverified.payload
    # If it encodes to the same bytes, no member is duplicated or unknown.
    if wire is not None and _encoder.encode(wire) == payload:
        return _from_projected(wire)
    try:
        members = decode_json(payload)
        if legacy and isinstance(members, dict) and "kubernetes.io" not in members:
            return _from_legacy(msgspec.convert(members, _Legacy))
        wire = msgspec.convert(members, _Projected)
        _refuse_unknown_bindings(members)
        return _from_projected(wire)
    except (EncodingError, msgspec.ValidationError) as error:
        raise InvalidClaimsError(describe_validation(error)) from error


def parse_requested(payload: bytes) -> Claims:
    """Parse claims that another process wants signed, as strictly as they can be parsed.

    Only members that Kubernetes writes are accepted, which leaves none that differs from one of
    those in case (Go's decoder ignores case), and every time is an integer; ``jti`` is required.
    Raises the errors of ``parse_claims``.
    """
    try:
        wire = _projected_decoder.decode(payload)
        # As above: only other spacing or escapes, or a member that is too many, make a difference.
        if _encoder.encode(wire) != payload:
            members = decode_json(payload)
            _refuse_unknown_members(members)
            wire = msgspec.convert(members, _Projected)
    except (EncodingError, msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidClaimsError(_describe(error)) from error
    times = (wire.exp, wire.iat, wire.nbf, wire.kubernetes.warnafter)
    if any(isinstance(moment, float) for moment in times):
        raise InvalidClaimsError("exp, iat, nbf and warnafter must be integers")
    if not wire.jti:
        raise InvalidClaimsError("jti is missing or empty")
    return _from_projected(wire)


def _describe(error: Exception) -> str:
    if isinstance(error, EncodingError):
        return str(error)
    if isinstance(error, msgspec.ValidationError):
        return describe_validation(error)
    return "not JSON that is accepted"


def _refuse_unknown_members(members: object) -> None:
    """Raise InvalidClaimsError for a member that kube-apiserver does not write."""
    found: list[tuple[object, frozenset[str], str]] = [(members, _PROJECTED_MEMBERS, "")]
    for value, known, path in found:
        if not isinstance(value, dict):
            continue  # The conversion raises the error.
        for name, member in value.items():
            if name not in known:
                raise InvalidClaimsError(f"{path}{ascii(name[:64])[1:-1]} is not a known member")
            if not path and name == _PRIVATE:
                found.append((member, _KUBERNETES_MEMBERS, f"{_PRIVATE}."))
            elif path == f"{_PRIVATE}.":
                found.append((member, _REFERENCE_MEMBERS, f"{path}{name}."))


def _refuse_unknown_bindings(members: object) -> None:
    """Refuse every unknown member of ``kubernetes.io`` that could bind the token.

    Kubernetes writes a bound object as a member with ``name`` and ``uid``, under the name of its
    kind (KEP-6060: ``validatingWebhookConfiguration``), and so it does with other restrictions
    (``attestationClaims``). Objects and lists are refused, other values are ignored.
    """
    private = members.get("kubernetes.io") if isinstance(members, dict) else None
    for name, value in private.items() if isinstance(private, dict) else ():
        if name not in _KUBERNETES_MEMBERS and isinstance(value, dict | list):
            raise UnknownBindingError(
                f"it is bound by kubernetes.io.{ascii(name[:64])[1:-1]}, which is not known "
                "here and cannot be checked"
            )


def _from_projected(wire: _Projected) -> Claims:
    private = wire.kubernetes
    account = private.serviceaccount
    pod, secret, node = private.pod, private.secret, private.node
    audiences = _audiences(wire.aud)
    if not audiences:
        raise InvalidClaimsError("aud is empty, and an audience is required")
    if (pod is not None) + (secret is not None) + (node is not None and pod is None) > 1:
        raise InvalidClaimsError("it is bound to two objects, one is allowed")
    subject = _check_subject(wire.sub, private.namespace, account.name)
    texts = f"{wire.jti}{account.uid}"
    has_uids = account.uid != ""
    if pod is not None:
        _check_name(pod.name, "pod")
        texts += pod.uid
        has_uids = has_uids and pod.uid != ""
    if secret is not None:
        _check_name(secret.name, "secret")
        texts += secret.uid
        has_uids = has_uids and secret.uid != ""
    if node is not None:
        _check_node_name(node.name)
        texts += node.uid
        has_uids = has_uids and (pod is not None or node.uid != "")
    if not has_uids:
        raise InvalidClaimsError("a uid is missing or empty")
    _check_text(texts, "jti or a uid")
    return Claims(
        intern(wire.iss),
        subject,
        _shared_audiences(audiences),
        intern(private.namespace),
        _shared_reference(account),
        wire.jti,
        int(wire.iat),
        int(wire.nbf),
        int(wire.exp),
        None if private.warnafter is None else int(private.warnafter),
        pod,
        secret,
        None if node is None else _shared_reference(node),
    )


def _from_legacy(wire: _Legacy) -> Claims:
    _check_subject(wire.sub, wire.namespace, wire.account_name)
    if not wire.account_uid:
        raise InvalidClaimsError("a uid is missing or empty")
    _check_text(wire.account_uid, "a uid")
    _check_name(wire.secret_name, "secret")
    return Claims(
        issuer=wire.iss,
        subject=wire.sub,
        audiences=_audiences(wire.aud),
        namespace=wire.namespace,
        service_account=ObjectReference(wire.account_name, wire.account_uid),
        issued_at=None if wire.iat is None else int(wire.iat),
        not_before=None if wire.nbf is None else int(wire.nbf),
        expires_at=None if wire.exp is None else int(wire.exp),
        secret=ObjectReference(wire.secret_name),
    )


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
    """Build the claims of a new token, and their JSON with the members sorted as Go sorts them.

    Raises the errors of ``parse_claims``: claims that would not be accepted are not signed.
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
    unverified = read_unverified(payload)
    if unverified is None:
        raise InvalidClaimsError("it has no issuer")
    return parse_claims(unverified), payload


def _audiences(value: str | list[str]) -> tuple[str, ...]:
    audiences = (value,) if isinstance(value, str) else tuple(value)
    if len(audiences) > MAX_AUDIENCES:
        raise InvalidClaimsError(f"aud has {len(audiences)} entries, {MAX_AUDIENCES} are allowed")
    if "" in audiences:
        raise InvalidClaimsError("aud has an empty entry")
    if not "".join(audiences).isprintable():
        raise InvalidClaimsError("aud is not printable text")
    return audiences


def _check_subject(subject: str, namespace: str, name: str) -> str:
    shared = _subject_of(namespace, name)
    if subject == shared:
        return shared
    raise TokenRefusedError(
        Reason.SUBJECT_MISMATCH,
        f"service account token sub claim is invalid: it is {subject[:320]!r}, "
        f"its kubernetes.io claims are those of {namespace}/{name}",
    )


@lru_cache(maxsize=4096)
def _subject_of(namespace: str, name: str) -> str:
    # Memoised because an account has many tokens; a refusal is not remembered.
    if not is_dns_label(namespace) or not is_dns_subdomain(name):
        raise InvalidClaimsError(
            "its namespace or service account has a name that Kubernetes does not allow"
        )
    return f"{USERNAME_PREFIX}{namespace}:{name}"


@lru_cache(maxsize=4096)
def _shared(value: _Value) -> _Value:
    """Return the first of equal values, so that cached tokens share it."""
    return value


def _shared_reference(reference: ObjectReference) -> ObjectReference:
    return _shared(reference) if len(reference.uid) <= _SHARED_CHARACTERS else reference


def _shared_audiences(audiences: tuple[str, ...]) -> tuple[str, ...]:
    if len(audiences) > _SHARED_AUDIENCES or sum(map(len, audiences)) > _SHARED_CHARACTERS:
        return audiences
    shared: tuple[str, ...] = _shared(audiences)
    return shared


def _check_name(name: str, claim: str) -> None:
    if not is_dns_subdomain(name):
        raise InvalidClaimsError(f"{claim} has a name that Kubernetes does not allow")


@lru_cache(maxsize=4096)
def _check_node_name(name: str) -> None:
    # Memoised because a node has many Pods; a refusal is not remembered.
    _check_name(name, "node")


def _check_text(text: str, claims: str) -> None:
    if not (text.isascii() and text.isprintable()):
        raise InvalidClaimsError(f"{claims} is not printable ASCII")


def is_dns_label(text: str) -> bool:
    """Return whether a text can name a namespace (RFC 1123 label, 63 characters)."""
    return len(text) <= 63 and _DNS_LABEL.fullmatch(text) is not None


def is_dns_subdomain(text: str) -> bool:
    """Return whether a text can name any other object (RFC 1123 subdomain, 253 characters)."""
    return len(text) <= 253 and _DNS_SUBDOMAIN.fullmatch(text) is not None
