"""RangeAccessReview: is a user allowed to read or write a range of keys? Bytes in, bytes out."""

from dataclasses import dataclass
from typing import Final

import msgspec

from keys.messages import describe_validation
from webhook.errors import InvalidReviewError
from webhook.kube.bodies import encode_review, read_object, require_short_keys
from webhook.rbac.access import AccessDecision
from webhook.rbac.model import PermissionType
from webhook.rbac.ranges import Range, from_wire, to_wire

API_VERSION: Final = "leeway.dev/v1"
KIND: Final = "RangeAccessReview"


class _Spec(msgspec.Struct, forbid_unknown_fields=True, rename="camel", kw_only=True):
    user: str | msgspec.UnsetType = msgspec.UNSET
    groups: tuple[str, ...] = ()
    token: str | msgspec.UnsetType = msgspec.UNSET
    permission: str
    key: bytes
    range_end: bytes = b""
    min_revision: str | msgspec.UnsetType = msgspec.UNSET


class _Review(msgspec.Struct):
    spec: _Spec


@dataclass(frozen=True, slots=True)
class RangeReviewRequest:
    """A RangeAccessReview as requested.

    It is about ``subject``, a user and its groups, or about the subject of ``token``. ``spec`` is
    sent back, without the token. The answer is at least as fresh as the answer with the
    ``storeRevision`` that is ``min_revision``, unless that is empty.
    """

    spec: object
    subject: tuple[str, tuple[str, ...]]
    token: str
    kind: PermissionType
    span: Range
    min_revision: str = ""

    def __repr__(self) -> str:
        return f"RangeReviewRequest({self.kind!r}, {self.span!r})"


def parse_range_review(body: bytes) -> RangeReviewRequest:
    """Parse the body of a request. Raises InvalidReviewError."""
    value = read_object(body, KIND, API_VERSION)
    try:
        spec = msgspec.convert(value, _Review).spec
    except msgspec.ValidationError as error:
        raise InvalidReviewError(f"this is not a {KIND}: {describe_validation(error)}") from error
    if spec.permission not in ("READ", "WRITE"):
        raise InvalidReviewError(
            f"spec.permission is {spec.permission[:32]!r}; READ or WRITE is allowed"
        )
    require_short_keys(key=spec.key, rangeEnd=spec.range_end)
    span = from_wire(spec.key, spec.range_end)
    user, token = spec.user or "", spec.token or ""
    if bool(user) == bool(token):
        raise InvalidReviewError("spec needs either a user or a token, and not empty")
    if token and spec.groups:
        raise InvalidReviewError("spec.groups goes with a user; a token brings its own groups")
    if not spec.key or (span.end is not None and span.end <= span.start):
        raise InvalidReviewError("spec.key is empty, or spec.rangeEnd is not after it")
    shown = msgspec.structs.replace(spec, token="" if token else msgspec.UNSET)
    kind = PermissionType[spec.permission]
    subject, position = (user, spec.groups), spec.min_revision or ""
    return RangeReviewRequest(shown, subject, token, kind, span, position)


def render_range_review(
    request: RangeReviewRequest,
    access: AccessDecision,
    revision: int,
    refusal: str = "",
    *,
    store_revision: str,
) -> bytes:
    """Render the answer.

    ``revision`` is the auth revision, ``store_revision`` the position of the store: an opaque text,
    to be sent as ``minRevision``. ``refusal`` is why the token is refused, empty if it is not.
    """
    gaps = [to_wire(gap) for gap in access.uncovered]
    if refusal:
        reason = f"the token is refused: {refusal}"
    elif access.allowed:
        reason = f"granted by role {' and '.join(access.roles)}"
    else:
        reason = f"no role grants {request.kind.name} on all of the range"
    status = {
        "allowed": access.allowed,
        "reason": reason,
        "roles": access.roles,
        "uncovered": [{"key": key, "rangeEnd": end} for key, end in gaps],
        "revision": revision,
        "storeRevision": store_revision,
    }
    return encode_review(KIND, API_VERSION, request.spec, status)
