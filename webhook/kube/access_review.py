"""SubjectAccessReview, SelfSubjectAccessReview and SelfSubjectReview: bytes in, bytes out.

Sources: kubernetes ``k8s.io/api/{authorization,authentication}/v1``, ``k8s.io/api/authorization/
v1beta1`` and ``pkg/apis/authorization/validation``.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import UNSET

from webhook.errors import Cause, InvalidObjectError, InvalidReviewError
from webhook.kube.bodies import (
    REASON_ANNOTATION,
    encode_review,
    read_members,
    read_object,
    read_text,
    read_texts,
)
from webhook.kube.protobuf import IGNORED, OBJECT_META, Field, Message, object_message
from webhook.kube.request_keys import Attributes, NonResourceAttributes, ResourceAttributes
from webhook.kube.token_review import AUTHENTICATION_GROUP

AUTHORIZATION_GROUP: Final = "authorization.k8s.io"
ACCESS_REVIEW_PATH: Final = f"/apis/{AUTHORIZATION_GROUP}/v1/subjectaccessreviews"
AUTHORIZATION_VERSIONS: Final = ("v1", "v1beta1")
SUBJECT_KIND: Final = "SubjectAccessReview"
SELF_KIND: Final = "SelfSubjectAccessReview"
WHO_AM_I_KIND: Final = "SelfSubjectReview"
# The versions of a SubjectAccessReview, and what each calls the list of groups.
_GROUPS_FIELDS: Final = {
    f"{AUTHORIZATION_GROUP}/v1": "groups",
    f"{AUTHORIZATION_GROUP}/v1beta1": "group",
}
_WHO_AM_I_API_VERSION: Final = f"{AUTHENTICATION_GROUP}/v1"
_ATTRIBUTES: Final = ("resourceAttributes", "nonResourceAttributes")
_SUBJECT_FIELDS: Final = (*_ATTRIBUTES, "user", "extra", "uid")
_PATH_FIELDS: Final = ("verb", "path")
_RESOURCE_FIELDS: Final = ("verb", "group", "resource", "subresource", "namespace", "name")
# They narrow a request; the engine decides on the request without them.
_SELECTORS: Final = ("fieldSelector", "labelSelector")


class AccessReviewRequest(msgspec.Struct, frozen=True, gc=False):
    """A review as requested: is ``user``, or a member of ``groups``, allowed to make a request?

    Both are empty in a SelfSubjectAccessReview. ``spec`` is sent back unchanged.
    """

    kind: str
    api_version: str
    request: Attributes
    spec: Mapping[str, Any]
    user: str = ""
    groups: tuple[str, ...] = ()


class _Status(msgspec.Struct, omit_defaults=True):
    allowed: bool
    reason: str = ""


class UserInfo(msgspec.Struct, omit_defaults=True):
    """A user as Kubernetes shows it (``k8s.io/api/authentication/v1``)."""

    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = {}


_RESOURCE_ATTRIBUTES: Final = Message(
    {
        1: Field("namespace"),
        2: Field("verb"),
        3: Field("group"),
        4: Field("version"),
        5: Field("resource"),
        6: Field("subresource"),
        7: Field("name"),
        8: Field("fieldSelector", IGNORED),
        9: Field("labelSelector", IGNORED),
    }
)
_SELF_SPEC: Final = {
    1: Field("resourceAttributes", _RESOURCE_ATTRIBUTES),
    2: Field("nonResourceAttributes", Message({1: Field("path"), 2: Field("verb")})),
}


def _subject_review(groups: str) -> Message:
    return object_message(
        _SELF_SPEC
        | {
            3: Field("user"),
            4: Field(groups, repeated=True),
            5: Field("extra", IGNORED),
            6: Field("uid"),
        }
    )


_SUBJECT_MESSAGES: Final = {
    version: _subject_review(groups) for version, groups in _GROUPS_FIELDS.items()
}
_OTHER_MESSAGES: Final = {
    SELF_KIND: object_message(_SELF_SPEC),
    WHO_AM_I_KIND: Message({1: Field("metadata", OBJECT_META), 2: Field("status", IGNORED)}),
}


@cache
def message_of(kind: str, version: str = "v1") -> Message:
    """Return the protocol buffer of a kind, for the path of a version.

    Source: ``generated.proto`` next to the types.
    """
    if kind != SUBJECT_KIND:
        return _OTHER_MESSAGES[kind]
    own = _SUBJECT_MESSAGES[f"{AUTHORIZATION_GROUP}/{version}"]
    return replace(own, versions=_SUBJECT_MESSAGES)


def parse_access_review(body: bytes, kind: str, version: str = "v1") -> AccessReviewRequest:
    """Parse the body of a SubjectAccessReview or SelfSubjectAccessReview.

    The answer to a SubjectAccessReview has the version of the body, or that of the path if the body
    has none, because kube-apiserver posts v1beta1 to any URL unless a flag says v1. Raises
    InvalidReviewError, and InvalidObjectError for a review without attributes or with both kinds.
    """
    own = f"{AUTHORIZATION_GROUP}/{version}"
    others = (v for v in _GROUPS_FIELDS if kind == SUBJECT_KIND and v != own)
    value = read_object(body, kind, own, *others)
    api_version = value["apiVersion"]
    groups_field = _GROUPS_FIELDS[api_version]
    fields = (*_SUBJECT_FIELDS, groups_field) if kind == SUBJECT_KIND else _ATTRIBUTES
    spec = read_members(value, "spec", fields, "resourceAttributes or nonResourceAttributes")
    user = ""
    groups: tuple[str, ...] = ()
    causes = []
    if kind == SUBJECT_KIND:
        user, groups = read_text(spec, "user", "spec."), read_texts(spec, groups_field, "spec.")
        _check_extra(spec)
        if not user and not groups:
            causes.append(_invalid("user", '""', "at least one of user or group must be specified"))
    resource, path = (spec.get(name) for name in _ATTRIBUTES)
    if (resource is None) == (path is None):
        causes.insert(0, _both_or_none(path))
    if causes:
        raise InvalidObjectError(kind, AUTHORIZATION_GROUP, "", causes)
    return AccessReviewRequest(kind, api_version, _attributes(spec), spec, user, groups)


def _check_extra(spec: Mapping[str, Any]) -> None:
    # No decision depends on it, but it is sent back, so its types are checked.
    read_text(spec, "uid", "spec.")
    extra = spec.get("extra")
    if extra is None:
        return
    if not isinstance(extra, dict):
        raise InvalidReviewError("spec.extra must be an object of lists of strings")
    for name in extra:
        read_texts(extra, name, "spec.extra.")


def _both_or_none(path: object) -> Cause:
    if path is None:
        why = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        return _invalid("resourceAttributes", "null", why)
    shown = msgspec.json.encode(path).decode("utf-8")[:256]
    why = "cannot be specified in combination with resourceAttributes"
    return _invalid("nonResourceAttributes", shown, why)


def _invalid(field: str, value: str, why: str) -> Cause:
    return Cause("FieldValueInvalid", f"Invalid value: {value}: {why}", f"spec.{field}")


def _attributes(spec: Mapping[str, Any]) -> Attributes:
    if spec.get("resourceAttributes") is None:
        path = "spec.nonResourceAttributes."
        members = read_members(spec, "nonResourceAttributes", _PATH_FIELDS, "a verb", "spec.")
        return NonResourceAttributes(*[read_text(members, name, path) for name in _PATH_FIELDS])
    path = "spec.resourceAttributes."
    fields = (*_RESOURCE_FIELDS, "version", *_SELECTORS)
    members = read_members(spec, "resourceAttributes", fields, "a verb", "spec.")
    read_text(members, "version", path)
    for name in _SELECTORS:
        if not isinstance(members.get(name), dict | None):
            raise InvalidReviewError(f"{path}{name} must be an object")
    return ResourceAttributes(*[read_text(members, name, path) for name in _RESOURCE_FIELDS])


def render_access_review(review: AccessReviewRequest, reason: str, *, allowed: bool) -> bytes:
    """Render the answer.

    The reason why a SelfSubjectAccessReview is not allowed is an annotation, because users and
    scripts expect a plain ``no`` from ``kubectl auth can-i``.
    """
    annotations = {}
    if review.kind == SELF_KIND and not allowed:
        annotations, reason = {REASON_ANNOTATION: reason}, ""
    status = _Status(allowed, reason)
    return encode_review(review.kind, review.api_version, review.spec, status, annotations)


def parse_who_am_i(body: bytes) -> None:
    """Check the body of a SelfSubjectReview, which has no content. Raises InvalidReviewError."""
    read_object(body, WHO_AM_I_KIND, _WHO_AM_I_API_VERSION)


def render_who_am_i(user: UserInfo) -> bytes:
    """Render the answer to a SelfSubjectReview."""
    return encode_review(WHO_AM_I_KIND, _WHO_AM_I_API_VERSION, UNSET, {"userInfo": user})
