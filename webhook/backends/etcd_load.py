"""Reads all of a store in etcd, as of one revision. Pure: the pages come from a function.

Invariants:

1. All pages are of the revision of the first one, which is read linearizably.
2. What is returned is exactly what the head describes: the number and the digest of the records.
   Keys under the prefix that are not records are set aside, and reported; they hide no record,
   since then the digest would differ.
3. Nothing without a head is a store.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from webhook.backends.etcd_follow import Loaded
from webhook.backends.etcd_head import DIGEST_MODULUS, CommitId, Contents, HeadError, decode
from webhook.backends.etcd_layout import Layout, UnreadableKeyError, shown_key
from webhook.etcd.errors import CompactedError
from webhook.etcd.values import KeyValue
from webhook.rbac.errors import NotInitialisedError, StoreError
from webhook.rbac.records import Record

FIRST_LIMIT: Final = 2_000
_LAST_LIMIT: Final = 128_000
_GROWTH: Final = 4
_FOREIGN_NAMED: Final = 10


class Page(NamedTuple):
    """Some keys of a range in order, as of a revision of etcd."""

    revision: int
    kvs: Sequence[KeyValue]
    is_last: bool


Fetch = Callable[[bytes, int, int], Page]
"""Reads the range from a key on, with a limit (0: all) and a revision (0: the present one)."""


class Found(NamedTuple):
    """What the keys under a prefix are. ``records`` and ``hashes`` are those that can be read."""

    head: KeyValue | None
    records: list[Record]
    hashes: dict[bytes, bytes]
    contents: Contents
    unreadable: list[str]
    foreign: list[str]


def read_all(start: bytes, fetch: Fetch) -> Page:
    """Read a range from ``start`` on (invariant 1).

    If etcd compacts the revision meanwhile, all is read again in larger pages, at last in one.
    Raises StoreError for pages that do not follow one another.
    """
    limit = FIRST_LIMIT
    while True:
        try:
            return _read_pages(start, fetch, limit)
        except CompactedError:
            if not limit:
                raise
            limit = limit * _GROWTH if limit < _LAST_LIMIT else 0


def _read_pages(start: bytes, fetch: Fetch, limit: int) -> Page:
    page = fetch(start, limit, 0)
    revision, kvs = page.revision, list(page.kvs)
    while not page.is_last and page.kvs:
        next_key = page.kvs[-1].key + b"\0"
        page = fetch(next_key, limit, revision)
        if page.kvs and page.kvs[-1].key < next_key:
            # Otherwise this would go on for as long as there is memory.
            raise StoreError(
                f"etcd sends keys from {shown_key(page.kvs[0].key)} on, and was asked for those "
                "that follow; look at what is between here and etcd"
            )
        kvs += page.kvs
    return Page(revision, kvs, is_last=True)


def find(layout: Layout, kvs: Sequence[KeyValue]) -> Found:
    """Sort the keys under ``layout.records`` into head, records and others."""
    head: KeyValue | None = None
    records: list[Record] = []
    hashes: dict[bytes, bytes] = {}
    unreadable: list[str] = []
    foreign: list[str] = []
    total = 0
    for kv in kvs:
        key = kv.key
        if key == layout.head:
            head = kv
            continue
        try:
            record, digest = layout.record_of(key, kv.value)
        except UnreadableKeyError as error:
            unreadable.append(str(error))
            foreign.append(shown_key(key))
            continue
        records.append(record)
        hashes[layout.name_in(key)] = digest
        total += int.from_bytes(digest)
    contents = Contents(len(records), total % DIGEST_MODULUS)
    return Found(head, records, hashes, contents, unreadable, foreign)


def loaded(layout: Layout, kvs: Sequence[KeyValue]) -> tuple[Loaded, list[Record]]:
    """Return the store that the keys under ``layout.records`` are (invariants 2 and 3).

    Raises NotInitialisedError if there is none, StoreError if it is damaged or of a later version.
    """
    found = find(layout, kvs)
    # 1. There is a head.
    if found.head is None:
        raise _without_head(layout, found)
    # 2. It is one that this version reads.
    try:
        head = decode(found.head.value)
    except HeadError as error:
        raise StoreError(
            f"the store under {shown_key(layout.records)} in etcd cannot be used: {error}"
        ) from error
    # 3. It describes the records.
    expected = head.contents
    if found.contents != expected:
        raise StoreError(
            f"the store under {shown_key(layout.records)} in etcd is damaged: "
            f"{_difference(found, expected)}; the last commit is of {head.writer}. Restore it from "
            "a backup, or accept the records that are there with `leeway store repair`"
        )
    commit = CommitId(found.head.mod_revision, head.id)
    foreign = tuple(found.foreign[:_FOREIGN_NAMED])
    return Loaded(commit, head, found.head.value, found.hashes, foreign), found.records


def _without_head(layout: Layout, found: Found) -> StoreError | NotInitialisedError:
    place = shown_key(layout.all)
    if found.records or found.unreadable:
        count = len(found.records) + len(found.unreadable)
        return StoreError(
            f"the store under {place} in etcd has {count} keys and no head, so nothing says "
            "whether any are missing; restore it from a backup, or accept the records that are "
            "there with `leeway store repair`"
        )
    return NotInitialisedError(
        f"there is no store under {place} in etcd; correct store.etcd.prefix, or make a store with "
        "`leeway init`"
    )


def _difference(found: Found, expected: Contents) -> str:
    if found.unreadable:
        return found.unreadable[0]
    if found.contents.records != expected.records:
        return f"it has {found.contents.records} records, and its head says {expected.records}"
    return "its records are not those that its head describes"
