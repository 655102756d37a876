"""What the members of an etcd cluster say of themselves, for ``leeway store status``."""

from collections.abc import Callable
from typing import NamedTuple

from webhook.backends.etcd_requests import Client
from webhook.etcd.errors import EtcdError


class EndpointStatus(NamedTuple):
    """One member; ``error`` says why the rest is not known, and is empty otherwise."""

    endpoint: str
    error: str = ""
    version: str = ""
    is_leader: bool = False
    has_leader: bool = False
    db_size: int = 0
    """Bytes."""
    db_quota: int = 0
    """Bytes, 0 if it does not say."""
    seconds: float = 0.0
    """How long it took to answer."""
    problems: tuple[str, ...] = ()
    """What the member says is wrong with it."""


class StoreStatus(NamedTuple):
    """The members, and the alarms of the cluster such as ``NOSPACE``."""

    endpoints: tuple[EndpointStatus, ...]
    alarms: tuple[str, ...]


def status_of(client: Client, clock: Callable[[], float], timeout: float) -> StoreStatus:
    """Ask each member; ``timeout`` (seconds) is for each. Raises nothing of etcd's."""
    endpoints = tuple(_status_of(client, endpoint, clock, timeout) for endpoint in client.endpoints)
    alarms: tuple[str, ...] = ()
    if any(not endpoint.error for endpoint in endpoints):
        try:
            alarms = tuple(sorted({alarm.kind for alarm in client.alarms(timeout=timeout)}))
        except EtcdError:
            alarms = ()  # The members name their own among their problems.
    return StoreStatus(endpoints, alarms)


def _status_of(
    client: Client, endpoint: str, clock: Callable[[], float], timeout: float
) -> EndpointStatus:
    started = clock()
    try:
        found = client.status(endpoint, timeout=timeout)
    except EtcdError as error:
        return EndpointStatus(endpoint, str(error))
    return EndpointStatus(
        endpoint,
        "",
        found.version,
        found.leader == found.header.member_id,
        found.leader != 0,
        found.db_size,
        found.db_quota,
        clock() - started,
        found.errors,
    )
