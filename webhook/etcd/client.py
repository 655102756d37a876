r"""A client of etcd: several endpoints, TLS, a log-in that is renewed, transactions, watches.

::

    client = EtcdClient(
        ["https://10.0.0.11:2379", "https://10.0.0.12:2379"],
        EtcdTLS("etcd-ca.crt", "etcd-client.crt", "etcd-client.key"),
    )
    answer = client.txn(
        [mod_revision_is(b"/a/head", 7)], [Put(b"/a/head", b"new")], [Get(b"/a/head")]
    )
    with client.watch(b"/a/", prefix_end(b"/a/"), start_revision=8) as watch:
        for batch in watch:
            print(batch.events)

Every method raises an EtcdError; ``timeout`` is in seconds, for all that a call does. A call goes
to ``endpoint``, or, without one, to the endpoint that answered last and then to the others. A write
is sent once: after an error whose ``is_definite`` is false it may have been executed, or still be.

Threads can share a client. gRPC does not survive a fork: import this module after it.
"""

from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from webhook.etcd import messages, methods
from webhook.etcd import rpc_pb2 as rpc
from webhook.etcd.calls import Calls
from webhook.etcd.channels import Channels
from webhook.etcd.credentials import EtcdLogin, EtcdTLS
from webhook.etcd.endpoint import parse_endpoint
from webhook.etcd.errors import unreadable
from webhook.etcd.operations import Compare, Delete, Get, Operation, Put, Txn
from webhook.etcd.session import Session
from webhook.etcd.values import (
    Alarm,
    AuthStatus,
    DeleteAnswer,
    GrantedRange,
    Header,
    Lease,
    Member,
    MemberStatus,
    PutAnswer,
    RangeAnswer,
    TxnAnswer,
)
from webhook.etcd.watch import Watch, open_watch

TIMEOUT: Final = 5.0


class EtcdClient:
    """The client. Raises ValueError for URLs that are no endpoints (see ``parse_endpoint``)."""

    def __init__(
        self,
        endpoints: Sequence[str],
        tls: EtcdTLS | None = None,
        login: EtcdLogin | None = None,
    ) -> None:
        parsed = [parse_endpoint(url) for url in endpoints]
        if not parsed:
            raise ValueError("a client of etcd needs at least one endpoint")
        self._channels = Channels(parsed, tls)
        self._session = Session(login) if login else None
        urls = tuple(dict.fromkeys(endpoint.url for endpoint in parsed))
        self._calls = Calls(urls, self._channels, self._session)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The URLs of all endpoints."""
        return self._calls.endpoints

    @property
    def endpoint(self) -> str:
        """The endpoint that is tried first now."""
        return self._calls.first

    @property
    def problem(self) -> str:
        """Why new certificates are not in use; empty if they are, or if there are none."""
        return self._channels.problem

    def next_endpoint(self, after: str) -> str:
        """Return the endpoint that follows one in the list."""
        return self._calls.next_endpoint(after)

    def close(self) -> None:
        """Close all connections. Calls and watches that are under way end with an error."""
        self._channels.close()

    def range(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        revision: int = 0,
        limit: int = 0,
        serializable: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        timeout: float = TIMEOUT,
        endpoint: str | None = None,
        hedge: float | None = None,
    ) -> RangeAnswer:
        """Read a key or range, linearizably unless ``serializable``.

        ``hedge`` is after how many seconds without an answer another endpoint is asked too.
        """
        get = Get(key, range_end, revision, limit, keys_only, count_only)
        request = messages.range_request(get, serializable=serializable)
        message, url = self._calls.read(methods.RANGE, request, timeout, endpoint, hedge)
        return messages.range_answer(message, messages.header(message.header), url)

    def put(
        self,
        key: bytes,
        value: bytes,
        *,
        lease: int = 0,
        prev_kv: bool = False,
        timeout: float = TIMEOUT,
        endpoint: str | None = None,
    ) -> PutAnswer:
        """Write a key."""
        request = messages.put_request(Put(key, value, lease, prev_kv))
        message, url = self._calls.write(methods.PUT, request, timeout, endpoint)
        return messages.put_answer(message, messages.header(message.header), url)

    def delete(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        prev_kv: bool = False,
        timeout: float = TIMEOUT,
        endpoint: str | None = None,
    ) -> DeleteAnswer:
        """Delete a key or range."""
        request = messages.delete_request(Delete(key, range_end, prev_kv))
        message, url = self._calls.write(methods.DELETE_RANGE, request, timeout, endpoint)
        return messages.delete_answer(message, messages.header(message.header), url)

    def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout: float = TIMEOUT,
        endpoint: str | None = None,
    ) -> TxnAnswer:
        """Execute a transaction."""
        request = messages.txn_request(Txn(compares, success, failure))
        message, url = self._calls.write(methods.TXN, request, timeout, endpoint)
        try:
            return messages.txn_answer(message, messages.header(message.header), url)
        except DecodeError:
            raise unreadable(url, methods.TXN.name) from None

    def compact(
        self,
        revision: int,
        *,
        physical: bool = False,
        timeout: float = TIMEOUT,
        endpoint: str | None = None,
    ) -> Header:
        """Forget what keys were before a revision; ``physical`` waits until it is removed."""
        request = rpc.CompactionRequest(revision=revision, physical=physical)
        message, _ = self._calls.write(methods.COMPACT, request, timeout, endpoint)
        return messages.header(message.header)

    def watch(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        start_revision: int = 0,
        prev_kv: bool = False,
        progress_notify: bool = True,
        timeout: float = TIMEOUT,
        endpoint: str | None = None,
    ) -> Watch:
        """Watch a key or range from a revision on; 0: from now on.

        Returns when etcd has confirmed the watch; ``timeout`` is for that. ``progress_notify``:
        etcd reports from time to time how far it is while there are no events.
        """
        request = rpc.WatchRequest(
            create_request=rpc.WatchCreateRequest(
                key=key,
                range_end=range_end,
                start_revision=start_revision,
                progress_notify=progress_notify,
                prev_kv=prev_kv,
                fragment=True,
            )
        )
        return open_watch(self._calls, request, start_revision, timeout, endpoint)

    def grant_lease(
        self, ttl: int, *, lease: int = 0, timeout: float = TIMEOUT, endpoint: str | None = None
    ) -> Lease:
        """Make a lease of ``ttl`` seconds; its id is ``lease``, or chosen by etcd."""
        request = rpc.LeaseGrantRequest(TTL=ttl, ID=lease)
        message, _ = self._calls.write(methods.LEASE_GRANT, request, timeout, endpoint)
        return Lease(message.ID, message.TTL, message.TTL)

    def revoke_lease(
        self, lease: int, *, timeout: float = TIMEOUT, endpoint: str | None = None
    ) -> Header:
        """End a lease, and delete the keys that have it."""
        request = rpc.LeaseRevokeRequest(ID=lease)
        message, _ = self._calls.write(methods.LEASE_REVOKE, request, timeout, endpoint)
        return messages.header(message.header)

    def keep_lease_alive(
        self, lease: int, *, timeout: float = TIMEOUT, endpoint: str | None = None
    ) -> Lease:
        """Let a lease begin again; the TTL of the answer is 0 if there is none."""
        request = rpc.LeaseKeepAliveRequest(ID=lease)
        message, _ = self._calls.read(methods.LEASE_KEEP_ALIVE, request, timeout, endpoint)
        return Lease(message.ID, message.TTL)

    def lease(
        self,
        lease: int,
        *,
        keys: bool = False,
        timeout: float = TIMEOUT,
        endpoint: str | None = None,
    ) -> Lease:
        """Return how long a lease still lasts, and with ``keys`` which keys have it."""
        request = rpc.LeaseTimeToLiveRequest(ID=lease, keys=keys)
        message, _ = self._calls.read(methods.LEASE_TIME_TO_LIVE, request, timeout, endpoint)
        return Lease(message.ID, message.TTL, message.grantedTTL, tuple(message.keys))

    def status(self, endpoint: str, *, timeout: float = TIMEOUT) -> MemberStatus:
        """Return the state of the member behind an endpoint, as that member sees it."""
        message, url = self._calls.read(methods.STATUS, rpc.StatusRequest(), timeout, endpoint)
        return messages.member_status(message, url)

    def alarms(self, *, timeout: float = TIMEOUT, endpoint: str | None = None) -> tuple[Alarm, ...]:
        """Return the alarms of all members."""
        request = rpc.AlarmRequest(action="GET")
        message, _ = self._calls.read(methods.ALARM, request, timeout, endpoint)
        return messages.alarms(message)

    def members(
        self, *, timeout: float = TIMEOUT, endpoint: str | None = None
    ) -> tuple[Member, ...]:
        """Return the members of the cluster."""
        request = rpc.MemberListRequest(linearizable=True)
        message, _ = self._calls.read(methods.MEMBER_LIST, request, timeout, endpoint)
        return messages.members(message)

    def authenticate(self, *, timeout: float = TIMEOUT, endpoint: str | None = None) -> None:
        """Log in now, if there is a user. Raises LoginRefusedError."""
        self._calls.log_in(timeout, endpoint)

    def auth_status(self, *, timeout: float = TIMEOUT, endpoint: str | None = None) -> AuthStatus:
        """Return whether etcd's auth is enabled. While it is, only its user root can ask."""
        request = rpc.AuthStatusRequest()
        message, _ = self._calls.read(methods.AUTH_STATUS, request, timeout, endpoint)
        header = messages.header(message.header)
        return AuthStatus(header, message.enabled, message.authRevision)

    def user_roles(
        self, name: str, *, timeout: float = TIMEOUT, endpoint: str | None = None
    ) -> tuple[str, ...]:
        """Return the roles of a user of etcd's auth."""
        request = rpc.AuthUserGetRequest(name=name)
        message, _ = self._calls.read(methods.USER_GET, request, timeout, endpoint)
        return tuple(message.roles)

    def role_permissions(
        self, name: str, *, timeout: float = TIMEOUT, endpoint: str | None = None
    ) -> tuple[GrantedRange, ...]:
        """Return what a role of etcd's auth is permitted."""
        request = rpc.AuthRoleGetRequest(role=name)
        message, _ = self._calls.read(methods.ROLE_GET, request, timeout, endpoint)
        return messages.granted_ranges(message)
