"""Channels of gRPC: one for each endpoint, and another when the certificates change.

Invariants:

1. gRPC repeats nothing by itself, balances nothing and uses no proxy: which endpoint gets a
   request, and whether it gets it twice, is decided in ``calls.py``.
2. A channel whose certificates were replaced gets no new requests, and is closed by the first one
   that comes when no request and no watch uses it any more.
3. A channel is opened by the first request to its endpoint; before, no file is read.
"""

from collections.abc import Sequence
from threading import Lock
from types import TracebackType
from typing import Final, TypeAlias

import grpc

from webhook.etcd.credentials import EtcdTLS, TLSFiles, TLSMaterial
from webhook.etcd.endpoint import Endpoint
from webhook.etcd.errors import NotSentError

_OPTIONS: Final = (
    ("grpc.enable_retries", 0),  # Invariant 1, and the next four lines.
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.enable_http_proxy", 0),
    # Two clients, or two channels with the same certificates, never share a connection.
    ("grpc.use_local_subchannel_pool", 1),
    # The first is also how long an attempt to connect may take. The default of the last is 120 s.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # etcd closes connections that ping more often than every 5 s, or without a request. What is
    # sent and not acknowledged for the second time closes the connection here.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    # The default of 4 MiB is less than a page of records can have.
    ("grpc.max_receive_message_length", 256 * 1024 * 1024),
)
_CLOSED: Final = "this client is closed"
# Requests and answers are bytes here: ``calls.py`` encodes and decodes them.
Metadata: TypeAlias = tuple[tuple[str, str], ...]
UnaryCall: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"
StreamCall: TypeAlias = "grpc.UnaryStreamMultiCallable[bytes, bytes]"


class Connection:
    """A channel to one endpoint. It is in use while a ``with`` block, or a ``hold``, lasts."""

    def __init__(self, endpoint: str, channel: grpc.Channel, material: TLSMaterial | None) -> None:
        self.endpoint = endpoint
        self.material = material
        self.is_proven = False
        """Whether the last request was answered."""
        self._channel = channel
        self._unary: dict[str, UnaryCall] = {}
        self._users = 0
        self._lock = Lock()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def hold(self) -> "Connection":
        """Keep the channel open until ``release`` is called."""
        with self._lock:
            self._users += 1
        return self

    def release(self) -> None:
        """Undo one ``hold``. This closes nothing: gRPC's own threads call it too."""
        with self._lock:
            self._users -= 1

    @property
    def is_used(self) -> bool:
        """Whether a request or a watch uses the channel."""
        return self._users > 0

    def close(self) -> None:
        """Close the channel, and end what uses it."""
        self._channel.close()

    def unary(self, path: str) -> UnaryCall:
        """Return the method with a path. Raises NotSentError if the channel is closed."""
        call = self._unary.get(path)
        if call is None:
            try:
                call = self._unary[path] = self._channel.unary_unary(path)
            except ValueError as error:
                raise self.closed_error() from error
        return call

    def stream(self, path: str) -> StreamCall:
        """Return a method that answers one message with a stream, like ``unary``.

        etcd's methods of this kind take a stream of messages. One message and the end of the
        stream are the same to it, and take no thread that sends.
        """
        try:
            return self._channel.unary_stream(path)
        except ValueError as error:
            raise self.closed_error() from error

    def closed_error(self) -> NotSentError:
        """Return the error for a request that came after ``close``."""
        return NotSentError.at(self.endpoint, _CLOSED)


class Channels:
    """The channels of a client."""

    def __init__(self, endpoints: Sequence[Endpoint], tls: EtcdTLS | None) -> None:
        self._endpoints = {endpoint.url: endpoint for endpoint in endpoints}
        self._files = TLSFiles(tls or EtcdTLS())
        self._connections: dict[str, Connection] = {}
        self._retired: list[Connection] = []
        self._lock = Lock()
        self._is_closed = False

    @property
    def problem(self) -> str:
        """Why new certificates are not in use; empty if they are."""
        return self._files.problem

    def poll_soon(self) -> None:
        """Look for new certificates before the next request."""
        self._files.poll_soon()

    def connection(self, endpoint: str) -> Connection:
        """Return the channel to an endpoint, held. Raises NotSentError, CredentialFileError."""
        found = self._endpoints[endpoint]
        material = self._files.material() if found.is_encrypted else None
        with self._lock:
            if self._is_closed:
                raise NotSentError.at(endpoint, _CLOSED)
            connection = self._connections.get(endpoint)  # Invariant 3.
            if connection is None or connection.material is not material:
                if connection is not None:
                    self._retired.append(connection)
                connection = Connection(endpoint, _open(found, material), material)
                self._connections[endpoint] = connection
            if self._retired:
                self._close_unused()
            return connection.hold()

    def close(self) -> None:
        """Close all channels, and end what uses them."""
        with self._lock:
            self._is_closed = True
            connections = [*self._connections.values(), *self._retired]
            self._connections.clear()
            self._retired.clear()
        for connection in connections:
            connection.close()

    def _close_unused(self) -> None:
        # Invariant 2.
        for connection in [found for found in self._retired if not found.is_used]:
            self._retired.remove(connection)
            connection.close()


def _open(endpoint: Endpoint, material: TLSMaterial | None) -> grpc.Channel:
    if material is None:
        return grpc.insecure_channel(endpoint.target, _OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        material.authorities, material.private_key, material.certificate
    )
    return grpc.secure_channel(endpoint.target, credentials, _OPTIONS)
