"""TokenRequest: bytes in, bytes out.

Sources: kubernetes ``k8s.io/api/authentication/v1`` and ``pkg/registry/core/serviceaccount/storage/
token.go``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from webhook.bodies import read_object, read_spec, read_text, read_texts, refuse_other_case
from webhook.errors import InvalidReviewError, IssueError
from webhook.issuer import IssuedToken
from webhook.protobuf import IGNORED, OBJECT_META, Field, Message
from webhook.reviews import AUTHENTICATION_GROUP

API_VERSION: Final = f"{AUTHENTICATION_GROUP}/v1"
KIND: Final = "TokenRequest"
_SPEC_FIELDS: Final = ("audiences", "boundObjectRef", "expirationSeconds")
_REFERENCE_FIELDS: Final = ("kind", "apiVersion", "name", "uid")
_METADATA_FIELDS: Final = ("name", "namespace", "uid")
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


class BoundObjectReference(msgspec.Struct, frozen=True, rename={"api_version": "apiVersion"}):
    """What a token is to be bound to; ``uid`` is empty where the request has none."""

    kind: str
    api_version: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class AskedToken:
    """What a body asks for. ``namespace`` and ``name`` are those of the URL.

    ``uid`` is the service account's where the request names one.
    """

    namespace: str
    name: str
    uid: str = ""
    audiences: tuple[str, ...] = ()
    expiration_seconds: int | None = None
    bound: BoundObjectReference | None = None


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


def parse_token_request(body: bytes, namespace: str, name: str) -> AskedToken:
    """Parse the body of a request for a token of a service account.

    ``kind``, ``apiVersion`` and the names may be left out; ``status`` and what else is in
    ``metadata`` are ignored. Raises InvalidReviewError, and IssueError where the names are not
    those of the URL.
    """
    value = read_object(body, KIND, API_VERSION)
    metadata = value.get("metadata") or {}
    refuse_other_case(metadata, _METADATA_FIELDS, "metadata.")
    for field, own in (("name", name), ("namespace", namespace)):
        found = read_text(metadata, field, "metadata.")
        if found and found != own:
            detail = f"must match the service account {field} if specified"
            raise IssueError(detail, f"metadata.{field}", found)
    spec = read_spec(value, _SPEC_FIELDS, "audiences and expirationSeconds, or {}")
    # A limit that is asked for in a way that is not understood must not be left out of the token.
    _refuse_unknown(spec, _SPEC_FIELDS, "spec.")
    audiences = read_texts(spec, "audiences", "spec.")
    seconds = spec.get("expirationSeconds")
    if seconds is not None and (type(seconds) is not int or abs(seconds) >= 1 << 63):
        raise InvalidReviewError("spec.expirationSeconds must be a whole number of seconds")
    return AskedToken(
        namespace,
        name,
        read_text(metadata, "uid", "metadata."),
        audiences,
        seconds,
        _read_reference(spec.get("boundObjectRef")),
    )


def _read_reference(value: object) -> BoundObjectReference | None:
    if value is None:
        return None
    path = "spec.boundObjectRef."
    if not isinstance(value, dict):
        raise InvalidReviewError("spec.boundObjectRef must be an object with kind, name and uid")
    refuse_other_case(value, _REFERENCE_FIELDS, path)
    _refuse_unknown(value, _REFERENCE_FIELDS, path)
    kind, api_version, name, uid = (read_text(value, field, path) for field in _REFERENCE_FIELDS)
    return BoundObjectReference(kind, api_version, name, uid)


def _refuse_unknown(members: Mapping[str, object], fields: tuple[str, ...], path: str) -> None:
    for name in members:
        if name not in fields:
            raise InvalidReviewError(
                f"unknown field {path}{name[:64]}; {', '.join(fields)} are known"
            )


def render_token_request(asked: AskedToken, issued: IssuedToken) -> bytes:
    """Render the answer, the only place where a token is sent."""
    created = issued.claims.issued_at or 0
    return msgspec.json.encode(
        _TokenRequest(
            KIND,
            API_VERSION,
            _Metadata(asked.name, asked.namespace, asked.uid, _rfc3339(created)),
            _Spec(issued.claims.audiences, issued.granted_seconds, asked.bound),
            _Status(issued.token, _rfc3339(created + issued.granted_seconds)),
        )
    )


def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
