"""What the tests of the client of etcd share."""

import time
from collections.abc import Callable
from typing import TypeVar

from tests.etcd_cluster import (
    EtcdCluster,
)
from webhook.etcd.client import EtcdClient
from webhook.etcd.credentials import EtcdLogin, EtcdTLS
from webhook.etcd.errors import (
    EtcdError,
    NoAnswerError,
)
from webhook.etcd.operations import (
    prefix_end,
)
from webhook.etcd.values import WatchBatch
from webhook.etcd.watch import Watch

ALL = b"/leeway/"
END = prefix_end(ALL)
LONG = 30.0
"""Seconds that only a fault reaches."""
ATTEMPT_SECONDS = 0.05
T = TypeVar("T")


def client_of(cluster: EtcdCluster, login: EtcdLogin | None = None) -> EtcdClient:
    tls = None
    if cluster.files:
        files = cluster.files
        tls = EtcdTLS(str(files.ca_file), str(files.cert_file), str(files.key_file))
    return EtcdClient(cluster.endpoints, tls, login)


def eventually(call: Callable[[], T]) -> T:
    """Repeat what fails because etcd is not there yet."""
    deadline = time.monotonic() + LONG
    while True:
        try:
            return call()
        except EtcdError:
            if time.monotonic() > deadline:
                raise
            time.sleep(ATTEMPT_SECONDS)


def take(watch: Watch, count: int) -> list[WatchBatch]:
    """Return batches until they have so many events."""
    batches: list[WatchBatch] = []
    while sum(len(batch.events) for batch in batches) < count:
        batches.append(next(watch))
    return batches


def until_its_end(watch: Watch) -> list[int]:
    """Return the revisions that a watch still delivers before it ends with an error."""
    found: list[int] = []
    try:
        for batch in watch:
            found += revisions([batch])
    except NoAnswerError:
        return found
    raise AssertionError("it ended without an error")


def revisions(batches: list[WatchBatch]) -> list[int]:
    return [event.kv.mod_revision for batch in batches for event in batch.events]
