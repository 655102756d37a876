import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keys.encoding import decode_base64url, decode_json, encode_base64url
from keys.errors import EncodingError
from tests.support import b64

ASCII = st.text(st.characters(max_codepoint=127))
BASE64URL = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('abc\\"é'), inner),
)


@given(st.binary())
def test_base64url_round_trip(data: bytes) -> None:
    text = encode_base64url(data)
    assert text == b64(data)
    assert decode_base64url(text.encode()) == data


@settings(max_examples=500)
@given(ASCII | BASE64URL)
@example("AB")
@example("AA==")
@example("+/+/")
def test_base64url_has_one_text_for_each_value(text: str) -> None:
    try:
        data = decode_base64url(text.encode("ascii"))
    except EncodingError:
        return
    assert encode_base64url(data) == text


@given(st.binary())
def test_base64url_of_any_bytes_never_crashes(data: bytes) -> None:
    try:
        decoded = decode_base64url(data)
    except EncodingError:
        return
    assert encode_base64url(decoded).encode() == data


def test_base64url_of_two_characters_has_exactly_256_texts() -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    decoded = set()
    for first in alphabet:
        for second in alphabet:
            try:
                decoded.add(decode_base64url((first + second).encode()))
            except EncodingError:
                continue
    assert decoded == {bytes([value]) for value in range(256)}


@pytest.mark.parametrize(
    "text",
    [b"A", b"AAAAA", b"=", b"AA=", b"AA==", b"AAA=", b"A+AA", b"A/AA", b"A AA", b"AAA\n", b"AB",
     b"AAB", b"\0AAA", b"\xff", b"AA.A", b"!!!!", b"A!AA"],
)  # fmt: skip
def test_base64url_refuses(text: bytes) -> None:
    with pytest.raises(EncodingError):
        decode_base64url(text)


@given(JSON_VALUES, st.sampled_from([None, 1]), st.booleans())
def test_json_round_trip(value: object, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert decode_json(text.encode()) == value


@given(st.binary(max_size=40))
def test_json_of_any_bytes_never_crashes(data: bytes) -> None:
    try:
        value = decode_json(data)
    except EncodingError:
        return
    assert value == json.loads(data.decode("utf-8"))


@pytest.mark.parametrize("spaced", [False, True], ids=["compact", "spaced"])
@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        '{"a":1,"b":2,"a":3}',
        '{"a":1,"\\u0061":1}',
        '[{"a":1,"a":1}]',
        '{"x":{"a":1,"a":1}}',
        '{"x":[[{"y":{"a":1,"a":1}}]]}',
        '{"":1,"":1}',
        '{"a":{"b":1},"a":{"b":1}}',
        '{"é":1,"\\u00e9":1}',
    ],
)
def test_json_refuses_a_member_twice(text: str, spaced: bool) -> None:
    text = text.replace(",", ", ").replace(":", " : ") if spaced else text
    with pytest.raises(EncodingError, match="appears twice"):
        decode_json(text.encode())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a":1,"b":{"a":1}}', {"a": 1, "b": {"a": 1}}),
        ('[{"a":1},{"a":1}]', [{"a": 1}, {"a": 1}]),
        ('{ "a" : 1 }\n', {"a": 1}),
        ('{"a":1,"A":2}', {"a": 1, "A": 2}),
        ('"\\u0041\\/"', "A/"),
        ("1.0", 1.0),
        ("-0", 0),
    ],
)
def test_json_accepts(text: str, value: object) -> None:
    assert decode_json(text.encode()) == value


@pytest.mark.parametrize(
    "data",
    [
        b"", b" ", b"{", b"nul", b"NaN", b"Infinity", b"-Infinity", b"1e400", b"01", b"+1", b".5",
        b"'a'", b'"\n"', b'"\\x41"', b'"\\ud800"', b'"\xff"', b'{"a":1,}', b"[1,]", b"{a:1}",
        b"1 2", b"\xef\xbb\xbf1", "1".encode("utf-16"), b"[" * 100_000, b'{"a":' * 100_000,
    ],
    ids=lambda data: repr(data[:12]),
)  # fmt: skip
def test_json_refuses(data: bytes) -> None:
    with pytest.raises(EncodingError) as raised:
        decode_json(data)
    assert "\n" not in str(raised.value)
