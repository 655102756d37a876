"""Keys, values and heads: what Leeway writes is read, and nothing else is."""

import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook.backends import etcd_head
from webhook.backends.etcd_head import (
    NO_COMMIT,
    RING_SIZE,
    CommitId,
    Contents,
    Head,
    HeadError,
    decode,
    encode,
    first_head,
    next_head,
    successor_of,
)
from webhook.backends.etcd_layout import FORMAT, Layout, UnreadableKeyError, name_of
from webhook.backends.etcd_position import format_position, parse_position
from webhook.rbac.errors import ForeignPositionError

LAYOUT = Layout("/leeway")
KINDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8) | st.sampled_from(
    ["user", "head", "a/b", "%2F", "é"]
)
STORE, ONE, TWO = (bytes([n]) * 16 for n in (7, 1, 2))


def stored(kind: str, record_id: bytes, value: bytes) -> tuple[bytes, bytes]:
    name = name_of(kind, record_id)
    return LAYOUT.records + name, LAYOUT.value_of(name, value)[0]


@given(KINDS, st.binary(max_size=40), st.binary(max_size=40))
def test_a_record_is_read_as_it_was_written(kind: str, record_id: bytes, value: bytes) -> None:
    key, content = stored(kind, record_id, value)
    assert key.isascii()
    assert key.decode().isprintable()
    assert key.startswith(LAYOUT.records + name_of(kind, b""))
    assert key != LAYOUT.head
    record, _ = LAYOUT.record_of(key, content)
    assert record == (kind, record_id, value)
    assert LAYOUT.key_of(kind, record_id) == key


@given(KINDS, st.binary(max_size=9), KINDS, st.binary(max_size=9))
def test_two_records_have_two_keys(kind: str, one: bytes, other: str, two: bytes) -> None:
    assert (name_of(kind, one) == name_of(other, two)) == ((kind, one) == (other, two))


@pytest.mark.parametrize(
    "name",
    [
        b"user",
        b"",
        b"/x",
        b"user/a b",
        b"user/%6",
        b"user/%zz",
        b"user/%61",
        b"user/%2f",
        b"user/%ff",
        b"us%65r/a",
        b"%FF/a",
        b"user/\xff",
        b"user/a\n",
    ],
)
def test_other_keys_are_not_of_records(name: bytes) -> None:
    with pytest.raises(UnreadableKeyError, match="not the key of a record"):
        LAYOUT.record_of(LAYOUT.records + name, LAYOUT.value_of(name, b"")[0])


@given(st.data())
def test_a_changed_bit_is_noticed(data: st.DataObject) -> None:
    key, content = stored("user", b"ann", b"some value")
    place = data.draw(st.integers(0, 8 * len(content) - 1))
    changed = bytearray(content)
    changed[place // 8] ^= 1 << place % 8
    with pytest.raises(UnreadableKeyError):
        LAYOUT.record_of(key, bytes(changed))


def test_values_that_were_exchanged_are_noticed() -> None:
    (ann, of_ann), (bob, of_bob) = (stored("user", name, name) for name in (b"ann", b"bob"))
    for key, value in ((ann, of_bob), (bob, of_ann)):
        with pytest.raises(UnreadableKeyError, match="checksum"):
            LAYOUT.record_of(key, value)


@pytest.mark.parametrize("value", [b"", b"\1", b"\1" + bytes(7), b"\2" + bytes(20)])
def test_values_that_are_too_short_or_of_another_format(value: bytes) -> None:
    with pytest.raises(UnreadableKeyError):
        LAYOUT.record_of(LAYOUT.records + b"user/ann", value)


def heads(count: int) -> list[tuple[int, Head]]:
    head, revision = first_head(STORE, os.urandom(16), Contents(0, 0), 1.5, "host/1"), 5
    found = [(revision, head)]
    for number in range(1, count):
        contents = Contents(number, number << 200)
        head = next_head(head, revision, os.urandom(16), contents, 2.5, "host/2")
        revision += 1 + number % 3
        found.append((revision, head))
    return found


def test_heads_name_the_commits_before_them() -> None:
    made = heads(200)
    ids = [CommitId(revision, head.id) for revision, head in made]
    for number, (revision, head) in enumerate(made):
        assert decode(encode(head)) == head
        chain = head.chain(revision)
        assert chain == tuple(ids[max(0, number - RING_SIZE) : number + 1])
        if number:
            assert successor_of(chain, ids[number - 1]) == ids[number]
        assert successor_of(chain, ids[number]) is None
        if number > RING_SIZE:
            assert successor_of(chain, ids[number - RING_SIZE - 1]) is None


GOOD = first_head(STORE, ONE, Contents(3, 4), 1.5, "host/1")


def forged(head: Head) -> bytes:
    """Return the value of a head with a right checksum and whatever is in it."""
    return encode(head)


@pytest.mark.parametrize(
    "head",
    [
        msgspec.structs.replace(GOOD, store=b"short"),
        msgspec.structs.replace(GOOD, id=b""),
        msgspec.structs.replace(GOOD, digest=bytes(31)),
        msgspec.structs.replace(GOOD, count=-1),
        msgspec.structs.replace(GOOD, count=1 << 40),
        msgspec.structs.replace(GOOD, wall=float("nan")),
        msgspec.structs.replace(GOOD, wall=float("inf")),
        msgspec.structs.replace(GOOD, writer="x" * 256),
        msgspec.structs.replace(GOOD, previous=CommitId(0, ONE)),
        msgspec.structs.replace(GOOD, previous=CommitId(-1, ONE)),
        msgspec.structs.replace(GOOD, ring=(CommitId(3, ONE),)),
        msgspec.structs.replace(GOOD, previous=CommitId(3, ONE), ring=(CommitId(3, TWO),)),
        msgspec.structs.replace(GOOD, previous=CommitId(3, ONE), ring=(CommitId(2, b""),)),
        msgspec.structs.replace(
            GOOD,
            previous=CommitId(100, ONE),
            ring=tuple(CommitId(n, ONE) for n in range(1, RING_SIZE + 1)),
        ),
    ],
    ids=range(14),
)
def test_heads_that_contradict_themselves_are_refused(head: Head) -> None:
    with pytest.raises(HeadError, match="contradicts itself"):
        decode(forged(head))


@pytest.mark.parametrize(
    "value",
    [b"", b"\1\1", b"\1\1" + bytes(8), bytes(9000), encode(GOOD)[:-1], encode(GOOD) + b"\0"],
    ids=["empty", "short", "no-body", "long", "cut", "more"],
)
def test_other_values_are_no_heads(value: bytes) -> None:
    with pytest.raises(HeadError):
        decode(value)


@given(st.data())
def test_a_changed_bit_of_a_head_is_noticed(data: st.DataObject) -> None:
    value = bytearray(encode(GOOD))
    place = data.draw(st.integers(0, 8 * len(value) - 1))
    value[place // 8] ^= 1 << place % 8
    with pytest.raises(HeadError):
        decode(bytes(value))


def test_a_head_of_an_extra_field_is_refused() -> None:
    body = msgspec.msgpack.encode((*msgspec.to_builtins(GOOD), "more"))
    value = bytes([FORMAT, FORMAT]) + etcd_head._checksum(FORMAT, body) + body
    with pytest.raises(HeadError, match="cannot be decoded"):
        decode(value)


def test_a_store_of_a_later_version_is_refused() -> None:
    with pytest.raises(HeadError, match=r"format 2, and this one reads format 1; use a later"):
        decode(encode(GOOD, min_reader=FORMAT + 1))


def test_contents_are_added_and_subtracted() -> None:
    one, two = b"\xff" * 32, b"\xfe" * 32
    both = Contents(0, 0).with_one_more(one).with_one_more(two)
    assert both == Contents(0, 0).with_one_more(two).with_one_more(one)
    assert both.records == 2
    assert both.without(one).without(two) == Contents(0, 0)


def test_positions_are_read_as_they_were_written() -> None:
    text = format_position(STORE.hex(), CommitId(258, ONE))
    assert parse_position(text) == (STORE.hex(), CommitId(258, ONE))
    assert "258" not in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "sqlite.7",
        f"{STORE.hex()}.7",
        f"{STORE.hex()}..{ONE.hex()}",
        f"{STORE.hex()}.07.{ONE.hex()}",
        f"{STORE.hex()}.7.{ONE.hex()}.",
        f"{STORE.hex()}.-7.{ONE.hex()}",
        f"{STORE.hex().upper()}.7.{'A' * 32}",
        f"{STORE.hex()}.7.{ONE.hex()[2:]}",
        f"{STORE.hex()}.{'7' * 100}.{ONE.hex()}",
        f"{STORE.hex()}.\u0667.{ONE.hex()}",
    ],
)
def test_other_positions_are_refused(text: str) -> None:
    with pytest.raises(ForeignPositionError):
        parse_position(text)


def test_nothing_has_the_id_of_no_commit() -> None:
    assert GOOD.previous == CommitId(0, NO_COMMIT)
