"""A worker stays within ``server.maxWorkerBytes``, whatever tokens it reviews."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keys import jws
from webhook.assembly import keyring_of
from webhook.token.claims import ObjectReference, build_projected

from .harness import AUDIENCE, REVIEWS, RunningServer, request_on, review_of, start_server

MIB = 1024 * 1024
BOUND = 128 * MIB
CLIENTS = 2
# A little below the largest token: its claims are kept once they are verified.
AUDIENCES = 30
AUDIENCE_CHARACTERS = 700
TOKENS = 5000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """Run one worker with the smallest allowed bound."""
    environment = {
        "LEEWAY_SERVER_MAX_WORKER_BYTES": str(BOUND),
        "LEEWAY_SERVER_WORKERS": "1",
    }
    running = start_server(tmp_path, algorithm="ES256", environment=environment)
    try:
        yield running
        running.stop()
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


def worker_of(server: RunningServer) -> int:
    master = server.process.pid
    (worker,) = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    return int(worker)


def resident(pid: int, field: str) -> int:
    """Return ``VmRSS``, or its peak ``VmHWM``, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


def large_tokens(server: RunningServer, first: int, count: int) -> Iterator[str]:
    key = keyring_of(server.data_dir).signing_key()
    for number in range(first, first + count):
        audiences = [
            f"{number:06}-{i:03}-".ljust(AUDIENCE_CHARACTERS, "x") for i in range(AUDIENCES)
        ]
        _, payload = build_projected(
            issuer="https://leeway.default.svc",
            namespace="demo",
            service_account=ObjectReference("default", "66bff4eb-5231-4bfa-b116-b20312443c46"),
            audiences=[AUDIENCE, *audiences],
            now=time.time(),
            expiration_seconds=3600,
        )
        yield jws.sign(payload, key)


def review_all(server: RunningServer, first: int, count: int) -> int:
    """Review different tokens on one connection; return the bytes of their audiences."""
    with server.client() as client:
        for token in large_tokens(server, first, count):
            body = json.dumps(review_of(token)).encode()
            answer = request_on(client, "POST", REVIEWS, body, {"Content-Type": "application/json"})
            assert answer.json["status"]["authenticated"] is True
    return count * AUDIENCES * AUDIENCE_CHARACTERS


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system has no /proc")
def test_a_worker_never_exceeds_its_bound(server: RunningServer) -> None:
    worker = worker_of(server)
    before = resident(worker, "VmRSS")
    share = TOKENS // CLIENTS
    with ThreadPoolExecutor(CLIENTS) as pool:
        rounds = pool.map(lambda n: review_all(server, n * share, share), range(CLIENTS))
    # Otherwise the bound would hold without being enforced.
    assert before + sum(rounds) > 1.1 * BOUND
    assert worker_of(server) == worker
    assert resident(worker, "VmHWM") <= BOUND
    # Not by caching nothing.
    assert resident(worker, "VmRSS") > before + (BOUND - before) // 4
    answer = server.request("GET", "/readyz?verbose")
    assert b"memory" not in answer.body, answer.body
