"""The head of a store in etcd: one key that each commit replaces, and that names the commit. Pure.

Invariants:

1. Of two commits on one head at most one succeeds, because both compare its revision and its
   value.
2. ``ring`` and ``previous`` name the 64 commits before this one, so that "which commit followed
   that one?" is answered without the history, which may be compacted.
3. ``count`` and ``digest`` are those of the records of this commit, computed from those of the
   commit before it. The digest is the sum modulo 2^256 of the SHA-256 of each record: it finds
   accidents, not attacks.
4. ``decode`` accepts what ``encode`` writes, and nothing else. It is linear.
"""

from hashlib import sha256
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

from webhook.backends.etcd_layout import FORMAT

ID_SIZE: Final = 16
RING_SIZE: Final = 64
MAX_HEAD_SIZE: Final = 8192
MAX_WRITER_SIZE: Final = 255
DIGEST_MODULUS: Final = 1 << 256
NO_COMMIT: Final = bytes(ID_SIZE)
_CHECKSUM_SIZE: Final = 8
_START: Final = 2 + _CHECKSUM_SIZE
_MAX_REVISION: Final = (1 << 63) - 1
_MAX_WALL: Final = 1e11


class CommitId(NamedTuple):
    """A commit: its revision in etcd, and the random id in its head.

    Revisions alone name no commit: after a restore, others get the same ones.
    """

    revision: int
    id: bytes


class Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a commit says of the store and of itself."""

    store: bytes
    """The id of the store, made by ``leeway init``."""
    id: bytes
    previous: CommitId
    """The commit before this one; revision 0 for the first."""
    ring: tuple[CommitId, ...]
    """The commits before ``previous``, oldest first (invariant 2)."""
    count: int
    digest: bytes
    wall: float
    """The writer's clock (Unix seconds)."""
    writer: str
    """The host and the process that wrote it, for people."""

    @property
    def contents(self) -> "Contents":
        """What the records of the commit are (invariant 3)."""
        return Contents(self.count, int.from_bytes(self.digest))

    def chain(self, revision: int) -> tuple[CommitId, ...]:
        """Return the last commits, oldest first, this one included; ``revision`` is its own."""
        earlier = (*self.ring, self.previous) if self.previous.revision else ()
        return (*earlier, CommitId(revision, self.id))


class Contents(NamedTuple):
    """How many records there are, and the sum of their hashes (invariant 3)."""

    records: int
    digest: int

    def without(self, record_hash: bytes) -> "Contents":
        """Return the contents without a record that is there."""
        digest = (self.digest - int.from_bytes(record_hash)) % DIGEST_MODULUS
        return Contents(self.records - 1, digest)

    def with_one_more(self, record_hash: bytes) -> "Contents":
        """Return the contents with a record that is not there yet."""
        digest = (self.digest + int.from_bytes(record_hash)) % DIGEST_MODULUS
        return Contents(self.records + 1, digest)


class HeadError(Exception):
    """The value of the head is not one that Leeway wrote, or one of a later version."""


def first_head(store: bytes, commit: bytes, contents: Contents, wall: float, writer: str) -> Head:
    """Return the head of a new store."""
    previous = CommitId(0, NO_COMMIT)
    digest = contents.digest.to_bytes(32)
    return Head(store, commit, previous, (), contents.records, digest, wall, writer)


def next_head(
    old: Head, revision: int, commit: bytes, contents: Contents, wall: float, writer: str
) -> Head:
    """Return the head of the commit that follows ``old``, which has ``revision``."""
    chain = old.chain(revision)
    ring, previous = chain[:-1][-RING_SIZE + 1 :], chain[-1]
    digest = contents.digest.to_bytes(32)
    return Head(old.store, commit, previous, ring, contents.records, digest, wall, writer)


def encode(head: Head, min_reader: int = FORMAT) -> bytes:
    """Return the value of the head's key.

    ``min_reader`` is the lowest FORMAT whose code may read the store and write to it.
    """
    body = msgspec.msgpack.encode(head)
    return b"%c%c%b%b" % (FORMAT, min_reader, _checksum(min_reader, body), body)


def decode(value: bytes) -> Head:
    """Read the value of the head's key. Raises HeadError (invariant 4)."""
    if len(value) >= _START and value[1] > FORMAT:
        raise HeadError(
            f"the store needs a Leeway that reads format {value[1]}, and this one reads format "
            f"{FORMAT}; use a later version"
        )
    if not _START < len(value) <= MAX_HEAD_SIZE:
        raise HeadError(
            f"its head is of {len(value)} bytes, {_START + 1} to {MAX_HEAD_SIZE} are allowed"
        )
    body = value[_START:]
    if value[2:_START] != _checksum(value[1], body):
        raise HeadError("the checksum of its head is wrong")
    try:
        head = msgspec.msgpack.decode(body, type=Head)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise HeadError("its head cannot be decoded") from error
    if not _is_valid(head) or encode(head, value[1]) != value:
        raise HeadError("its head contradicts itself")
    return head


def successor_of(chain: tuple[CommitId, ...], commit: CommitId) -> CommitId | None:
    """Return the commit that followed ``commit``, None where the chain does not say."""
    for earlier, later in pairwise(chain):
        if earlier == commit:
            return later
    return None


def continues(commit: CommitId, revision: int, head: Head) -> bool | None:
    """Return whether the history of a head contains a commit; None if that is too long ago."""
    chain = head.chain(revision)
    if commit in chain:
        return True
    is_complete = len(head.ring) < RING_SIZE - 1
    return False if is_complete or chain[0].revision <= commit.revision else None


def _is_valid(head: Head) -> bool:
    if len(head.writer.encode(errors="replace")) > MAX_WRITER_SIZE or len(head.digest) != 32:
        return False
    if len(head.store) != ID_SIZE or not 0 <= head.count < 1 << 40:
        return False
    if not abs(head.wall) < _MAX_WALL:
        return False
    if not head.previous.revision:
        return not head.ring and head.previous.id == NO_COMMIT and len(head.id) == ID_SIZE
    chain = head.chain(_MAX_REVISION)
    if len(chain) > RING_SIZE + 1 or any(len(commit.id) != ID_SIZE for commit in chain):
        return False
    revisions = [commit.revision for commit in chain]
    return revisions[0] > 0 and all(a < b for a, b in pairwise(revisions))


def _checksum(min_reader: int, body: bytes) -> bytes:
    return sha256(b"%c%c%b" % (FORMAT, min_reader, body)).digest()[:_CHECKSUM_SIZE]
