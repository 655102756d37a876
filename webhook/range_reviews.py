"""RangeAccessReview: bytes in, bytes out."""

from dataclasses import dataclass
from typing import Final

import msgspec

from keys.encoding import decode_json
from keys.errors import EncodingError
from webhook.errors import InvalidReviewError
from webhook.etcd_wire import require_short_keys
from webhook.rbac.model import PermissionType
from webhook.rbac.ranges import Range, from_wire, to_wire

API_VERSION: Final = "leeway.dev/v1"
KIND: Final = "RangeAccessReview"


class RangeAccessSpec(msgspec.Struct, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """What is asked: may ``user``, with ``groups``, read or write a key or a range of keys."""

    user: str
    groups: tuple[str, ...] = ()
    permission: str
    key: bytes
    range_end: bytes = b""


class _Review(msgspec.Struct, rename={"api_version": "apiVersion"}):
    spec: RangeAccessSpec
    kind: str = KIND
    api_version: str = API_VERSION


@dataclass(frozen=True, slots=True)
class RangeAccessRequest:
    """A review that has been checked: the spec as it came, and what it means."""

    spec: RangeAccessSpec
    kind: PermissionType
    span: Range


def parse_range_review(body: bytes) -> RangeAccessRequest:
    """Parse the body of a request. Raises InvalidReviewError."""
    try:
        review = msgspec.convert(decode_json(body), _Review)
    except (EncodingError, msgspec.ValidationError) as error:
        raise InvalidReviewError(f"this is not a {KIND}: {error}") from error
    for name, found, served in (
        ("kind", review.kind, KIND),
        ("apiVersion", review.api_version, API_VERSION),
    ):
        if found != served:
            raise InvalidReviewError(f"{name} is {found[:64]!r}; this path serves {served!r}")
    spec = review.spec
    if spec.permission not in ("READ", "WRITE"):
        raise InvalidReviewError(
            f"spec.permission is {spec.permission[:32]!r}; READ or WRITE is allowed"
        )
    require_short_keys(key=spec.key, rangeEnd=spec.range_end)
    span = from_wire(spec.key, spec.range_end)
    if not spec.user:
        raise InvalidReviewError("spec.user is empty; name a user")
    if not spec.key or (span.end is not None and span.end <= span.start):
        raise InvalidReviewError("spec.key is empty, or spec.rangeEnd is not after it")
    return RangeAccessRequest(spec, PermissionType[spec.permission], span)


def render_range_review(
    request: RangeAccessRequest,
    roles: tuple[str, ...],
    uncovered: tuple[Range, ...],
    revision: int,
) -> bytes:
    """Render the answer; ``uncovered`` is empty where the question is allowed."""
    allowed = not uncovered
    gaps = [to_wire(gap) for gap in uncovered]
    if allowed:
        reason = f"granted by role {' and '.join(roles)}"
    else:
        reason = f"nothing grants {request.spec.permission} on a part of what was asked"
    return msgspec.json.encode(
        {
            "kind": KIND,
            "apiVersion": API_VERSION,
            "metadata": {"creationTimestamp": None},
            "spec": request.spec,
            "status": {
                "allowed": allowed,
                "reason": reason,
                "roles": roles,
                "uncovered": [{"key": key, "rangeEnd": end} for key, end in gaps],
                "revision": revision,
            },
        }
    )
