r"""What a transaction compares and does.

>>> Txn([mod_revision_is(b"/a/head", 7)], [Put(b"/a/head", b"new")], [Get(b"/a/head")]).success
[Put(key=b'/a/head', value=b'new', lease=0, prev_kv=False)]

A range is ``[key, range_end)``; without ``range_end`` it is the one key, and ``b"\0"`` is the end
of all keys. A key can be written only once in a transaction.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import TypeAlias

import msgspec


class Target(IntEnum):
    """What of a key is compared."""

    VERSION = 0
    CREATE_REVISION = 1
    MOD_REVISION = 2
    VALUE = 3
    LEASE = 4


class Relation(IntEnum):
    """How it has to compare."""

    EQUAL = 0
    GREATER = 1
    LESS = 2
    NOT_EQUAL = 3


class Compare(msgspec.Struct, frozen=True):
    """A condition. ``operand`` is bytes for a value, else an int; a missing key has 0.

    With ``range_end`` it has to hold for every key of the range, so it holds for an empty one.
    """

    target: Target
    key: bytes
    operand: int | bytes
    relation: Relation = Relation.EQUAL
    range_end: bytes = b""


class Get(msgspec.Struct, frozen=True):
    """Reads a key or range."""

    key: bytes
    range_end: bytes = b""
    revision: int = 0
    limit: int = 0
    keys_only: bool = False
    count_only: bool = False


class Put(msgspec.Struct, frozen=True):
    """Writes a key."""

    key: bytes
    value: bytes
    lease: int = 0
    prev_kv: bool = False


class Delete(msgspec.Struct, frozen=True):
    """Deletes a key or range."""

    key: bytes
    range_end: bytes = b""
    prev_kv: bool = False


class Txn(msgspec.Struct, frozen=True):
    """Executes ``success`` if all compares hold, else ``failure``."""

    compares: Sequence[Compare]
    success: "Sequence[Operation]"
    failure: "Sequence[Operation]" = ()


Operation: TypeAlias = Get | Put | Delete | Txn


def mod_revision_is(key: bytes, revision: int, range_end: bytes = b"") -> Compare:
    """Return the condition that a key was last changed at a revision; 0: there is no such key."""
    return Compare(Target.MOD_REVISION, key, revision, range_end=range_end)


def create_revision_is(key: bytes, revision: int, range_end: bytes = b"") -> Compare:
    """Return the condition that a key was created at a revision; 0: there is no such key."""
    return Compare(Target.CREATE_REVISION, key, revision, range_end=range_end)


def version_is(key: bytes, version: int, range_end: bytes = b"") -> Compare:
    """Return the condition that a key has been written so often since it was created."""
    return Compare(Target.VERSION, key, version, range_end=range_end)


def lease_is(key: bytes, lease: int, range_end: bytes = b"") -> Compare:
    """Return the condition that a key has a lease; 0: none."""
    return Compare(Target.LEASE, key, lease, range_end=range_end)


def value_is(key: bytes, value: bytes, range_end: bytes = b"") -> Compare:
    """Return the condition that a key has a value; a missing key has none, not even ``b""``."""
    return Compare(Target.VALUE, key, value, range_end=range_end)


def prefix_end(prefix: bytes) -> bytes:
    r"""Return the end of the range of all keys with a prefix.

    >>> prefix_end(b"/a/"), prefix_end(b"a\xff"), prefix_end(b"\xff"), prefix_end(b"")
    (b'/a0', b'b', b'\x00', b'\x00')
    """
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"
