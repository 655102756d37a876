"""Claims: what one replica writes counts at the other at once, and one cut off stops answering.

Two real replicas, each behind a proxy to etcd of its own. The load is 200 TokenReviews/s at the
replica that is measured. A revocation is ``AuthStore.change`` in this process, and its time is
taken from when it returned until a TokenReview is refused.
"""

import base64
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.load_client import Load, Plan, count_load, review_target
from benchmarks.report import Figure, Row, limit_row
from benchmarks.tokens import token_review
from tests.e2e.harness import AUDIENCE
from tests.etcd_cluster import EtcdCluster
from tests.etcd_replicas import MAX_STALENESS, Replica, Replicas
from webhook.assembly import lifetimes_of, store_of
from webhook.config.load import load_configuration
from webhook.kube.token_review import TOKEN_REVIEW_PATH
from webhook.rbac import revocations
from webhook.rbac.auth_store import AuthStore

MEDIAN_MS: Final = 100.0
STOP_SECONDS: Final = MAX_STALENESS + 1.0
AGAIN_SECONDS: Final = 3.0
RATE: Final = 200.0
_PATIENCE: Final = 30.0
_PAUSE: Final = 0.2
_KILL_SECONDS: Final = 4.0


def measure(client: Path, folder: Path, cluster: EtcdCluster, *, quick: bool) -> list[Row]:
    """Measure revocations, a replica cut off, and kills of the leader."""
    revoked, cuts, kills = (10, 1, 1) if quick else (50, 5, 20)
    with Replicas(folder / "replicas", cluster, prefix="/replicas") as replicas:
        first, second = replicas
        with (
            closing(store_of(first.data_dir, load_configuration(first.data_dir, {}, {}))) as store,
            _loaded(client, second, revoked * _PAUSE * 2),
        ):
            delays = [_revocation(store, first, second) for _ in range(revoked)]
        isolated = [_isolation(second) for _ in range(cuts)]
        load = _kills(client, second, cluster, kills)
    return [
        *delay_rows(delays),
        limit_row(
            "a replica cut off from etcd: until it stops answering",
            ("stopped", [stopped for stopped, _ in isolated]),
            STOP_SECONDS,
            "s",
        ),
        limit_row(
            "a replica cut off from etcd: from the end of the cut until it answers",
            ("answers", [again for _, again in isolated]),
            AGAIN_SECONDS,
            "s",
        ),
        kills_row(kills, load),
    ]


def delay_rows(delays: Sequence[float]) -> list[Row]:
    """Make the rows of the median and the largest of the delays, in milliseconds."""
    claim = "a revocation at one replica counts at the other"
    return [
        limit_row(f"{claim}, median of {len(delays)}", ("p50", delays), MEDIAN_MS, "ms"),
        limit_row(f"{claim}, longest", ("max", [max(delays)]), MAX_STALENESS * 1e3, "ms"),
    ]


def kills_row(kills: int, load: Load) -> Row:
    """Make the row of the answers that were none, without a limit."""
    return Row(
        f"{kills} kills of the leader, {RATE:.0f} reviews/s",
        Figure("not answered", load.errors, "reviews"),
        Figure("of", load.requests, "reviews"),
        load.errors / load.requests,
        notes=(f"p50 {load.p50_ms:.2f} ms, p99 {load.p99_ms:.2f} ms, max {load.max_ms:,.0f} ms",),
    )


@contextmanager
def _loaded(client: Path, replica: Replica, seconds: float) -> Iterator[list[Load]]:
    """Send reviews meanwhile; the list has the result afterwards."""
    body = replica.data_dir.parent / "review"
    body.write_text(token_review(replica.server.sign(), AUDIENCE) + "\n", "ascii")
    target = review_target(
        replica.port, TOKEN_REVIEW_PATH, replica.data_dir, '"authenticated":true'
    )
    found: list[Load] = []
    plan = Plan(body, 4, seconds, RATE)
    thread = threading.Thread(target=lambda: found.append(count_load(client, target, plan)[0]))
    thread.start()
    try:
        yield found
    finally:
        thread.join()


def _revocation(store: AuthStore, first: Replica, second: Replica) -> float:
    """Return the milliseconds until a revocation counts at the second replica."""
    token = second.server.sign()
    lifetimes = lifetimes_of(load_configuration(first.data_dir, {}, {}))
    with second.server.client() as connection:
        if _status(connection, token) != (201, True):
            raise RuntimeError("a token was refused")
        store.change(revocations.revoke_jti, _jti_of(token), lifetimes, time.time())
        taken = _until(lambda: not _status(connection, token)[1])
    time.sleep(_PAUSE)
    return taken * 1e3


def _isolation(replica: Replica) -> tuple[float, float]:
    """Return the seconds until a replica that is cut off stops, and until it answers again."""
    token = replica.server.sign()
    with replica.server.client() as connection:
        _until(lambda: _status(connection, token)[0] == 201)
        replica.proxy.cut()
        stopped = _until(lambda: _status(connection, token)[0] == 503)
        replica.proxy.heal()
        return stopped, _until(lambda: _status(connection, token)[0] == 201)


def _kills(client: Path, replica: Replica, cluster: EtcdCluster, kills: int) -> Load:
    with _loaded(client, replica, kills * _KILL_SECONDS) as found:
        for _ in range(kills):
            ends = time.monotonic() + _KILL_SECONDS
            cluster.leader().kill()
            time.sleep(_KILL_SECONDS / 2)
            cluster.heal()
            time.sleep(max(0.0, ends - time.monotonic()))
    return found[0]


def _status(connection: http.client.HTTPSConnection, token: str) -> tuple[int, bool]:
    headers = {"Content-Type": "application/json"}
    connection.request("POST", TOKEN_REVIEW_PATH, token_review(token, AUDIENCE), headers)
    answer = connection.getresponse()
    return answer.status, b'"authenticated":true' in answer.read()


def _until(condition: Callable[[], bool]) -> float:
    """Return the seconds until a condition holds. Raises RuntimeError after some patience."""
    started = time.perf_counter()
    while not condition():
        if time.perf_counter() - started > _PATIENCE:
            raise RuntimeError("a replica did not change its answers")
    return time.perf_counter() - started


def _jti_of(token: str) -> str:
    payload = token.split(".")[1]
    found: str = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["jti"]
    return found
