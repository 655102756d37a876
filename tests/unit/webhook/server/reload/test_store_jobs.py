"""What a worker does for its store beside the requests: it reports, and one of them tidies."""

import asyncio
from math import inf
from pathlib import Path
from threading import Event
from time import sleep

import pytest
from prometheus_client import CollectorRegistry

from tests.memory_backend import MemoryBackend
from webhook.rbac import revocations
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreUnavailableError
from webhook.rbac.records import Record
from webhook.rbac.revocations import Lifetimes
from webhook.server.reload.background import StoreKeeper
from webhook.server.reload.store_reporter import StoreReporter
from webhook.server.reload.store_tidying import StoreTidying
from webhook.telemetry.store_metrics import StoreMetrics

NOW = 1_800_000_000.0
LIFETIMES = Lifetimes(3600, 0.0, 60)
YEARS = 3 * 365 * 86400


class AwayBackend(MemoryBackend):
    """A backend that cannot be reached until it is told so."""

    is_away = True

    def load(self) -> tuple[int, list[Record]]:
        if self.is_away:
            raise StoreUnavailableError("etcd is away")
        return super().load()


def gauges(registry: CollectorRegistry) -> tuple[float | None, float | None]:
    return (
        registry.get_sample_value("leeway_store_age_seconds"),
        registry.get_sample_value("leeway_store_revision"),
    )


def test_the_age_is_infinite_before_the_first_load() -> None:
    registry = CollectorRegistry()
    store = AuthStore(AwayBackend())
    StoreReporter(store, StoreMetrics(registry)).report()
    assert gauges(registry) == (inf, 0)


def test_a_store_that_is_looked_at_before_each_answer_has_no_age() -> None:
    registry = CollectorRegistry()
    store = AuthStore.loaded(MemoryBackend())
    store.change(revocations.revoke_jti, "j", LIFETIMES, NOW)
    StoreReporter(store, StoreMetrics(registry)).report()
    assert gauges(registry) == (0, store.state.revision)


class SlowBackend(MemoryBackend):
    """A backend that loads for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.go = Event()

    def load(self) -> tuple[int, list[Record]]:
        self.go.wait()
        return super().load()


def test_nothing_is_ready_while_the_first_load_is_under_way(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = SlowBackend()
    keeper = StoreKeeper(AuthStore(backend))
    assert "is being read" in keeper.problem()
    # A start is not a fault.
    assert caplog.messages == []
    backend.go.set()
    for _ in range(500):
        if not keeper.problem():
            break
        sleep(0.01)
    assert keeper.problem() == ""


class ProvenBackend(MemoryBackend):
    """A backend with a proof of one moment."""

    max_staleness = inf

    def proven(self, revision: int) -> float:
        return 100.0


def test_the_age_makes_no_line_of_its_own(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = ProvenBackend()
    backend.max_staleness = 3.0
    now = [104.0]
    keeper = StoreKeeper(AuthStore.loaded(backend, lambda: now[0]))
    monkeypatch.setattr("webhook.server.reload.background.monotonic", lambda: now[0])
    found = set()
    for _ in range(10):
        now[0] += 1.0
        found.add(keeper.problem())
    assert len(found) == 10
    (line,) = caplog.messages
    assert "was complete 5.0 s ago, and at most 3 s are allowed" in line


def test_the_age_of_a_proof() -> None:
    registry = CollectorRegistry()
    store = AuthStore.loaded(ProvenBackend(), lambda: 102.5)
    StoreReporter(store, StoreMetrics(registry)).report()
    assert gauges(registry)[0] == 2.5


def revoked_long_ago(backend: MemoryBackend) -> AuthStore:
    store = AuthStore.loaded(backend)
    store.change(revocations.revoke_jti, "j", LIFETIMES, 1000.0)
    assert store.state.revoked_jtis
    return store


def test_one_worker_tidies_once(tmp_path: Path) -> None:
    store = revoked_long_ago(MemoryBackend())
    first, second = (StoreTidying(store, lambda: LIFETIMES, str(tmp_path)) for _ in range(2))
    asyncio.run(first.run())
    assert not store.state.revoked_jtis
    store.change(revocations.revoke_jti, "j", LIFETIMES, 1000.0)
    for tidying in (first, second):
        asyncio.run(tidying.run())
    assert store.state.revoked_jtis


def test_a_worker_alone_tidies() -> None:
    store = revoked_long_ago(MemoryBackend())
    asyncio.run(StoreTidying(store, lambda: LIFETIMES, None).run())
    assert not store.state.revoked_jtis


def test_a_store_that_is_away_is_tidied_later(tmp_path: Path) -> None:
    backend = AwayBackend()
    store = AuthStore(backend)
    tidying = StoreTidying(store, lambda: LIFETIMES, str(tmp_path))
    asyncio.run(tidying.run())
    assert not list(tmp_path.iterdir())
    backend.is_away = False
    store.load()
    store.change(revocations.revoke_jti, "j", LIFETIMES, 1000.0)
    asyncio.run(tidying.run())
    assert not store.state.revoked_jtis


def test_a_change_that_fails_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend()
    store = revoked_long_ago(backend)

    def fail(*_: object) -> int:
        raise StoreUnavailableError("etcd is away")

    monkeypatch.setattr(backend, "commit", fail)
    asyncio.run(StoreTidying(store, lambda: LIFETIMES, str(tmp_path)).run())
    assert caplog.messages == ["old revocations were not dropped: etcd is away"]
