"""Strict JSON and base64url: only what RFC 8259 and RFC 7515 allow.

Invariants:

1. ``decode_json`` returns a value only if no object in the text has a duplicate member.
2. ``decode_base64url`` is injective: two different texts never decode to the same bytes.

>>> decode_json(b'{"iss": "a", "iss": "b"}')
Traceback (most recent call last):
    ...
keys.errors.EncodingError: not JSON that is accepted: the member 'iss' appears twice
"""

import binascii
import json

import msgspec

from keys.errors import EncodingError
from keys.messages import describe_decoding, shown

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
# Characters outside the base64url alphabet become one outside the base64 alphabet.
_TO_STANDARD_ALPHABET = bytes.maketrans(
    bytes(range(256)),
    bytes(c if c in _ALPHABET else {45: 43, 95: 47}.get(c, 33) for c in range(256)),
)
_base64_decoder = msgspec.json.Decoder(bytes)
# Invariant 2. RFC 4648 section 3.5: the unused bits of the last character are zero.
_LAST_OF_TWO = frozenset(b"AQgw")
_LAST_OF_THREE = frozenset(b"AEIMQUYcgkosw048")


def decode_base64url(text: bytes) -> bytes:
    """Decode base64url without padding (RFC 7515 section 2).

    Raises EncodingError for padding, white space, characters of another alphabet, an impossible
    length or non-zero trailing bits.
    """
    standard = text.translate(_TO_STANDARD_ALPHABET)
    remainder = len(text) & 3
    padding = b'"'
    canonical = True
    if remainder == 2:
        canonical = text[-1] in _LAST_OF_TWO
        padding = b'=="'
    elif remainder == 3:
        canonical = text[-1] in _LAST_OF_THREE
        padding = b'="'
    elif remainder == 1:
        canonical = False
    if not canonical:
        raise EncodingError("not base64url: bits are left over at its end")
    try:
        # As a JSON string, because msgspec decodes base64 faster than binascii.
        return _base64_decoder.decode(b'"' + standard + padding)
    except msgspec.DecodeError as error:
        raise EncodingError("not base64url: a character outside A-Z a-z 0-9 - _") from error


def encode_base64url(data: bytes) -> str:
    """Encode as base64url without padding (RFC 7515 section 2)."""
    standard = binascii.b2a_base64(data, newline=False).rstrip(b"=")
    return standard.translate(bytes.maketrans(b"+/", b"-_")).decode("ascii")


def decode_json(data: bytes) -> object:
    """Decode UTF-8 JSON (RFC 8259) in which every member name of an object is unique.

    Raises EncodingError for anything else: another encoding, a byte order mark, lone surrogates,
    NaN, numbers beyond the range of a double, nesting beyond the interpreter's limit.
    """
    try:
        value: object = msgspec.json.decode(data)
        # Invariant 1. Equal text proves that no member was dropped, and is cheaper than a look at
        # each member, which is left for text that is spaced or escaped differently.
        if msgspec.json.encode(value) != data.rstrip(b"\n"):
            json.loads(data.decode("utf-8"), object_pairs_hook=_unique_members)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise EncodingError(f"not JSON: {describe_decoding(error)}") from error
    except RecursionError as error:
        raise EncodingError("not JSON that is accepted: it is nested too deep") from error
    return value


def _unique_members(pairs: list[tuple[str, object]]) -> None:
    names = {name for name, _ in pairs}
    if len(names) == len(pairs):
        return
    for name, _ in pairs:
        if name not in names:
            raise EncodingError(
                f"not JSON that is accepted: the member {shown(name, 64)} appears twice"
            )
        names.discard(name)
