"""TokenRequest: bytes in, bytes out.

Sources: kubernetes ``k8s.io/api/authentication/v1`` and ``pkg/registry/core/serviceaccount/storage/
token.go``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from keys.messages import utc
from webhook.errors import InvalidReviewError
from webhook.kube.bodies import (
    ReviewObject,
    encode,
    read_members,
    read_object,
    read_text,
    read_texts,
    refuse_other_case,
)
from webhook.kube.protobuf import Field, Message, object_message
from webhook.kube.token_review import AUTHENTICATION_GROUP
from webhook.token.issuer import IssuedToken

API_VERSION: Final = f"{AUTHENTICATION_GROUP}/v1"
KIND: Final = "TokenRequest"
_SPEC_FIELDS: Final = ("audiences", "boundObjectRef", "expirationSeconds")
_REFERENCE_FIELDS: Final = ("kind", "apiVersion", "name", "uid")
_METADATA_FIELDS: Final = ("name", "namespace", "uid")
_FIELD: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_WARNINGS: Final = 8
_REFERENCE: Final = Message({n: Field(name) for n, name in enumerate(_REFERENCE_FIELDS, 1)})
MESSAGE: Final = object_message(
    {
        1: Field("audiences", repeated=True),
        3: Field("boundObjectRef", _REFERENCE),
        4: Field("expirationSeconds", "int64"),
    }
)
"""The same as a protocol buffer: ``k8s.io/api/authentication/v1/generated.proto``."""


class BoundObjectReference(
    msgspec.Struct, frozen=True, omit_defaults=True, rename={"api_version": "apiVersion"}
):
    """The object that a token is to be bound to; members are empty if the request omits them."""

    kind: str = ""
    api_version: str = ""
    name: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A TokenRequest as requested, for the service account ``namespace``/``name`` of the URL.

    ``uid``, ``sent_namespace`` and ``sent_name`` are those of the body's metadata.
    ``unknown_fields`` of ``spec`` have no effect.
    """

    namespace: str
    name: str
    uid: str = ""
    audiences: tuple[str, ...] = ()
    expiration_seconds: int | None = None
    bound: BoundObjectReference | None = None
    sent_namespace: str = ""
    sent_name: str = ""
    unknown_fields: tuple[str, ...] = ()


class _Metadata(msgspec.Struct, rename={"created": "creationTimestamp"}):
    name: str
    namespace: str
    uid: str
    created: str


class _Spec(msgspec.Struct, rename="camel"):
    audiences: tuple[str, ...]
    expiration_seconds: int
    # Null if the token is not bound, as Go's encoder writes it.
    bound_object_ref: BoundObjectReference | None


class _Status(msgspec.Struct, rename="camel"):
    token: str
    expiration_timestamp: str


def parse_token_request(body: bytes, namespace: str, name: str) -> TokenRequest:
    """Parse the body of a request for a token of a service account; only types are checked.

    All members are optional; ``status`` and other members of ``metadata`` are ignored. Raises
    InvalidReviewError.
    """
    value = read_object(body, KIND, API_VERSION)
    metadata = value.get("metadata") or {}
    refuse_other_case(metadata, _METADATA_FIELDS, "metadata.")
    sent_name, sent_namespace, uid = (
        read_text(metadata, field, "metadata.") for field in _METADATA_FIELDS
    )
    spec: Mapping[str, Any] = {}
    if value.get("spec") is not None:
        spec = read_members(value, "spec", _SPEC_FIELDS, ", ".join(_SPEC_FIELDS))
    audiences = read_texts(spec, "audiences", "spec.")
    seconds = spec.get("expirationSeconds")
    if seconds is not None and (type(seconds) is not int or abs(seconds) >= 1 << 63):
        raise InvalidReviewError("spec.expirationSeconds must be a whole number of seconds")
    unknown = _unknown(spec, _SPEC_FIELDS, "spec.")
    bound = None
    if spec.get("boundObjectRef") is not None:
        fields, path = _REFERENCE_FIELDS, "spec.boundObjectRef."
        reference = read_members(spec, "boundObjectRef", fields, ", ".join(fields), "spec.")
        bound = BoundObjectReference(*[read_text(reference, field, path) for field in fields])
        unknown += _unknown(reference, fields, path)
    return TokenRequest(
        namespace,
        name,
        uid,
        audiences,
        seconds,
        bound,
        sent_namespace,
        sent_name,
        tuple(unknown[:_MAX_WARNINGS]),
    )


def _unknown(members: Mapping[str, object], fields: tuple[str, ...], path: str) -> list[str]:
    # They become a Warning header, so that at least a misspelt limit is pointed out.
    return [path + name for name in members if name not in fields and _FIELD.fullmatch(name)]


def render_token_request(request: TokenRequest, issued: IssuedToken) -> bytes:
    """Render the answer, the only one that contains a token."""
    created = issued.claims.issued_at or 0
    expires = utc(created + issued.granted_seconds)
    return encode(
        ReviewObject(
            KIND,
            API_VERSION,
            _Metadata(request.name, request.namespace, request.uid, utc(created)),
            _Spec(issued.claims.audiences, issued.granted_seconds, request.bound),
            _Status(issued.token, expires),
        )
    )
