"""Reads request bodies as Kubernetes objects, strictly, and writes answers.

Source: kubernetes ``apimachinery/pkg/runtime/serializer/json``; stricter than that where two
readers of one body could disagree.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from keys.encoding import decode_json
from keys.errors import EncodingError
from webhook.errors import InvalidReviewError

MAX_VALUES: Final = 30_000
"""In one body. Each takes the event loop about a microsecond, and 3 MiB have room for a million."""
MAX_KEY_BYTES: Final = 64 * 1024
REASON_ANNOTATION: Final = "leeway.dev/reason"
_FIELDS: Final = ("kind", "apiVersion", "metadata", "spec", "status")


class ReviewMetadata(msgspec.Struct, omit_defaults=True):
    """The metadata of an answer."""

    creation: None = msgspec.field(name="creationTimestamp")
    annotations: dict[str, str] = {}


class ReviewObject(msgspec.Struct, rename={"api_version": "apiVersion"}):
    """An object as it is sent back; a member that is ``UNSET`` is left out."""

    kind: str
    api_version: str
    metadata: object
    spec: object
    status: object


encode: Final = msgspec.json.Encoder().encode


def encode_review(
    kind: str,
    api_version: str,
    spec: object,
    status: object,
    annotations: dict[str, str] | None = None,
) -> bytes:
    """Render the answer to a review."""
    metadata = ReviewMetadata(None, annotations or {})
    return encode(ReviewObject(kind, api_version, metadata, spec, status))


def decode_body(body: bytes) -> object:
    """Decode the JSON of a body. Raises EncodingError, also for more than ``MAX_VALUES`` values."""
    # Each value but the first follows one of these characters. Strings can contain them, and empty
    # objects and arrays count twice, so that such a body is refused a little early.
    if len(body) > MAX_VALUES and sum(map(body.count, (b",", b"{", b"["))) > MAX_VALUES:
        raise EncodingError(f"not JSON that is accepted: it has more than {MAX_VALUES:,} values")
    return decode_json(body)


def read_object(body: bytes, kind: str, *api_versions: str) -> dict[str, Any]:
    """Read an object of a kind, in one of the given versions.

    Clients can leave out both kind and version, because the URL implies them: the ``apiVersion`` of
    the returned object is then the first of ``api_versions``. Unknown members are kept. Raises
    InvalidReviewError.
    """
    try:
        value = decode_body(body)
    except EncodingError as error:
        raise InvalidReviewError(f"the request body is {error}; send a {kind}") from error
    if not isinstance(value, dict):
        raise InvalidReviewError(f"the request body is not a JSON object; send a {kind}")
    refuse_other_case(value, _FIELDS, "")
    _expect(value, "kind", kind)
    _expect(value, "apiVersion", *api_versions)
    if not isinstance(value.get("metadata", {}), dict | None):
        raise InvalidReviewError("metadata must be an object")
    value["apiVersion"] = value.get("apiVersion") or api_versions[0]
    return value


def read_members(
    value: Mapping[str, Any], name: str, fields: tuple[str, ...], holds: str, path: str = ""
) -> dict[str, Any]:
    """Return a member that is an object with these fields. Raises InvalidReviewError.

    ``holds`` says in an error what the object should have, and ``path`` is where it is.
    """
    members = value.get(name)
    if not isinstance(members, dict):
        raise InvalidReviewError(f"{path}{name} must be an object with {holds}")
    refuse_other_case(members, fields, f"{path}{name}.")
    return members


def read_text(members: Mapping[str, Any], field: str, path: str = "") -> str:
    """Return a member that is a string, empty if it is missing. Raises InvalidReviewError."""
    value = members.get(field)
    if value is not None and not isinstance(value, str):
        raise InvalidReviewError(f"{path}{field} must be a string")
    return value or ""


def read_texts(members: Mapping[str, Any], field: str, path: str = "") -> tuple[str, ...]:
    """Return a member that is a list of strings. Raises InvalidReviewError."""
    value = members.get(field)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(type(entry) is str for entry in value):
        raise InvalidReviewError(f"{path}{field} must be a list of strings")
    return tuple(value)


def refuse_other_case(members: Mapping[str, object], fields: tuple[str, ...], path: str) -> None:
    """Refuse members whose name differs from a field in case only. Raises InvalidReviewError."""
    # Go's lenient decoders match names in any case; two readers of one body must not disagree.
    for name in members:
        if name not in fields:
            for field in fields:
                if name.lower() == field.lower():
                    raise InvalidReviewError(
                        f"unknown field {path}{name}; it is written {path}{field}"
                    )


def require_short_keys(**keys: bytes) -> None:
    """Refuse a key that is longer than any in use. Raises InvalidReviewError."""
    for name, value in keys.items():
        if len(value) > MAX_KEY_BYTES:
            raise InvalidReviewError(
                f"{name} has {len(value)} bytes; at most {MAX_KEY_BYTES} are allowed"
            )


def _expect(value: Mapping[str, object], field: str, *served: str) -> None:
    found = value.get(field, "")
    if found not in ("", None, *served):
        shown = repr(found[:64]) if isinstance(found, str) else "not a string"
        raise InvalidReviewError(
            f"{field} is {shown}; this path serves {' and '.join(map(repr, served))}"
        )
