"""Two stores on one prefix of a real etcd, against a state from scratch."""

import os
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.etcd_cluster import EtcdCluster
from tests.unit.webhook.rbac.store_machine import Shared, Stores
from webhook.backends.etcd import EtcdBackend
from webhook.etcd.client import EtcdClient
from webhook.rbac.records import Backend

_CLUSTERS: list[EtcdCluster] = []


@pytest.fixture(autouse=True)
def _cluster(etcd: EtcdCluster) -> Iterator[None]:
    _CLUSTERS.append(etcd)
    yield
    _CLUSTERS.clear()


class InEtcd(Shared):
    """A prefix of its own."""

    def __init__(self) -> None:
        self.prefix = f"/leeway-{uuid.uuid4().hex[:12]}"
        first = self._backend(follow=False)
        assert first.initialise([])
        first.close()

    def open(self) -> Backend:
        return self._backend(follow=True)

    def compact(self) -> None:
        _CLUSTERS[-1].compact()

    def _backend(self, *, follow: bool) -> EtcdBackend:
        client = EtcdClient(_CLUSTERS[-1].endpoints)
        return EtcdBackend(client, self.prefix, follow=follow, writer=f"test/{os.getpid()}")


class StoresInEtcd(Stores):
    share = InEtcd


StoresInEtcd.TestCase.settings = settings(
    derandomize=True, deadline=None, max_examples=8, stateful_step_count=40, print_blob=True
)
TestStoresInEtcd = StoresInEtcd.TestCase
