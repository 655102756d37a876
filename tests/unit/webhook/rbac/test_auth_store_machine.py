from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import settings

from tests.memory_backend import MemoryBackend
from tests.unit.webhook.rbac.store_machine import Shared, Stores
from webhook.backends.sqlite import SQLiteBackend
from webhook.rbac.records import Backend, Record

SETTINGS = settings(
    derandomize=True, deadline=None, max_examples=60, stateful_step_count=40, print_blob=True
)


class CompactingBackend(MemoryBackend):
    """Forgets deleted records on request."""

    def __init__(self) -> None:
        super().__init__()
        self.compacted = 0

    def compact(self) -> None:
        self.compacted = self._revision
        self._records = {k: v for k, v in self._records.items() if v[1] is not None}

    def changes(self, after: int, *, wait: bool = True) -> tuple[int, list[Record]] | None:
        return None if after < self.compacted else super().changes(after, wait=wait)


class InMemory(Shared):
    def __init__(self) -> None:
        self.backend = CompactingBackend()

    def open(self) -> Backend:
        return self.backend

    def compact(self) -> None:
        self.backend.compact()


class InSQLite(Shared):
    def __init__(self) -> None:
        self.folder = TemporaryDirectory()

    def open(self) -> Backend:
        return SQLiteBackend(Path(self.folder.name, "auth.db"))

    def close(self) -> None:
        self.folder.cleanup()


class StoresInMemory(Stores):
    share = InMemory


class StoresInSQLite(Stores):
    share = InSQLite


StoresInMemory.TestCase.settings = SETTINGS
TestStoresInMemory = StoresInMemory.TestCase
StoresInSQLite.TestCase.settings = settings(SETTINGS, max_examples=15)
TestStoresInSQLite = StoresInSQLite.TestCase
