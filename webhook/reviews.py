"""TokenReview: bytes in, bytes out.

Source: kubernetes ``k8s.io/api/authentication/{v1,v1beta1}`` and ``pkg/registry/authentication/
tokenreview/storage.go``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from keys.encoding import decode_json
from keys.errors import EncodingError
from webhook.errors import ClockError, InvalidReviewError
from webhook.outcome import Authenticated, Outcome

AUTHENTICATION_GROUP: Final = "authentication.k8s.io"
AUTHENTICATION_VERSIONS: Final = ("v1", "v1beta1")
REASON_ANNOTATION: Final = "leeway.dev/reason"
SKEW_ANNOTATION: Final = "leeway.dev/skew-seconds"

_ASCII_WHITE_SPACE: Final = " \t\n\r\v\f"
_REVIEW_FIELDS: Final = ("kind", "apiVersion", "metadata", "spec", "status")
_SPEC_FIELDS: Final = ("token", "audiences")


@dataclass(frozen=True, slots=True)
class TokenReviewRequest:
    """What a TokenReview asks: a token, never empty, and the audiences it is to be for."""

    api_version: str
    token: str
    audiences: tuple[str, ...]

    def __repr__(self) -> str:
        return f"TokenReviewRequest({self.api_version!r}, audiences={self.audiences!r})"


class _Metadata(msgspec.Struct, omit_defaults=True):
    creation: None = msgspec.field(name="creationTimestamp")
    annotations: dict[str, str] = {}


class _Spec(msgspec.Struct, omit_defaults=True, kw_only=True):
    # Always empty, and there because clients whose types require it read the answer too.
    token: str
    audiences: tuple[str, ...] = ()


class _User(msgspec.Struct):
    username: str
    uid: str
    groups: tuple[str, ...]
    extra: dict[str, tuple[str, ...]]


class _Status(msgspec.Struct, omit_defaults=True):
    authenticated: bool
    user: _User | None = None
    audiences: tuple[str, ...] = ()
    error: str = ""


class _TokenReview(msgspec.Struct, rename={"api_version": "apiVersion"}):
    kind: str
    api_version: str
    metadata: _Metadata
    spec: _Spec
    status: _Status


_encoder = msgspec.json.Encoder()


def parse_token_review(body: bytes, version: str) -> TokenReviewRequest:
    """Parse the body of a request to the given version (``v1`` or ``v1beta1``).

    ``kind`` and ``apiVersion`` may be left out, as clients do that leave them to the URL;
    ``status`` and members that are not known are ignored. Raises InvalidReviewError.
    """
    api_version = f"{AUTHENTICATION_GROUP}/{version}"
    try:
        review = decode_json(body)
    except EncodingError as error:
        raise InvalidReviewError(f"the request body is {error}; send a TokenReview") from error
    if not isinstance(review, dict):
        raise InvalidReviewError("the request body is not a JSON object; send a TokenReview")
    _refuse_other_case(review, _REVIEW_FIELDS, "")
    _expect(review, "kind", "TokenReview")
    _expect(review, "apiVersion", api_version)
    if not isinstance(review.get("metadata", {}), dict | None):
        raise InvalidReviewError("metadata must be an object")
    spec = review.get("spec")
    if not isinstance(spec, dict):
        raise InvalidReviewError("spec must be an object with a token")
    _refuse_other_case(spec, _SPEC_FIELDS, "spec.")
    token = spec.get("token", "")
    if not isinstance(token, str):
        raise InvalidReviewError("spec.token must be a string")
    token = token.strip(_ASCII_WHITE_SPACE)
    if not token:
        raise InvalidReviewError("token is required for TokenReview in authentication")
    audiences = spec.get("audiences") or []
    if not isinstance(audiences, list) or not all(type(entry) is str for entry in audiences):
        raise InvalidReviewError("spec.audiences must be a list of strings")
    return TokenReviewRequest(api_version, token, tuple(audiences))


def render_token_review(request: TokenReviewRequest, outcome: Outcome) -> bytes:
    """Render the answer in the version of the request. The token is not sent back."""
    if isinstance(outcome, Authenticated):
        identity = outcome.identity
        user = _User(identity.username, identity.uid, identity.groups, identity.extra)
        status = _Status(True, user, outcome.audiences)
        annotations = {}
    else:
        error = outcome.error
        status = _Status(False, error=str(error) if error.is_ours else "")
        annotations = {REASON_ANNOTATION: error.reason.value}
        if isinstance(error, ClockError):
            annotations[SKEW_ANNOTATION] = str(error.skew_seconds)
    return _encoder.encode(
        _TokenReview(
            "TokenReview",
            request.api_version,
            _Metadata(None, annotations),
            _Spec(token="", audiences=request.audiences),
            status,
        )
    )


def _expect(review: Mapping[str, object], field: str, served: str) -> None:
    found = review.get(field, "")
    if found not in ("", None, served):
        shown = repr(found[:64]) if isinstance(found, str) else "not a string"
        raise InvalidReviewError(f"{field} is {shown}; this path serves {served!r}")


def _refuse_other_case(members: Mapping[str, object], fields: tuple[str, ...], path: str) -> None:
    # Go's lenient decoders match names in any case; two readers of one body must not disagree.
    for name in members:
        if name not in fields:
            for field in fields:
                if name.lower() == field.lower():
                    raise InvalidReviewError(
                        f"unknown field {path}{name}; it is written {path}{field}"
                    )
