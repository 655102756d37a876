"""The uses of auth tokens are written beside the event loop, again and again until it works."""

import asyncio
import logging
from collections.abc import Sequence

import pytest

from tests.memory_backend import MemoryBackend
from tests.support import NOW, until
from tests.unit.webhook.server.aging_store import AgingBackend, AgingStore, Clock
from webhook.errors import LeewayError
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import NotInitialisedError, StoreError, StoreUnavailableError
from webhook.rbac.records import REVOKED_JTI, Record, Revocation, revocation_record
from webhook.rbac.simple_tokens import SimpleTokens, TokenUses
from webhook.rbac.state import AuthState
from webhook.server.reload import background
from webhook.server.reload.background import REPORTED_SECONDS, StoreKeeper, UseWriter, every


class Backend(MemoryBackend):
    """Refuses to write while it has an error."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.refused = 0

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        if self.error is not None:
            self.refused += 1
            raise self.error
        return super().commit(expected, records)


@pytest.mark.parametrize("error", [StoreUnavailableError("locked"), StoreError("damaged")])
def test_what_cannot_be_written_is_tried_again_and_said_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Backend()
    store = AuthStore.loaded(backend)
    store.change(changes.add_user, "a", b"hash")
    uses = TokenUses(store)
    tokens, writer = SimpleTokens(store, uses), UseWriter(uses)
    token = tokens.assign(store.user("a"), NOW)

    async def run() -> None:
        keeping = asyncio.create_task(every(0.001, writer.write_new))
        for later in (100, 200):
            backend.error, backend.refused = error, 0
            tokens.resolve(token, NOW + later)
            await until(lambda: backend.refused > 3)
            backend.error = None
            await until(lambda: not uses)
        keeping.cancel()

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert [record.used for record in store.state.tokens.values()] == [NOW + 200]
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"the use of an auth token was not written down: {error}"] * 2


@pytest.mark.parametrize(("max_records", "least", "most"), [(None, 1, 1), (4032, 8, 12)])
def test_uses_are_written_less_often_where_replicas_share_the_store(
    max_records: int | None, least: int, most: int
) -> None:
    backend = Backend()
    store = AuthStore.loaded(backend)
    store.change(changes.add_user, "a", b"hash")
    backend.max_records = max_records
    now, uses = [0.0], TokenUses(store)
    tokens, writer = SimpleTokens(store, uses), UseWriter(uses, lambda: now[0])
    token = tokens.assign(store.user("a"), NOW)
    tokens.resolve(token, NOW + 200)
    rounds = 0

    async def run() -> None:
        nonlocal rounds
        while uses:
            now[0] += 1
            rounds += 1
            await writer.write_new()

    asyncio.run(run())
    assert least <= rounds <= most


def test_a_job_that_fails_is_logged_and_repeated(caplog: pytest.LogCaptureFixture) -> None:
    ran = 0

    async def job() -> None:
        nonlocal ran
        ran += 1
        raise OSError("Too many open files")

    async def run() -> None:
        task = asyncio.create_task(every(0.001, job))
        await until(lambda: ran > 1)
        task.cancel()

    asyncio.run(run())
    assert "Too many open files" in caplog.text


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "leeway"]


def test_an_age_that_grows_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [0.0]
    monkeypatch.setattr(background, "monotonic", lambda: seconds[0])
    backend = AgingBackend(Clock())
    store = AgingStore(backend)
    keeper = StoreKeeper(store)
    store.load()
    assert keeper.problem() == ""
    backend.proof = backend.clock.now
    problems = set()
    with caplog.at_level(logging.INFO):
        for _ in range(100):
            backend.clock.now += 0.1
            seconds[0] += 0.1
            problems.add(keeper.problem())
        assert len(problems) > 50
        backend.proof = None
        seconds[0] += 2
        assert keeper.problem() == ""
    first, last = logged(caplog)
    assert first.startswith("requests that need the store are refused: what is here of the store")
    assert last == "the store can be read again"


@pytest.mark.parametrize(
    "error",
    [
        NotInitialisedError("there is no store at /leeway; make one with `leeway init`"),
        StoreError("the store at /leeway is damaged"),
    ],
)
def test_why_there_is_no_state_is_said(
    error: LeewayError, caplog: pytest.LogCaptureFixture
) -> None:
    backend = AgingBackend(Clock())
    backend.error = error
    keeper = StoreKeeper(AgingStore(backend))

    async def run() -> None:
        await until(lambda: keeper.problem() == str(error))

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    assert logged(caplog) == [f"requests that need the store are refused: {error}"]


def test_what_a_lost_history_lacks_is_said_for_ten_minutes(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [0.0]
    monkeypatch.setattr(background, "monotonic", lambda: seconds[0])
    backend = AgingBackend(Clock())
    backend.max_records = 1000  # as a store that replicas share
    store = AgingStore(backend)
    keeper = StoreKeeper(store)
    store.load()
    before, after = AuthState(), AuthState()
    before.apply(3, [revocation_record(REVOKED_JTI, "lost", Revocation(1, 2.0))])
    assert keeper.warning() == ""
    with caplog.at_level(logging.INFO):
        store.on_replaced(before, after)
    assert "has lost a part of its history and was taken over; it lacks: " in keeper.warning()
    assert "lost" in keeper.warning()
    assert "store.replace" in caplog.text
    seconds[0] += REPORTED_SECONDS - 1
    assert keeper.warning()
    seconds[0] += 2
    assert keeper.warning() == ""
