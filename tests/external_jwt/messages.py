"""The messages of ExternalJWTSigner v1, encoded and decoded by hand.

Source: KEP-740 for the fields, protobuf's "Encoding" page for the wire. As in protobuf an unknown
field is skipped; a known field of another wire type, or a message that is cut, is a ValueError.
"""

from collections.abc import Iterator
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: 8, FIXED32: 4}


@dataclass(frozen=True, slots=True)
class Signed:
    """SignJWTResponse."""

    header: str
    signature: str


@dataclass(frozen=True, slots=True)
class Key:
    """A key of FetchKeysResponse: ``der`` is a PKIX public key."""

    kid: str
    der: bytes
    excluded: bool = False


@dataclass(frozen=True, slots=True)
class Keys:
    """FetchKeysResponse. The timestamp is in seconds and nanoseconds, or None if it is missing."""

    keys: tuple[Key, ...]
    timestamp: tuple[int, int] | None
    refresh_hint: int


def sign_request(claims: str) -> bytes:
    return _bytes_field(1, claims.encode())


def read_signed(data: bytes) -> Signed:
    texts = {1: "", 2: ""}
    for number, kind, value in _fields(data):
        if number in texts:
            texts[number] = _bytes(kind, value).decode()
    return Signed(texts[1], texts[2])


def read_keys(data: bytes) -> Keys:
    keys, timestamp, hint = [], None, 0
    for number, kind, value in _fields(data):
        if number == 1:
            keys.append(_read_key(_bytes(kind, value)))
        elif number == 2:
            timestamp = _read_timestamp(_bytes(kind, value))
        elif number == 3:
            hint = _signed_integer(kind, value)
    return Keys(tuple(keys), timestamp, hint)


def read_max_expiration(data: bytes) -> int:
    """Return ``max_token_expiration_seconds`` of a MetadataResponse."""
    seconds = 0
    for number, kind, value in _fields(data):
        if number == 1:
            seconds = _signed_integer(kind, value)
    return seconds


def _read_key(data: bytes) -> Key:
    kid, der, excluded = "", b"", False
    for number, kind, value in _fields(data):
        if number == 1:
            kid = _bytes(kind, value).decode()
        elif number == 2:
            der = _bytes(kind, value)
        elif number == 3:
            excluded = _signed_integer(kind, value) != 0
    return Key(kid, der, excluded)


def _read_timestamp(data: bytes) -> tuple[int, int]:
    seconds = nanoseconds = 0
    for number, kind, value in _fields(data):
        if number == 1:
            seconds = _signed_integer(kind, value)
        elif number == 2:
            nanoseconds = _signed_integer(kind, value)
    return seconds, nanoseconds


def _bytes(kind: int, value: int | bytes) -> bytes:
    if kind != BYTES or isinstance(value, int):
        raise ValueError(f"wire type {kind} where bytes belong")
    return value


def _signed_integer(kind: int, value: int | bytes) -> int:
    if kind != VARINT or isinstance(value, bytes):
        raise ValueError(f"wire type {kind} where an integer belongs")
    return value - (1 << 64) if value >> 63 else value


def _fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield the number, the wire type and the value of each field."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield number, kind, value
            continue
        if kind == BYTES:
            length, at = _varint(data, at)
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise ValueError(f"wire type {kind} is not used")
        if at + length > len(data):
            raise ValueError("the message is cut")
        yield number, kind, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("the message is cut")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), at
    raise ValueError("an integer of more than ten bytes")


def _bytes_field(number: int, value: bytes) -> bytes:
    return _encode_varint(number << 3 | BYTES) + _encode_varint(len(value)) + value


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
