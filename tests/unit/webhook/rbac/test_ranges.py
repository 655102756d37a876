"""The algebra against its definition, on every byte string up to length 3 of a small alphabet.

The bounds of grants and questions are short words, or such a word and a 0x00: all of them are in
WORDS. Whether a key is inside changes at bounds only, so what holds for the words in a range holds
for all its keys.
"""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import pairwise, product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from webhook.rbac.model import Permission, PermissionType, Role
from webhook.rbac.permissions import Permissions
from webhook.rbac.ranges import (
    OPEN_END,
    Range,
    from_wire,
    gaps,
    merge,
    prefix_end,
    to_wire,
)

ALPHABET = (0x00, 0x01, 0xFF)
SHORT = sorted(bytes(w) for n in range(4) for w in product(ALPHABET, repeat=n))
WORDS = sorted({*SHORT, *(word + b"\0" for word in SHORT)})
QUESTIONS = [
    *(Range(key, key + b"\0") for key in SHORT),
    *(Range(start, end) for start in SHORT for end in SHORT if start < end),
    *(Range(start, None) for start in SHORT),
]
EXAMPLES = settings(derandomize=True, deadline=None, max_examples=150, print_blob=True)

short = st.sampled_from(SHORT)
point = short.map(lambda key: Range(key, key + b"\0"))
anything = st.builds(Range, short, short | st.none())  # half of them hold no key
adjacent = st.lists(short, min_size=3, max_size=5, unique=True).map(
    lambda keys: [Range(a, b) for a, b in pairwise(sorted(keys))]
)
spans = st.lists(point | anything, max_size=8) | adjacent


def holds(span: Range, key: bytes) -> bool:
    return span.start <= key and (span.end is None or key < span.end)


class Definition:
    """Answers by definition: a key is inside if any range holds it, a range if all its keys are."""

    def __init__(self, granted: Iterable[Range]) -> None:
        granted = list(granted)
        self.inside = {word: any(holds(span, word) for span in granted) for word in WORDS}
        self._outside_before = {}
        outside = 0
        for word in WORDS:
            self._outside_before[word] = outside
            outside += not self.inside[word]
        self._outside = outside

    def covers(self, span: Range) -> bool:
        until = self._outside if span.end is None else self._outside_before[span.end]
        return until == self._outside_before[span.start]


@EXAMPLES
@given(spans)
@example([Range(b"\x00", b"\x01"), Range(b"\x01", b"\xff"), Range(b"\xff", None)])
@example([Range(b"", None), Range(b"\x01", b"\x00")])
def test_a_merged_set_keeps_the_invariants(granted: list[Range]) -> None:
    bounds = merge(granted)
    assert isinstance(bounds, tuple)
    assert all(a < b for a, b in pairwise(bounds))  # 1 and 2
    assert merge(reversed(granted)) == bounds
    pairs = zip(bounds[::2], [*bounds[1::2], *[None] * (len(bounds) % 2)], strict=True)
    again = [Range(start, end) for start, end in pairs]
    assert merge(again) == bounds
    definition = Definition(granted)
    assert [any(holds(span, word) for span in again) for word in WORDS] == list(
        definition.inside.values()
    )


@settings(EXAMPLES, max_examples=75)
@given(spans)
def test_gaps_are_exactly_what_is_not_covered(granted: list[Range]) -> None:
    bounds, definition = merge(granted), Definition(granted)
    for question in QUESTIONS:
        found = gaps(bounds, *question)
        assert (not found) == definition.covers(question)
        edges = [edge for gap in found for edge in gap]
        assert None not in edges[:-1]
        finite = [edge for edge in edges if edge is not None]
        assert all(a < b for a, b in pairwise(finite))
        assert not found or found[0].start >= question.start
        if question.end is not None and found:
            assert finite == edges
            assert finite[-1] <= question.end
        # A key between two words is treated as the first of them.
        start = bisect_left(WORDS, question.start)
        end = len(WORDS) if question.end is None else bisect_left(WORDS, question.end)
        for word in WORDS[start:end]:
            assert any(holds(gap, word) for gap in found) != definition.inside[word]


types = st.sampled_from(PermissionType)
wire_ends = short | st.just(b"") | st.just(OPEN_END)
permissions = st.builds(Permission, short, wire_ends, types)
roles = st.lists(st.lists(permissions, max_size=5).map(tuple), max_size=3)


@EXAMPLES
@given(roles)
def test_permissions_answer_by_definition(granted: list[tuple[Permission, ...]]) -> None:
    snapshot = Permissions(Role(f"role{i}", held) for i, held in enumerate(granted))
    every = [p for held in granted for p in held]
    read = Definition(p.span for p in every if p.type is not PermissionType.WRITE)
    write = Definition(p.span for p in every if p.type is not PermissionType.READ)
    for key in WORDS:
        assert snapshot.can_read(key) == read.inside[key]
        assert snapshot.can_write(key) == write.inside[key]
    for question in QUESTIONS:
        assert snapshot.can_read_range(*question) == read.covers(question)
        assert snapshot.can_write_range(*question) == write.covers(question)
        for kind, answer in ((PermissionType.READ, read), (PermissionType.WRITE, write)):
            assert (not snapshot.uncovered(kind, question)) == answer.covers(question)


@pytest.mark.parametrize(
    ("granted", "bounds"),
    [
        ([], ()),
        ([Range(b"a", b"a")], ()),
        ([Range(b"b", b"a")], ()),
        ([Range(b"a", b"a\0"), Range(b"a\0", b"a\0\0")], (b"a", b"a\0\0")),
        ([Range(b"a", b"c"), Range(b"b", b"d")], (b"a", b"d")),
        ([Range(b"a", b"z"), Range(b"b", b"c")], (b"a", b"z")),
        ([Range(b"a", b"b"), Range(b"b", None)], (b"a",)),
        ([Range(b"a", None), Range(b"b", b"c"), Range(b"x", None)], (b"a",)),
        ([Range(b"a", b"c"), Range(b"a", None)], (b"a",)),
        ([Range(b"c", b"d"), Range(b"a", b"b")], (b"a", b"b", b"c", b"d")),
    ],
)
def test_merge(granted: list[Range], bounds: tuple[bytes, ...]) -> None:
    assert merge(granted) == bounds


@pytest.mark.parametrize(
    ("key", "range_end", "span"),
    [
        (b"a", b"", Range(b"a", b"a\0")),
        (b"a", b"c", Range(b"a", b"c")),
        (b"a", b"\0", Range(b"a", None)),
        (b"\0", b"\0", Range(b"\0", None)),
        (b"\xff", b"", Range(b"\xff", b"\xff\0")),
    ],
)
def test_round_trip_over_the_wire(key: bytes, range_end: bytes, span: Range) -> None:
    assert from_wire(key, range_end) == span
    assert to_wire(span) == (key, range_end)


def test_every_range_survives_the_wire() -> None:
    for span in QUESTIONS:
        assert from_wire(*to_wire(span)) == span


@pytest.mark.parametrize("prefix", SHORT)
def test_the_end_of_a_prefix_bounds_exactly_the_keys_that_begin_with_it(prefix: bytes) -> None:
    end = prefix_end(prefix)
    span = Range(prefix, None if end == OPEN_END else end)
    for word in WORDS:
        assert holds(span, word) == word.startswith(prefix), word


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"", b"\0"), (b"/xxx/", b"/xxx0"), (b"a\xff", b"b"), (b"\xff\xff", b"\0")],
)
def test_prefix_end(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end
