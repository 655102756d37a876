from collections.abc import Iterator

import pytest

from tests.feed_backend import FeedBackend, Log
from tests.unit.webhook.rbac.follower_parts import Clock, Server
from webhook.rbac.auth_store import AuthStore


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def backend(log: Log, clock: Clock) -> FeedBackend:
    return FeedBackend(log, clock)


@pytest.fixture
def store(backend: FeedBackend, clock: Clock) -> AuthStore:
    return AuthStore.loaded(backend, clock)


@pytest.fixture
def theirs(log: Log, clock: Clock) -> AuthStore:
    return AuthStore.loaded(FeedBackend(log, clock), clock)


@pytest.fixture
def server(store: AuthStore) -> Iterator[Server]:
    found = Server(store)
    yield found
    found.close()
