"""A position in the history of a store, as clients get it: opaque to them. Pure."""

from threading import Lock
from typing import Final

from webhook.backends.etcd_head import ID_SIZE, CommitId
from webhook.rbac.errors import ForeignPositionError

_MAX_SIZE: Final = 100
_MAX_AWAITED: Final = 64
_HEX: Final = frozenset("0123456789abcdef")


class AwaitedPositions:
    """When positions were first waited for. Safe for threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._since: dict[str, float] = {}

    def is_behind(self, position: str, proof: float, now: float) -> bool:
        """Return whether a position was waited for before the read of a proof was sent."""
        with self._lock:
            since = self._since.setdefault(position, now)
            while len(self._since) > _MAX_AWAITED:
                del self._since[next(iter(self._since))]
        return proof > since


def format_position(store_id: str, commit: CommitId) -> str:
    """Return the text of a commit of a store."""
    return f"{store_id}.{commit.revision:x}.{commit.id.hex()}"


def parse_position(text: str) -> tuple[str, CommitId]:
    """Return the store's id and the commit. Raises ForeignPositionError for any other text."""
    parts = text.split(".") if len(text) <= _MAX_SIZE else []
    if len(parts) == 3 and _HEX.issuperset("".join(parts)) and all(parts):
        store_id, revision, commit_id = parts
        is_sized = len(store_id) == len(commit_id) == 2 * ID_SIZE
        commit = CommitId(int(revision, 16), bytes.fromhex(commit_id) if is_sized else b"")
        if is_sized and format_position(store_id, commit) == text:
            return store_id, commit
    raise ForeignPositionError(
        "the position is not one of a store in etcd; use one that this store gave out"
    )
