import pytest

from tests.external_jwt.messages import (
    Key,
    Keys,
    Signed,
    read_keys,
    read_max_expiration,
    read_signed,
    sign_request,
)


def test_a_request() -> None:
    assert sign_request("e30") == b"\x0a\x03e30"
    assert sign_request("x" * 300) == b"\x0a\xac\x02" + b"x" * 300
    assert sign_request("") == b"\x0a\x00"


def test_answers() -> None:
    assert read_signed(b"\x0a\x02ab\x12\x01c") == Signed("ab", "c")
    assert read_signed(b"") == Signed("", "")
    assert read_max_expiration(b"\x08\x80\xa3\x05") == 86_400
    assert read_max_expiration(b"\x08" + b"\xff" * 9 + b"\x01") == -1
    key = b"\x0a\x03kid\x12\x02\x00\xff"
    data = b"\x0a" + bytes([len(key)]) + key
    data += b"\x0a" + bytes([len(key) + 2]) + key + b"\x18\x01"
    data += b"\x12\x04\x08\x05\x10\x07" + b"\x18\x3c"
    keys = (Key("kid", b"\x00\xff"), Key("kid", b"\x00\xff", excluded=True))
    assert read_keys(data) == Keys(keys, (5, 7), 60)
    assert read_keys(b"\x12\x00") == Keys((), (0, 0), 0)
    assert read_keys(b"") == Keys((), None, 0)


def test_unknown_fields_are_skipped() -> None:
    unknown = b"\x78\x05" + b"\x7a\x02ab" + b"\x79" + bytes(8) + b"\x7d" + bytes(4)
    assert read_signed(unknown + b"\x0a\x02ab" + unknown) == Signed("ab", "")


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",
        b"\x0a\x05ab",
        b"\x08\x05",
        b"\x0d" + bytes(4),
        b"\x0b",
        b"\x0a\x01\xff",
        b"\x80" * 11,
    ],
    ids=["no length", "cut", "an integer", "of 32 bits", "a group", "not UTF-8", "a long tag"],
)
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"wire type|cut|utf-8|ten bytes"):
        read_signed(data)


def test_bytes_where_an_integer_belongs() -> None:
    with pytest.raises(ValueError, match="where an integer belongs"):
        read_max_expiration(b"\x0a\x01a")
