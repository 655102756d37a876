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
from webhook.kube.bodies import read_object, read_text, read_texts, refuse_other_case
from webhook.kube.protobuf import IGNORED, OBJECT_META, Field, Message
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
_SPEC: Final = Message(
    {
        1: Field("audiences", repeated=True),
        3: Field("boundObjectRef", _REFERENCE),
        4: Field("expirationSeconds", "int64"),
    }
)
MESSAGE: Final = Message(
    {
        1: Field("metadata", OBJECT_META),
        2: Field("spec", _SPEC),
        3: Field("status", IGNORED),
    }
)
"""The same as a protocol buffer: ``k8s.io/api/authentication/v1/generated.proto``."""


class BoundObjectReference(
    msgspec.Struct, frozen=True, omit_defaults=True, rename={"api_version": "apiVersion"}
):
    """What a token is to be bound to; empty where the request says nothing."""

    kind: str = ""
    api_version: str = ""
    name: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What a body asks for. ``namespace`` and ``name`` are those of the URL.

    ``uid`` is the service account's where the request names one; ``sent_namespace`` and
    ``sent_name`` are those of the body. ``unknown_fields`` of ``spec`` have no effect.
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
    # Null where there is none, as Go's encoder has it.
    bound_object_ref: BoundObjectReference | None


class _Status(msgspec.Struct, rename="camel"):
    token: str
    expiration_timestamp: str


class _TokenRequest(msgspec.Struct, rename="camel"):
    kind: str
    api_version: str
    metadata: _Metadata
    spec: _Spec
    status: _Status


def parse_token_request(body: bytes, namespace: str, name: str) -> TokenRequest:
    """Parse the body of a request for a token of a service account; only its types are checked.

    Everything may be left out; ``status`` and what else is in ``metadata`` are ignored. Raises
    InvalidReviewError.
    """
    value = read_object(body, KIND, API_VERSION)
    metadata = value.get("metadata") or {}
    refuse_other_case(metadata, _METADATA_FIELDS, "metadata.")
    sent_name, sent_namespace, uid = (
        read_text(metadata, field, "metadata.") for field in _METADATA_FIELDS
    )
    spec = _read_members(value, "spec", _SPEC_FIELDS) or {}
    audiences = read_texts(spec, "audiences", "spec.")
    seconds = spec.get("expirationSeconds")
    if seconds is not None and (type(seconds) is not int or abs(seconds) >= 1 << 63):
        raise InvalidReviewError("spec.expirationSeconds must be a whole number of seconds")
    unknown = _unknown(spec, _SPEC_FIELDS, "spec.")
    reference = _read_members(spec, "boundObjectRef", _REFERENCE_FIELDS, "spec.")
    bound = None
    if reference is not None:
        path = "spec.boundObjectRef."
        bound = BoundObjectReference(
            *[read_text(reference, field, path) for field in _REFERENCE_FIELDS]
        )
        unknown += _unknown(reference, _REFERENCE_FIELDS, path)
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


def _read_members(
    members: Mapping[str, Any], name: str, fields: tuple[str, ...], path: str = ""
) -> Mapping[str, Any] | None:
    value = members.get(name)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InvalidReviewError(f"{path}{name} must be an object with {', '.join(fields)}")
    refuse_other_case(value, fields, f"{path}{name}.")
    return value


def _unknown(members: Mapping[str, object], fields: tuple[str, ...], path: str) -> list[str]:
    # Only what fits into a header; a limit that is misspelt is then at least pointed out.
    return [path + name for name in members if name not in fields and _FIELD.fullmatch(name)]


def render_token_request(asked: TokenRequest, issued: IssuedToken) -> bytes:
    """Render the answer, the only place where a token is sent."""
    created = issued.claims.issued_at or 0
    return msgspec.json.encode(
        _TokenRequest(
            KIND,
            API_VERSION,
            _Metadata(asked.name, asked.namespace, asked.uid, utc(created)),
            _Spec(issued.claims.audiences, issued.granted_seconds, asked.bound),
            _Status(issued.token, utc(created + issued.granted_seconds)),
        )
    )
