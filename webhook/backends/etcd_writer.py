"""Writes to a store in etcd: commits, and the first one.

What a commit writes is computed from the head and the records of ``expected``, never from what has
arrived since.
"""

import os
from collections.abc import Callable, Sequence
from typing import Final

from webhook.backends.etcd_commit import (
    COMMIT_SECONDS,
    Attempts,
    NotWrittenError,
    Write,
    Written,
    commit,
)
from webhook.backends.etcd_follow import Follower, Loaded, Planned
from webhook.backends.etcd_following import Following
from webhook.backends.etcd_head import (
    ID_SIZE,
    NO_COMMIT,
    CommitId,
    Contents,
    encode,
    first_head,
    next_head,
)
from webhook.backends.etcd_layout import Layout, shown_key
from webhook.backends.etcd_requests import Requests
from webhook.errors import LeewayError
from webhook.etcd.errors import EtcdError
from webhook.rbac.errors import (
    OutcomeUnknownError,
    StoreError,
    StoreUnavailableError,
    TooLargeError,
)
from webhook.rbac.records import ConflictError, Record

_RESULTS: Final[dict[type[Exception], str]] = {
    ConflictError: "conflict",
    NotWrittenError: "not_written",
    OutcomeUnknownError: "unknown",
    TooLargeError: "too_large",
}


class Writer:
    """Makes the commits of one process; ``name`` is what others call it in messages."""

    def __init__(
        self,
        requests: Requests,
        layout: Layout,
        following: Following,
        name: str,
        clock: Callable[[], float],
        wall: Callable[[], float],
        pause: Callable[[float], None],
    ) -> None:
        self._requests, self._layout, self._following = requests, layout, following
        self._name, self._clock, self._wall, self._pause = name, clock, wall, pause

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        """Write all records in one transaction, see ``Backend``."""
        following = self._following
        following.require_running()
        with following.changed:
            follower = following.follower
            if follower is None or follower.commit.revision != expected:
                following.counters.commits["conflict"] += 1
                raise ConflictError
            planned = follower.plan(records)
            old = Loaded(follower.commit, follower.head, follower.value, {})
        write = self._write(old, planned)
        written = self._commit(write, lambda: self._fence(old))
        following.wrote(follower, write, planned, written)
        following.announce(written.commit.revision)
        return written.commit.revision

    def initialise(self, records: Sequence[Record], store_id: str = "") -> bool:
        """Make a store of these records, see ``EtcdBackend.initialise``."""
        store = bytes.fromhex(store_id) if store_id else os.urandom(ID_SIZE)
        wall = self._wall()
        nothing = first_head(store, NO_COMMIT, Contents(0, 0), wall, self._name)
        empty = Loaded(CommitId(0, NO_COMMIT), nothing, b"", {})
        planned = Follower(self._layout, empty).plan(records)
        head = first_head(store, os.urandom(ID_SIZE), planned.contents, wall, self._name)
        write = Write(None, b"", head, encode(head), planned.values)
        try:
            self._commit(write, lambda: write)
        except ConflictError:
            self._require_store()
            return False
        return True

    def _require_store(self) -> None:
        try:
            found = self._requests.read_head(COMMIT_SECONDS)
        except EtcdError as error:
            raise StoreUnavailableError(f"the store is not available: {error}") from error
        if found.kv is None:
            raise StoreError(
                f"there are keys under {shown_key(self._layout.all)} in etcd, and no store; set "
                "store.etcd.prefix to one of its own, or remove those keys"
            )

    def _write(self, old: Loaded, planned: Planned) -> Write:
        head = next_head(
            old.head,
            old.commit.revision,
            os.urandom(ID_SIZE),
            planned.contents,
            self._wall(),
            self._name,
        )
        return Write(old.commit, old.value, head, encode(head), planned.values)

    def _fence(self, old: Loaded) -> Write:
        return self._write(old, Planned([], [], [], old.head.contents))

    def _commit(self, write: Write, fence: Callable[[], Write]) -> Written:
        commits, following = self._following.counters.commits, self._following
        attempts = Attempts(self._requests.send, self._clock, self._pause, following.successor)
        try:
            self._requests.require_fit(write)
            written = commit(write, fence, attempts)
        except (ConflictError, LeewayError) as error:
            commits[_RESULTS.get(type(error), "failed")] += 1
            if isinstance(error, NotWrittenError):
                raise StoreUnavailableError(str(error)) from error
            raise
        commits["committed"] += 1
        return written
