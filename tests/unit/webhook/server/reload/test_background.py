"""The uses of auth tokens are written beside the event loop, again and again until it works."""

import asyncio
import logging
from collections.abc import Sequence

import pytest

from tests.memory_backend import MemoryBackend
from tests.support import NOW, until
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.auth_tokens import SimpleTokens, TokenUses
from webhook.rbac.errors import StoreError, StoreUnavailableError
from webhook.rbac.records import Record
from webhook.server.reload.background import UseWriter, every


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
