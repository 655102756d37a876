"""``GET /openapi/v2``: what ``kubectl create`` checks an object against.

A review cannot be patched, so kubectl finds no server-side field validation in OpenAPI v3 and falls
back to this document, which it takes as a protocol buffer only.

Source: gnostic ``openapiv2/OpenAPIv2.proto`` (Document, Schema); kubectl
``pkg/util/openapi`` and client-go ``discovery.OpenAPISchema``.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from webhook.server.flask.api_discovery import schema, served

CONTENT_TYPE: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"

_LENGTH_DELIMITED: Final = 2


def document() -> bytes:
    """Render the definitions of every kind, without paths, which kubectl does not need."""
    definitions = b"".join(
        _named(f"{name}.{version}.{resource.kind}", _schema(schema(name, version, resource)))
        for name, version, resource in served()
    )
    info = _text(1, "Leeway") + _text(2, "v1")
    return _text(1, "2.0") + _field(2, info) + _field(8, b"") + _field(9, definitions)


def _schema(value: Mapping[str, Any]) -> bytes:
    parts = [_text(19, name) for name in value.get("required", ())]
    parts.append(_field(22, _text(1, value["type"])))
    if "items" in value:
        parts.append(_field(23, _field(1, _schema(value["items"]))))
    if "properties" in value:
        members = (_named(name, _schema(member)) for name, member in value["properties"].items())
        parts.append(_field(25, b"".join(members)))
    for name, extension in value.items():
        if name.startswith("x-"):
            # JSON is YAML.
            yaml = _text(2, msgspec.json.encode(extension).decode("utf-8"))
            parts.append(_field(31, _text(1, name) + _field(2, yaml)))
    return b"".join(parts)


def _named(name: str, value: bytes) -> bytes:
    return _field(1, _text(1, name) + _field(2, value))


def _text(number: int, value: str) -> bytes:
    return _field(number, value.encode("utf-8"))


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
