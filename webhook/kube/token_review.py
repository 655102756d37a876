"""TokenReview: bytes in, bytes out.

>>> body = b'{"spec": {"token": "abc", "audiences": ["vault"]}}'
>>> request = parse_token_review(body, "v1")
>>> request
TokenReviewRequest('authentication.k8s.io/v1', audiences=('vault',))
>>> from webhook.errors import MalformedTokenError
>>> from webhook.token.outcome import Refused
>>> outcome = Refused(MalformedTokenError("it is not three segments separated by dots"))
>>> msgspec.json.decode(render_token_review(request, outcome))["status"]
{'authenticated': False, 'error': 'it is not three segments separated by dots'}

Source: kubernetes ``k8s.io/api/authentication/{v1,v1beta1}`` and ``pkg/registry/authentication/
tokenreview/storage.go``.
"""

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from webhook.errors import ClockError, InvalidReviewError
from webhook.kube.bodies import (
    MAX_VALUES,
    REASON_ANNOTATION,
    ReviewMetadata,
    ReviewObject,
    encode,
    read_members,
    read_object,
    read_texts,
)
from webhook.kube.protobuf import Field, object_message
from webhook.token.outcome import Authenticated, Outcome, groups_of

AUTHENTICATION_GROUP: Final = "authentication.k8s.io"
TOKEN_REVIEW_PATH: Final = f"/apis/{AUTHENTICATION_GROUP}/v1/tokenreviews"
AUTHENTICATION_VERSIONS: Final = ("v1", "v1beta1")
SKEW_ANNOTATION: Final = "leeway.dev/skew-seconds"

_CREDENTIAL_ID: Final = "authentication.kubernetes.io/credential-id"
_NODE_NAME: Final = "authentication.kubernetes.io/node-name"
_NODE_UID: Final = "authentication.kubernetes.io/node-uid"
_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_STALE_TOKEN: Final = "leeway.dev/stale-token"
_ASCII_WHITE_SPACE: Final = " \t\n\r\v\f"
_KIND: Final = "TokenReview"
_API_VERSIONS: Final = tuple(f"{AUTHENTICATION_GROUP}/{v}" for v in AUTHENTICATION_VERSIONS)
_SPEC_FIELDS: Final = ("token", "audiences")


class TokenReviewRequest(msgspec.Struct, frozen=True, gc=False):
    """A TokenReview as requested: a token, never empty, and the audiences to review it for."""

    api_version: str
    token: str
    audiences: tuple[str, ...]

    def __repr__(self) -> str:
        return f"TokenReviewRequest({self.api_version!r}, audiences={self.audiences!r})"


class _Spec(msgspec.Struct, omit_defaults=True, kw_only=True):
    # Always empty. The types of some clients require it in the answer.
    token: str
    audiences: tuple[str, ...] = ()


class Identity(msgspec.Struct, frozen=True, gc=False):
    """The subject of a token, as in the ``user`` of a TokenReview."""

    username: str
    uid: str
    groups: tuple[str, ...]
    extra: dict[str, tuple[str, ...]]


class _Status(msgspec.Struct, omit_defaults=True):
    authenticated: bool
    user: Identity | None = None
    audiences: tuple[str, ...] = ()
    error: str = ""


MESSAGE: Final = object_message({1: Field("token"), 2: Field("audiences", repeated=True)})
"""The same as a protocol buffer: ``k8s.io/api/authentication/v1/generated.proto``."""


# What kube-apiserver sends, member for member.
class _SentMetadata(msgspec.Struct):
    creation: UnsetType | None = msgspec.field(default=UNSET, name="creationTimestamp")


class _SentSpec(msgspec.Struct, omit_defaults=True):
    token: str
    audiences: tuple[str, ...] = ()


class _Empty(msgspec.Struct):
    pass


class _SentStatus(msgspec.Struct):
    user: _Empty


class _Sent(msgspec.Struct, rename={"api_version": "apiVersion"}):
    kind: str
    api_version: str
    metadata: _SentMetadata
    spec: _SentSpec
    status: _SentStatus


_sent_decoder = msgspec.json.Decoder(_Sent)


def parse_token_review(body: bytes, version: str) -> TokenReviewRequest:
    """Parse the body of a request to the path of a version (``v1`` or ``v1beta1``).

    The answer has the version of the body, or that of the path if the body has none, because
    kube-apiserver posts v1beta1 to any URL unless a flag says v1. ``status`` and unknown members
    are ignored. Raises InvalidReviewError.
    """
    api_version, token, audiences = _read_sent(body) or _read_any(body, version)
    token = token.strip(_ASCII_WHITE_SPACE)
    if not token:
        raise InvalidReviewError("token is required for TokenReview in authentication")
    return TokenReviewRequest(api_version, token, audiences)


def _read_sent(body: bytes) -> tuple[str, str, tuple[str, ...]] | None:
    """Read a body with the members that kube-apiserver sends; None for any other."""
    if len(body) > MAX_VALUES:
        return None
    try:
        sent = _sent_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    # If it encodes to the same bytes, no member is duplicated or unknown.
    if encode(sent) != body.rstrip(b"\n"):
        return None
    if sent.kind != _KIND or sent.api_version not in _API_VERSIONS:
        return None
    return sent.api_version, sent.spec.token, sent.spec.audiences


def _read_any(body: bytes, version: str) -> tuple[str, str, tuple[str, ...]]:
    own = f"{AUTHENTICATION_GROUP}/{version}"
    review = read_object(body, _KIND, own, *(v for v in _API_VERSIONS if v != own))
    spec = read_members(review, "spec", _SPEC_FIELDS, "a token")
    token = spec.get("token", "")
    if not isinstance(token, str):
        raise InvalidReviewError("spec.token must be a string")
    return review["apiVersion"], token, read_texts(spec, "audiences", "spec.")


def identity_of(outcome: Authenticated, role_groups: tuple[str, ...] = ()) -> Identity:
    """Return the subject of a token, as kube-apiserver itself describes it.

    ``role_groups`` are added to the subject's own groups. Source: kubernetes
    ``apiserver/pkg/authentication/serviceaccount/util.go``, ``UserInfo``.
    """
    claims = outcome.claims
    extra: dict[str, tuple[str, ...]] = {}
    if claims.jti:
        extra[_CREDENTIAL_ID] = (f"JTI={claims.jti}",)
    if claims.node is not None:
        extra[_NODE_NAME] = (claims.node.name,)
        if claims.node.uid:
            extra[_NODE_UID] = (claims.node.uid,)
    if claims.pod is not None:
        extra[_POD_NAME] = (claims.pod.name,)
        extra[_POD_UID] = (claims.pod.uid,)
    if outcome.stale_seconds is not None:
        note = f"seconds after warning threshold: {outcome.stale_seconds}"
        extra[_STALE_TOKEN] = (f"subject: {claims.subject}, {note}",)
    # The subject was compared with namespace and name, so it is the user name.
    uid = claims.service_account.uid
    return Identity(claims.subject, uid, groups_of(claims.namespace) + role_groups, extra)


def render_token_review(
    request: TokenReviewRequest, outcome: Outcome, role_groups: tuple[str, ...] = ()
) -> bytes:
    """Render the answer in the version of the request. The token is not sent back.

    ``role_groups`` are added to the subject's own groups.
    """
    if isinstance(outcome, Authenticated):
        status = _Status(True, identity_of(outcome, role_groups), outcome.audiences)
        annotations = {}
    else:
        error = outcome.error
        status = _Status(False, error=str(error) if error.is_ours else "")
        annotations = {REASON_ANNOTATION: error.reason.value}
        if isinstance(error, ClockError):
            annotations[SKEW_ANNOTATION] = str(error.skew_seconds)
    return encode(
        ReviewObject(
            _KIND,
            request.api_version,
            ReviewMetadata(None, annotations),
            _Spec(token="", audiences=request.audiences),
            status,
        )
    )
