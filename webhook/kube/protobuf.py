"""Converts Kubernetes objects from protocol buffers to JSON.

Go clients since Kubernetes 1.32, kubectl among them, send requests of their typed clients only in
this form, and accept JSON as the answer.

Sources: kubernetes ``apimachinery/pkg/runtime/serializer/protobuf`` (the prefix and the envelope),
``generated.proto`` of each API (the numbers of the fields), protobuf.dev's "Encoding".

Invariants:

1. Unknown fields are ignored, as in JSON: newer clients send fields that this version lacks.
2. No known field appears twice. This is stricter than protocol buffers, because two readers of one
   body could disagree.
3. The number of fields in a body is limited, because each takes the event loop about a microsecond.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from webhook.errors import InvalidReviewError

CONTENT_TYPE: Final = b"application/vnd.kubernetes.protobuf"
_PREFIX: Final = b"k8s\0"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES: Final = 10
MAX_FIELDS: Final = 10_000
"""Of one body. 3 MiB have room for 1.5 million, which would take seconds."""
IGNORED: Final = "ignored"
"""The content of a field that is skipped, however often it appears."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message: its name in JSON, and its content."""

    name: str
    holds: "Message | Literal['string', 'int64', 'ignored']" = "string"
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """The fields of a message by number.

    ``versions`` has a message for each ``apiVersion``, if the names of the fields depend on it.
    """

    fields: Mapping[int, Field]
    versions: Mapping[str, "Message"] = field(default_factory=dict)


OBJECT_META: Final = Message({1: Field("name"), 3: Field("namespace"), 5: Field("uid")})
_TYPE_META: Final = Message({1: Field("apiVersion"), 2: Field("kind")})
_ENVELOPE: Final = {1: "typeMeta", 2: "raw", 3: "contentEncoding", 4: "contentType"}


def object_message(spec: Mapping[int, Field]) -> Message:
    """Return the message of an object with metadata, a spec with these fields, and a status."""
    fields = {1: Field("metadata", OBJECT_META), 2: Field("spec", Message(spec))}
    return Message(fields | {3: Field("status", IGNORED)})


def json_of(body: bytes, message: Message) -> bytes:
    """Convert an object to JSON. Raises InvalidReviewError."""
    if not body.startswith(_PREFIX):
        raise _wrong("it does not begin with the prefix of Kubernetes objects")
    parts: dict[str, bytes] = {}
    left = iter(range(MAX_FIELDS))
    for number, wire_type, value in _fields(body[len(_PREFIX) :], left):
        name = _ENVELOPE.get(number)
        if name is None:
            continue
        if wire_type != _BYTES or name in parts or not isinstance(value, bytes):
            raise _wrong(f"{name} of its envelope appears twice or has another type")
        parts[name] = value
    if parts.get("contentEncoding") or parts.get("contentType", b"") not in (b"", CONTENT_TYPE):
        raise _wrong("the object in its envelope is encoded once more")
    kind = _read(parts.get("typeMeta", b""), _TYPE_META, "", left)
    message = message.versions.get(str(kind.get("apiVersion", "")), message)
    return msgspec.json.encode(_read(parts.get("raw", b""), message, "", left) | kind)


def _read(data: bytes, message: Message, path: str, left: Iterator[int]) -> dict[str, object]:
    found: dict[str, object] = {}
    for number, wire_type, raw in _fields(data, left):
        known = message.fields.get(number)
        # Invariant 1.
        if known is None or known.holds == IGNORED:
            continue
        value = _value(known, wire_type, raw, path + known.name, left)
        if known.repeated:
            entries = found.setdefault(known.name, [])
            assert isinstance(entries, list)  # noqa: S101 - made so one line above
            entries.append(value)
        elif known.name in found:  # Invariant 2.
            raise _wrong(f"{path}{known.name} appears twice")
        else:
            found[known.name] = value
    return found


def _value(
    known: Field, wire_type: int, raw: bytes | int, path: str, left: Iterator[int]
) -> object:
    if known.holds == "int64":
        if isinstance(raw, int) and wire_type == _VARINT:
            return raw - (1 << 64) if raw >= 1 << 63 else raw
    elif isinstance(raw, bytes) and wire_type == _BYTES:
        if isinstance(known.holds, Message):
            return _read(raw, known.holds, f"{path}.", left)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _wrong(f"{path} is not UTF-8") from error
    raise _wrong(f"{path} has another type")


def _fields(data: bytes, left: Iterator[int]) -> Iterator[tuple[int, int, bytes | int]]:
    """Yield number, wire type and value of each field; ``left`` ends where the body must."""
    place = 0
    while place < len(data):
        if next(left, None) is None:  # Invariant 3.
            raise _wrong(f"it has more than {MAX_FIELDS:,} fields")
        tag, place = _varint(data, place)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            value, place = _varint(data, place)
            yield number, wire_type, value
            continue
        if wire_type == _BYTES:
            size, place = _varint(data, place)
        elif wire_type in _FIXED_SIZES:
            size = _FIXED_SIZES[wire_type]
        else:
            raise _wrong(f"wire type {wire_type} is not served")
        if size > len(data) - place:
            raise _wrong("it is cut short")
        yield number, wire_type, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for count, byte in enumerate(data[place : place + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, place + count + 1
    raise _wrong("it is cut short, or a number in it is too long")


def _wrong(why: str) -> InvalidReviewError:
    return InvalidReviewError(f"the request body is not a protocol buffer that is accepted: {why}")
