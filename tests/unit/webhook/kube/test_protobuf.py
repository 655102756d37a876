"""Kubernetes objects as protocol buffers; written here by hand, byte by byte."""

import json

import pytest

from webhook.errors import InvalidReviewError
from webhook.kube.protobuf import MAX_FIELDS, Field, Message, json_of
from webhook.kube.token_request import MESSAGE

# What kubectl 1.32 sends for `create token loofah -n argo-run --audience vault --duration 20m`.
KUBECTL = bytes.fromhex(
    "6b38730"
    "00a280a1861757468656e7469636174696f6e2e6b38732e696f2f7631120c546f6b656e52657175657374"
    "12240a100a0012001a0022002a00320038004200120a0a057661756c7420b0091a040a0012001a002200"
)
EMPTY = Message({})
TEST = Message(
    {
        1: Field("text"),
        2: Field("number", "int64"),
        3: Field("list", repeated=True),
        6: Field("metadata", EMPTY),
        7: Field("parts", EMPTY, repeated=True),
    }
)


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def text(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(data)) + data


def envelope(raw: bytes, api_version: str = "v1", kind: str = "Test") -> bytes:
    type_meta = text(1, text(1, api_version) + text(2, kind))
    return b"k8s\0" + type_meta + text(2, raw)


def test_what_kubectl_sends() -> None:
    assert json.loads(json_of(KUBECTL, MESSAGE)) == {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": "", "namespace": "", "uid": ""},
        "spec": {"audiences": ["vault"], "expirationSeconds": 1200},
    }


@pytest.mark.parametrize("value", [0, 1, 127, 128, 600, (1 << 63) - 1, -1, -(1 << 63)])
def test_numbers(value: int) -> None:
    assert json.loads(json_of(envelope(number(2, value)), TEST))["number"] == value


def test_texts_and_lists() -> None:
    raw = text(3, "a") + text(1, "é\n") + text(3, "") + text(3, "c")
    assert json.loads(json_of(envelope(raw), TEST)) == {
        "apiVersion": "v1",
        "kind": "Test",
        "text": "é\n",
        "list": ["a", "", "c"],
    }


UNKNOWN = text(9, "x") * 2 + number(19, 3) + b"\x61" + bytes(8) + b"\x6d" * 5 + text(0, "a")


@pytest.mark.fault(12)
def test_unknown_fields_are_ignored_at_every_level() -> None:
    type_meta = text(1, text(1, "v1") + UNKNOWN + text(2, "Test"))
    raw = UNKNOWN + text(1, text(1, "n") + UNKNOWN) + UNKNOWN
    message = Message({1: Field("metadata", Message({1: Field("name")}))})
    body = b"k8s\0" + UNKNOWN + type_meta + text(2, raw) + UNKNOWN
    assert json.loads(json_of(body, message)) == {
        "kind": "Test",
        "apiVersion": "v1",
        "metadata": {"name": "n"},
    }


WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "prefix"),
    "json": (b"{}", "prefix"),
    "cut-prefix": (b"k8s", "prefix"),
    "no-envelope": (b"k8s\0\xff", "cut short"),
    "envelope-number": (b"k8s\0" + number(2, 1), "raw of its envelope"),
    "object-twice": (envelope(b"") + text(2, ""), "raw of its envelope"),
    "compressed": (envelope(b"") + text(3, "gzip"), "encoded once more"),
    "json-within": (envelope(b"{}") + text(4, "application/json"), "encoded once more"),
    "text-twice": (envelope(text(1, "a") * 2), "text appears twice"),
    "number-twice": (envelope(number(2, 1) * 2), "number appears twice"),
    "unknown-cut": (envelope(b"\x22\x05ab"), "cut short"),
    "many-unknown": (envelope(text(4, "a") * MAX_FIELDS), "more than 10,000 fields"),
    "text-as-number": (envelope(number(1, 1)), "text has another type"),
    "number-as-text": (envelope(text(2, "1")), "number has another type"),
    "packed-list": (envelope(number(3, 1)), "list has another type"),
    "fixed": (envelope(b"\x0d" + bytes(4)), "text has another type"),
    "group": (envelope(b"\x0b\x0c"), "wire type 3"),
    "not-utf-8": (envelope(text(1, b"\xff")), "text is not UTF-8"),
    "surrogate": (envelope(text(1, b"\xed\xa0\x80")), "text is not UTF-8"),
    "length-beyond-the-end": (envelope(b"\x0a\x05ab"), "cut short"),
    "huge-length": (envelope(b"\x0a" + varint(1 << 63)), "cut short"),
    "fixed-cut": (envelope(b"\x0d\0"), "cut short"),
    "varint-cut": (envelope(b"\x10\x80"), "cut short"),
    "varint-of-11-bytes": (envelope(b"\x10" + b"\x80" * 10 + b"\0"), "too long"),
    "many-fields": (envelope(text(3, "") * MAX_FIELDS), "more than 10,000 fields"),
    "many-fields-within": (envelope(text(6, number(9, 0) * MAX_FIELDS)), "more than 10,000 fields"),
    "many-fields-in-parts": (
        envelope(text(7, number(9, 0) * 100) * (MAX_FIELDS // 100)),
        "more than 10,000 fields",
    ),
    "varint-over-64-bits": (envelope(b"\x10" + b"\xff" * 9 + b"\x02"), "too long"),
}


@pytest.mark.bad_input(31)
@pytest.mark.parametrize(("body", "why"), WRONG.values(), ids=WRONG)
def test_bytes_that_are_not_such_an_object(body: bytes, why: str) -> None:
    with pytest.raises(InvalidReviewError, match=why):
        json_of(body, TEST)


# The end of a field of the envelope: cut there, it is valid with less content.
BETWEEN_FIELDS = (4, 46, 84, 86)


@pytest.mark.bad_input(31)
@pytest.mark.parametrize("end", sorted(set(range(len(KUBECTL))) - set(BETWEEN_FIELDS)))
def test_truncated_anywhere(end: int) -> None:
    with pytest.raises(InvalidReviewError):
        json_of(KUBECTL[:end], MESSAGE)


@pytest.mark.parametrize("end", BETWEEN_FIELDS)
def test_truncated_between_two_fields(end: int) -> None:
    value = json.loads(json_of(KUBECTL[:end], MESSAGE))
    kind = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
    assert value in ({}, kind) or value["spec"]["audiences"] == ["vault"]
