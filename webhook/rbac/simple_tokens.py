"""Simple auth tokens: random, in the store, valid for a time after their last use.

Invariants:

1. A token is stored as its SHA-256 only.
2. A token ends with its user and with each change of its password (its record is deleted), and when
   auth is disabled (``AuthMeta.token_epoch``).
3. A token whose last use is in the future is refused: the clock was set back, and how long ago that
   use was is unknown. Differences between the clocks of workers are smaller.
4. The last use of a token is that in any worker: known in this one at once, in others when
   ``TokenUses`` has written it.
5. A use is written only to a token that exists, and never over a later use.
6. A use that could not be written is kept until it is written or its token has ended; there is at
   most one for each token.
7. A use is written when it is later than the written one by the resolution: RESOLUTION_SECONDS, or
   half of the TTL on a store that replicas share, where each write is one of a whole cluster. So a
   token lives for a TTL after its last use where that was, and elsewhere for half of it at least.
8. A token is deleted when no worker can accept it any more, whatever was not written yet.
   Where replicas with clocks of their own share the store, none is deleted because its last use
   lies ahead, and none while their clocks differ by more than CLOCK_SECONDS.
9. Writing uses makes no change fail: what conflicts with a change is written in the next round.

Source: etcd ``server/auth/simple_token.go``.
"""

import hashlib
import secrets
from collections.abc import Iterator
from heapq import nsmallest
from itertools import islice
from math import inf
from threading import Lock
from typing import Final

import msgspec

from webhook.rbac.auth_store import AuthStore
from webhook.rbac.auth_tokens import DEFAULT_TTL_SECONDS, require_unchanged
from webhook.rbac.batches import MAX_BATCH_RECORDS
from webhook.rbac.errors import InvalidAuthTokenError
from webhook.rbac.model import User
from webhook.rbac.records import Record, TokenRecord, token_record
from webhook.rbac.revocations import CLOCK_SECONDS
from webhook.rbac.state import AuthState

RESOLUTION_SECONDS: Final = 1.0
"""A use that is later by less is not written (etcd's ``simpleTokenTTLResolution``)."""
SHARED_INTERVAL_SECONDS: Final = 10.0
"""How often a worker writes uses to a store that replicas share."""
# A last use may be in the future by this part of the TTL (invariant 3).
_AHEAD_PART: Final = 10
# How long writing a use may take, while the store is locked or cannot be reached.
_UNWRITTEN_SECONDS: Final = 60.0
_RANDOM_BYTES: Final = 24


class TokenUses:
    """The uses of simple tokens in this process that are not written yet. Safe for threads."""

    def __init__(self, store: AuthStore) -> None:
        self._store = store
        self._lock = Lock()
        self._last: dict[bytes, float] = {}
        self._ttl = DEFAULT_TTL_SECONDS

    def __len__(self) -> int:
        return len(self._last)

    def last(self, digest: bytes) -> float:
        """Return the last use that is not written yet, or 0. Never waits.

        To be called before the record of the token is read: that has what is no longer here.
        """
        return self._last.get(digest, 0.0)

    @property
    def interval(self) -> float:
        """How many seconds should pass between two calls of ``write``."""
        return SHARED_INTERVAL_SECONDS if self._store.is_shared else RESOLUTION_SECONDS

    def note(self, digest: bytes, now: float, ttl: float) -> None:
        """Record the latest use, at ``now`` (Unix seconds), of a token. Never waits.

        The token lives for ``ttl`` seconds after it.
        """
        with self._lock:
            self._last[digest] = now
            self._ttl = ttl

    def write(self) -> None:
        """Write the uses that are later by the resolution (invariant 7) in one transaction.

        On a store that replicas share those are MAX_BATCH_RECORDS at most, of the tokens with the
        shortest life left; the others are written in the next rounds. Raises StoreError or
        StoreUnavailableError where they cannot be written.
        """
        with self._lock:
            uses, ttl = dict(self._last), self._ttl
        is_shared = self._store.is_shared
        resolution = ttl / 2 if is_shared else RESOLUTION_SECONDS
        at_most = MAX_BATCH_RECORDS if is_shared else len(uses)
        is_first = True

        def decide(state: AuthState) -> list[Record]:
            nonlocal is_first
            if not is_first:  # Invariant 9.
                return []
            is_first = False
            return _to_write(state, uses, resolution, at_most)

        try:
            if _to_write(self._store.state, uses, resolution, at_most):
                self._store.change(decide)
        finally:
            self._forget_written(uses)

    def _forget_written(self, uses: dict[bytes, float]) -> None:
        state = self._store.state
        with self._lock:
            for digest, used in uses.items():
                record = _live(state, digest)
                is_done = record is None or record.used >= used
                # Invariant 6: a later use may have come since.
                if is_done and self._last.get(digest) == used:
                    del self._last[digest]


class SimpleTokens:
    """Provider ``simple``: random, in the store, valid for a TTL after its last use.

    ``uses`` is of the same store; the caller has to write it every ``uses.interval`` seconds.
    """

    def __init__(self, store: AuthStore, uses: TokenUses, ttl: float = DEFAULT_TTL_SECONDS) -> None:
        self._store = store
        self._uses = uses
        self._ttl = ttl
        self._ahead = ttl / _AHEAD_PART

    def assign(self, user: User, now: float, state: AuthState | None = None) -> str:  # noqa: ARG002
        """Make a token, and delete at most MAX_BATCH_RECORDS of those that have ended."""
        token = secrets.token_urlsafe(_RANDOM_BYTES)
        digest = _digest(token)  # Invariant 1.

        def decide(state: AuthState) -> list[Record]:
            require_unchanged(state, user)
            new = token_record(digest, TokenRecord(user.name, now, state.meta.token_epoch))
            ended = islice(self._ended(state, now), MAX_BATCH_RECORDS)
            return [new, *(token_record(d, None) for d in ended)]

        self._store.change(decide)
        return token

    def _ended(self, state: AuthState, now: float) -> Iterator[bytes]:
        # Invariant 8: half a TTL for uses that are not due, and both clocks may be wrong.
        kept = 1.5 * self._ttl + _UNWRITTEN_SECONDS + self._ahead
        difference = self._store.clock_difference
        oldest = max(now, now + difference) - kept if abs(difference) <= CLOCK_SECONDS else -inf
        latest = inf if self._store.is_shared else now + self._ahead
        for digest, record in state.tokens.items():
            if not oldest <= record.used <= latest or record.epoch != state.meta.token_epoch:
                yield digest

    def resolve(self, token: str, now: float, state: AuthState | None = None) -> str:
        """Return the user of a token, and count this as a use."""
        digest = _digest(token)
        noted = self._uses.last(digest)
        record = _live(state or self._store.state, digest)  # Invariant 2.
        if record is None:
            raise InvalidAuthTokenError
        used = max(record.used, noted)  # Invariant 4.
        # Invariant 3.
        if not -self._ahead <= now - used <= self._ttl:
            raise InvalidAuthTokenError
        if now > used:
            self._uses.note(digest, now, self._ttl)
        return record.user


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _live(state: AuthState, digest: bytes) -> TokenRecord | None:
    """Return the record of a token that has not ended with its user, its password or its epoch."""
    record = state.tokens.get(digest)
    return record if record is not None and record.epoch == state.meta.token_epoch else None


def _to_write(
    state: AuthState, uses: dict[bytes, float], resolution: float, at_most: int
) -> list[Record]:
    # Invariants 5 and 7.
    due = [
        (record.used, digest, msgspec.structs.replace(record, used=used))
        for digest, used in uses.items()
        if (record := _live(state, digest)) is not None and used - record.used >= resolution
    ]
    if len(due) > at_most:
        due = nsmallest(at_most, due)
    return [token_record(digest, record) for _, digest, record in due]
