"""Replicas in the test's own process: the store's real code without a server around it.

What the network does to one replica is decided by its ``HeldClient``; every answer and change is
recorded for the judge.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from math import inf

from tests.etcd_cluster import EtcdCluster
from webhook.backends.etcd import EtcdBackend, boottime
from webhook.etcd.client import EtcdClient
from webhook.etcd.errors import Code, NoAnswerError
from webhook.etcd.operations import Compare, Operation
from webhook.etcd.values import RangeAnswer, TxnAnswer, WatchBatch
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import AuthError, OutcomeUnknownError, StoreUnavailableError
from webhook.rbac.records import BasisLostError, Record
from webhook.rbac.state import AuthState

from .history import Answer, Change, Fault, History, Outcome
from .store_observer import Observer, digest_in_store
from .store_requests import RolesRequest, roles_in

_SECONDS = 10.0


class HeldClient(EtcdClient):
    """A client whose answers can be held back, and whose transactions arrive late or twice."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        super().__init__(endpoints)
        self.reads, self.watches = threading.Event(), threading.Event()
        self.reads.set()
        self.watches.set()
        self.twice = False
        self.loses_next = False
        self.late: list[Callable[[], TxnAnswer]] = []
        """Transactions that were called lost, and have not arrived yet."""

    def range(self, *given: object, **more: object) -> RangeAnswer:
        answer = super().range(*given, **more)  # type: ignore[arg-type]
        # As a process that is stopped between the answer and the next line.
        self.reads.wait(_SECONDS)
        return answer

    def watch(self, *given: object, **more: object) -> "_HeldWatch":  # type: ignore[override]
        return _HeldWatch(super().watch(*given, **more), self.watches)  # type: ignore[arg-type]

    def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout: float = 5.0,
        endpoint: str | None = None,
    ) -> TxnAnswer:
        send = partial(super().txn, compares, success, failure, timeout=timeout, endpoint=endpoint)
        if self.loses_next:
            self.loses_next = False
            self.late.append(send)
            raise NoAnswerError("etcd did not answer in time", code=Code.DEADLINE_EXCEEDED)
        answer = send()
        return send() if self.twice else answer


class _HeldWatch:
    def __init__(self, watch: "object", gate: threading.Event) -> None:
        self._watch, self._gate = watch, gate
        self.endpoint: str = watch.endpoint  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[WatchBatch]:
        for batch in self._watch:  # type: ignore[attr-defined]
            self._gate.wait(_SECONDS)
            yield batch

    def close(self) -> None:
        self._watch.close()  # type: ignore[attr-defined]


class Beside:
    """One replica. ``world`` records what it says."""

    def __init__(self, world: "World", name: str, endpoints: Sequence[str]) -> None:
        self.name, self.client = name, HeldClient(endpoints)
        self._world = world
        backend = EtcdBackend(
            self.client, world.prefix, follow=True, writer=name, max_staleness=world.staleness
        )
        self.store = AuthStore(backend, boottime)
        self.store.load()

    def answer(self, user: str, before_it_leaves: Callable[[], None] = lambda: None) -> None:
        """Answer as a server does: a basis, a verdict, and a look back before it leaves."""
        inv, told, position = time.monotonic(), None, ""
        with suppress(StoreUnavailableError, BasisLostError):
            basis = self.store.basis()
            found = roles_in(basis.state, user)
            before_it_leaves()
            self.store.confirm(basis)
            told = found
        self._world.answers.append(
            Answer(
                len(self._world.answers), RolesRequest(user), inv, time.monotonic(), told,
                self.name, self.name, position, is_503=told is None,
            )
        )  # fmt: skip

    def answers_for(self, seconds: float, user: str) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.answer(user)
            time.sleep(0.01)

    def change(self, decide: Callable[..., Sequence[Record]], *arguments: str) -> Outcome:
        inv, resp, revision, error = time.monotonic(), inf, 0, ""
        try:
            self.store.change(decide, *arguments)
            outcome, revision = Outcome.ACKNOWLEDGED, self.store.own_revision
        except OutcomeUnknownError:
            outcome = Outcome.UNKNOWN
        except StoreUnavailableError:
            outcome = Outcome.NOT_WRITTEN
        except AuthError as refusal:
            outcome, error = Outcome.REFUSED, str(refusal)
        if outcome is not Outcome.UNKNOWN:
            resp = time.monotonic()
        made = Change(
            len(self._world.changes), "lane", frozenset(arguments),
            partial(_decided, decide, arguments), inv, resp, outcome, error, revision,
            self.name, self.name, f"{decide.__name__} {' '.join(arguments)} at {self.name}",
        )  # fmt: skip
        self._world.changes.append(made)
        return outcome

    def proven(self) -> float:
        """Take over what is here, and return as of when that is complete."""
        revision = self.store.basis().revision
        return self.store.backend.proven(revision)

    def close(self) -> None:
        self.client.reads.set()
        self.client.watches.set()
        self.store.close()


class World:
    """A store in etcd, replicas of it, and what they have said."""

    def __init__(self, cluster: EtcdCluster, prefix: str, staleness: float) -> None:
        self.cluster, self.prefix, self.staleness = cluster, prefix, staleness
        self.answers: list[Answer] = []
        self.changes: list[Change] = []
        self._replicas: list[Beside] = []
        backend = EtcdBackend(EtcdClient(cluster.endpoints), prefix, follow=False, writer="init")
        assert backend.initialise([])
        backend.close()

    def replica(self, name: str, endpoints: Sequence[str] = ()) -> Beside:
        made = Beside(self, name, endpoints or self.cluster.endpoints)
        self._replicas.append(made)
        return made

    def history(self, observer: Observer) -> History:
        """Return what was recorded; nobody is held to liveness here."""
        observer.catch_up()
        assert not observer.strays
        return History(
            self.staleness, observer.log, self.changes, self.answers, [Fault("all", -inf, inf)],
            replica_wide=False, record_digest=digest_in_store,
        )  # fmt: skip

    def close(self) -> None:
        for replica in self._replicas:
            replica.close()


def _decided(
    decide: Callable[..., Sequence[Record]], arguments: Sequence[str], state: AuthState
) -> Sequence[Record]:
    return decide(state, *arguments)
