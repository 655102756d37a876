"""Errors of libraries in plain words, from the real errors of each library."""

import ssl
from typing import Annotated

import msgspec
import pytest

from keys.encoding import decode_json
from keys.errors import EncodingError
from keys.messages import describe_os_error, describe_validation

pytestmark = pytest.mark.fault(40)


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    """A struct in another one."""

    uid: str = ""
    names: tuple[str, ...] = ()


class Outer(msgspec.Struct):
    """A struct with a field of each kind."""

    exp: Annotated[int, msgspec.Meta(le=253402300799, ge=0)] = 0
    ratio: float = 0.0
    on: bool = True
    key: bytes = b""
    name: Annotated[str, msgspec.Meta(min_length=2)] = "ab"
    inner: Inner | None = None
    needed: Annotated[list[int], msgspec.Meta(max_length=1)] = []


class Needs(msgspec.Struct, rename="camel"):
    """A struct with a required field."""

    range_end: str


VALIDATION = [
    (Outer, "text", "it must be an object, not a string"),
    (Outer, {"exp": "1"}, "exp must be a whole number, not a string"),
    (Outer, {"exp": 253402300800}, "exp must be a whole number of at most 253402300799"),
    (Outer, {"exp": -1}, "exp must be a whole number of at least 0"),
    (Outer, {"ratio": None}, "ratio must be a number, not null"),
    (Outer, {"on": 1}, "on must be true or false, not a whole number"),
    (Outer, {"key": "%"}, "key: Invalid base64 encoded string"),
    (Outer, {"name": "a"}, "name must be a string of at least 2 characters"),
    (Outer, {"needed": [1, 2]}, "needed must be a list of at most 1 entries"),
    (Outer, {"inner": []}, "inner must be an object or null, not a list"),
    (Outer, {"inner": {"uid": 1}}, "inner.uid must be a string, not a whole number"),
    (
        Outer,
        {"inner": {"names": ["a", 1]}},
        "inner.names[1] must be a string, not a whole number",
    ),
    (Outer, {"inner": {"x": 1}}, "unknown field inner.x"),
    (Needs, {}, "rangeEnd is missing"),
    (dict[str, Needs], {"a": {}}, "[...].rangeEnd is missing"),
]


@pytest.mark.parametrize(("kind", "value", "words"), VALIDATION, ids=[c[2] for c in VALIDATION])
def test_msgspec(kind: type, value: object, words: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(value, kind)
    assert describe_validation(caught.value) == words
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(msgspec.json.encode(value), type=kind)
    assert describe_validation(caught.value) == words


DECODING = [
    (b"", "not JSON: it ends too early"),
    (b"[1", "not JSON: it ends too early"),
    (b"{a}", "not JSON: object keys must be strings at byte 1"),
    (b"[1]]", "not JSON: trailing characters at byte 4"),
    (b'"\xff"', "not JSON: not UTF-8"),
    ('{"a": "\ud800"}'.encode("utf-16", "surrogatepass"), "not JSON: invalid character at byte 0"),
]


@pytest.mark.parametrize(("data", "words"), DECODING, ids=[ascii(c[0]) for c in DECODING])
def test_json(data: bytes, words: str) -> None:
    with pytest.raises(EncodingError) as caught:
        decode_json(data)
    assert str(caught.value) == words


OS_ERRORS = [
    (FileNotFoundError(2, "No such file or directory", "/a/b"), "/a/b: No such file or directory"),
    (PermissionError(1, "Operation not permitted"), "Operation not permitted"),
    (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
    (TimeoutError("timed out"), "timed out"),
    (OSError(), "OSError"),
    (
        ssl.SSLCertVerificationError(
            1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: expired (_ssl.c:1006)"
        ),
        "certificate verify failed: expired",
    ),
]


@pytest.mark.parametrize(("error", "words"), OS_ERRORS, ids=[c[1] for c in OS_ERRORS])
def test_the_operating_system(error: OSError, words: str) -> None:
    assert describe_os_error(error) == words
