"""Where the backends of the contract suite keep their data, one of each kind."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime

import pytest

from tests.etcd_cluster import EtcdCluster
from tests.memory_backend import MemoryBackend
from webhook.backends.etcd import EtcdBackend
from webhook.backends.sqlite import SQLiteBackend
from webhook.etcd.client import EtcdClient
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.records import Backend


class Place:
    """Where backends of one kind keep their data; ``opener`` returns another backend on it."""

    def __init__(self, kind: str, opener: Callable[[], Backend]) -> None:
        self.kind = kind
        self._opener = opener
        self._opened: list[Backend] = []

    def open(self) -> Backend:
        """Return a backend on which nothing was called yet."""
        backend = self._opener()
        self._opened.append(backend)
        return backend

    def used(self) -> tuple[Backend, int]:
        """Return a backend, and its revision, which was loaded and is in use."""
        backend = self.open()
        revision, _ = backend.load()
        backend.applied(revision)
        return backend, revision

    def store(self) -> AuthStore:
        """Return a store that is loaded."""
        return AuthStore.loaded(self.open(), lambda: clock_gettime(CLOCK_BOOTTIME))

    def close(self) -> None:
        """Close every backend."""
        for backend in self._opened:
            backend.close()


def memory(_request: pytest.FixtureRequest, _folder: Path) -> Place:
    """Return a place whose backends are one and the same."""
    shared = MemoryBackend()
    return Place("memory", lambda: shared)


def sqlite(_request: pytest.FixtureRequest, folder: Path) -> Place:
    """Return a place in a folder."""
    return Place("sqlite", lambda: SQLiteBackend(folder / "store.db"))


def etcd(request: pytest.FixtureRequest, _folder: Path) -> Place:
    """Return a prefix of its own in a real etcd; its backends follow it as those of a server do."""
    cluster: EtcdCluster = request.getfixturevalue("etcd")
    prefix = f"/leeway-{uuid.uuid4().hex[:12]}"

    def open_one(*, follow: bool = True) -> EtcdBackend:
        client = EtcdClient(cluster.endpoints)
        return EtcdBackend(client, prefix, follow=follow, writer=f"test/{os.getpid()}")

    first = open_one(follow=False)
    assert first.initialise([])
    first.close()
    return Place("etcd", open_one)


PLACES: dict[str, Callable[[pytest.FixtureRequest, Path], Place]] = {
    "memory": memory,
    "sqlite": sqlite,
    "etcd": etcd,
}
"""Each returns an empty place, on which ``load`` succeeds; another one at each call."""
