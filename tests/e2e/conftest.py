import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import RunningServer, start_server
from .kubectl import Kubectl


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Run one server for all tests that do not stop it; no token may be in what it logs."""
    running = start_server(tmp_path_factory.mktemp("server"))
    try:
        yield running
    finally:
        running.stop()
    log = running.log()
    assert not [token[:12] for token in running.tokens if _secret_part(token) in log]


def _secret_part(token: str) -> str:
    # Header and claims repeat from token to token; only the signature must not be found.
    return token.rpartition(".")[2][:40]


@pytest.fixture(scope="session")
def nobody(server: RunningServer) -> ssl.SSLContext:
    """Return the context of a client without certificate."""
    return server.context("")


@pytest.fixture
def kubectl(server: RunningServer, tmp_path: Path) -> Kubectl:
    return Kubectl(server, tmp_path)
