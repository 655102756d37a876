"""When simple tokens were last used: known here at once, and written down in lots.

Invariants:

1. A use is written to a token that is there, and as its latest: none brings back a token that has
   ended, and none takes a token's later use back.
2. What could not be written stays, until it can be or its token has ended; there is at most one use
   of a token.
3. Neither ``last`` nor ``note`` waits for the store.
"""

from threading import Lock
from typing import Final

from webhook.rbac.auth_store import AuthStore
from webhook.rbac.records import Record, TokenRecord, token_record
from webhook.rbac.state import State

RESOLUTION_SECONDS: Final = 1.0
"""A use that is later by less is no reason to write (etcd's ``simpleTokenTTLResolution``)."""


class TokenUses:
    """The uses of simple tokens in this process that the store has not. Safe for threads."""

    def __init__(self, store: AuthStore) -> None:
        self._store = store
        self._lock = Lock()
        self._last: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._last)

    def last(self, digest: bytes) -> float:
        """Return the last use that is not written down, 0 where there is none.

        To be asked before the record of the token is read: what is gone here is in there.
        """
        return self._last.get(digest, 0.0)

    def note(self, digest: bytes, now: float) -> None:
        """Take note of the latest use, at ``now`` (Unix seconds), of a token in the store."""
        with self._lock:
            self._last[digest] = now

    def write(self) -> None:
        """Write all that there is in one transaction, where any of it is a reason to.

        Raises StoreError or StoreUnavailableError where it cannot be written.
        """
        with self._lock:
            uses = dict(self._last)
        try:
            if _to_write(self._store.state, uses):
                self._store.change(lambda state: _to_write(state, uses))
        finally:
            self._forget_written(uses)

    def _forget_written(self, uses: dict[bytes, float]) -> None:
        tokens = self._store.state.tokens
        with self._lock:
            for digest, used in uses.items():
                record = tokens.get(digest)
                is_over = record is None or record.used >= used
                if is_over and self._last.get(digest) == used:
                    del self._last[digest]


def _to_write(state: State, uses: dict[bytes, float]) -> list[Record]:
    later = [
        (digest, record, used)
        for digest, used in uses.items()
        if (record := state.tokens.get(digest)) is not None and used > record.used
    ]
    if not any(used - record.used >= RESOLUTION_SECONDS for _, record, used in later):
        return []
    return [token_record(digest, TokenRecord(record.user, used)) for digest, record, used in later]
