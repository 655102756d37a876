"""Ranges of byte keys: a single key, [key, range_end), and open-ended ranges.

Keys are ordered as byte strings. A ``RangeSet`` is a tuple of bounds: a start, its end, the next
start, its end, and so on; the last end is left out where the last range has none.

Invariants:

1. The bounds of a ``RangeSet`` strictly increase, so a key is inside if the number of bounds less
   than or equal to it is odd.
2. Ranges that touch are merged: no end equals the next start. Hence the union covers a range
   exactly if one range of the set contains it.

Source: etcd ``pkg/adt/interval_tree.go`` (``BytesAffineComparable``) and
``server/auth/range_perm_cache.go``.
"""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final, NamedTuple

RangeSet = tuple[bytes, ...]

OPEN_END: Final = b"\0"
"""The ``range_end`` of an open-ended range in etcd."""


class Range(NamedTuple):
    """Keys from ``start`` up to but not including ``end``; None is no end."""

    start: bytes
    end: bytes | None


def from_wire(key: bytes, range_end: bytes) -> Range:
    """Read a key and a ``range_end`` as etcd writes them: empty for the single key ``key``."""
    if not range_end:
        return Range(key, key + b"\0")
    return Range(key, None if range_end == OPEN_END else range_end)


def to_wire(span: Range) -> tuple[bytes, bytes]:
    """Write a range as etcd's key and ``range_end``."""
    start, end = span
    if end is None:
        return start, OPEN_END
    return start, b"" if end == start + b"\0" else end


def format_range(key: bytes, range_end: bytes) -> str:
    """Render etcd's key and ``range_end`` as etcdctl does.

    ``key``, ``[key, end)`` or ``[key, <open ended>``.
    """
    if not range_end:
        return _text(key)
    if range_end == OPEN_END:
        return f"[{_text(key)}, <open ended>"
    return f"[{_text(key)}, {_text(range_end)})"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def prefix_end(prefix: bytes) -> bytes:
    """Return the ``range_end`` of all keys with a prefix; OPEN_END where no key is beyond them.

    Source: etcd ``client/v3/op.go``, ``getPrefix``.
    """
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else OPEN_END


def merge(spans: Iterable[Range]) -> RangeSet:
    """Return the union. Ranges that contain no key are ignored."""
    bounds: list[bytes] = []
    open_ended = False
    for start, end in sorted(spans, key=lambda span: span.start):  # Invariant 1.
        if open_ended:
            break
        if end is not None and end <= start:
            continue
        if bounds and start <= bounds[-1]:  # Invariant 2.
            if end is None:
                bounds.pop()
            elif end > bounds[-1]:
                bounds[-1] = end
        else:
            bounds.append(start)
            if end is not None:
                bounds.append(end)
        open_ended = end is None
    return tuple(bounds)


def gaps(ranges: RangeSet, start: bytes, end: bytes | None) -> list[Range]:
    """Return, in order, the parts of [start, end) that ``ranges`` does not cover."""
    found: list[Range] = []
    place = bisect_right(ranges, start)
    position: bytes | None = start
    if place & 1:
        position = ranges[place] if place < len(ranges) else None
        place += 1
    while position is not None and (end is None or position < end):
        if place >= len(ranges):
            found.append(Range(position, end))
            break
        stop = ranges[place] if end is None else min(ranges[place], end)
        found.append(Range(position, stop))
        position = ranges[place + 1] if place + 1 < len(ranges) else None
        place += 2
    return found
