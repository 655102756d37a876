"""Writes a head for the records that are there, after something other than Leeway changed them.

For an operator who has looked at them: what is missing stays missing, and nothing tells that it was
there. Servers may run meanwhile; they load everything again.

Invariants:

1. A repair writes exactly one key, the head, and only if nothing under the prefix was written since
   it was planned.
2. The store keeps its id if any head names one, so that positions and replicas go on.
"""

import os
from typing import NamedTuple

from webhook.backends import etcd_load
from webhook.backends.etcd_commit import Answer
from webhook.backends.etcd_head import (
    ID_SIZE,
    Head,
    HeadError,
    decode,
    encode,
    first_head,
    next_head,
)
from webhook.backends.etcd_layout import Layout
from webhook.backends.etcd_load import Found
from webhook.backends.etcd_requests import Requests
from webhook.rbac.errors import NotInitialisedError, StoreChangedError


class RepairPlan(NamedTuple):
    """What is wrong with a store, and what a repair would make of it."""

    problems: tuple[str, ...]
    """Sentences; empty if nothing is wrong."""
    records: int
    """How many records the repaired store has."""
    unreadable: tuple[str, ...]
    """The keys that are not records; they stay, and are not of the store."""
    store_id: str
    revision: int
    """Of etcd, when the store was looked at."""
    head_value: bytes
    """What is written."""

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to repair."""
        return bool(self.problems)


def plan_repair(requests: Requests, layout: Layout, wall: float, writer: str) -> RepairPlan:
    """Look at a store. Raises NotInitialisedError if there are no keys, and EtcdError."""
    page = etcd_load.read_all(layout.records, requests.fetch)
    found = etcd_load.find(layout, page.kvs)
    if found.head is None and not found.records:
        raise NotInitialisedError(
            "there are no records of a store in etcd, so there is nothing to repair"
        )
    problems, old = _problems(found)
    problems += found.unreadable
    head = _head(found, old, wall, writer)
    return RepairPlan(
        tuple(problems),
        found.contents.records,
        tuple(found.foreign),
        head.store.hex(),
        page.revision,
        encode(head),
    )


def repair(requests: Requests, plan: RepairPlan) -> Answer:
    """Write the planned head (invariant 1). Raises StoreChangedError and EtcdError."""
    answer = requests.write_head(plan.head_value, plan.revision)
    if not answer.succeeded:
        raise StoreChangedError(
            "the store was changed while the repair was considered, and nothing was repaired; look "
            "at it again"
        )
    return answer


def _problems(found: Found) -> tuple[list[str], Head | None]:
    if found.head is None:
        return ["the head is missing"], None
    try:
        head = decode(found.head.value)
    except HeadError as error:
        return [str(error)], None
    if found.contents == head.contents:
        return [], head
    return [
        f"the head describes {head.count} records (its writer was {head.writer}), and there are "
        f"{found.contents.records}, or others"
    ], head


def _head(found: Found, old: Head | None, wall: float, writer: str) -> Head:
    commit = os.urandom(ID_SIZE)
    if old is None or found.head is None:  # Invariant 2.
        return first_head(os.urandom(ID_SIZE), commit, found.contents, wall, writer)
    return next_head(old, found.head.mod_revision, commit, found.contents, wall, writer)
