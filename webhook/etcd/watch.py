"""A watch: one stream at one endpoint, read in the thread that iterates over it.

Invariants:

1. It ends with an error, or with ``close``; never without a word. It does not resume by itself.
2. After its end, or ``close``, nothing of it is left: no stream, and no thread.
"""

from collections.abc import Iterator
from threading import Event, Lock, Timer
from time import monotonic
from typing import Protocol

import grpc
from google.protobuf.message import DecodeError

from webhook.etcd import rpc_pb2 as rpc
from webhook.etcd.calls import Calls
from webhook.etcd.channels import Connection, Metadata
from webhook.etcd.errors import Code, EtcdError, NoAnswerError, error_of_status, unreadable
from webhook.etcd.methods import WATCH
from webhook.etcd.values import Header, WatchBatch
from webhook.etcd.watch_events import WatchEvents


class _Stream(Protocol):
    def __next__(self) -> bytes: ...

    def cancel(self) -> object: ...


class Watch(Iterator[WatchBatch]):
    """An iterator over batches of events. ``close`` ends it from any thread.

    ``created`` is the header with which etcd confirmed the watch. Raises an EtcdError when it ends:
    CompactedError if the revisions to start with are gone.
    """

    def __init__(
        self,
        calls: Calls,
        connection: Connection,
        stream: _Stream,
        events: WatchEvents,
        created: Header,
    ) -> None:
        self.endpoint = connection.endpoint
        self.created = created
        self._calls = calls
        self._connection: Connection | None = connection.hold()
        self._stream = stream
        self._events = events
        self._is_closed = False
        self._lock = Lock()

    @property
    def next_revision(self) -> int:
        """The revision that a following watch has to start with."""
        return self._events.next_revision

    def __next__(self) -> WatchBatch:
        connection = self._connection
        if connection is None or self._is_closed:
            raise StopIteration
        try:
            while True:
                batch = self._events.take(_next(self._calls, connection, self._stream))
                if batch is not None:
                    return batch
        except EtcdError:
            was_closed = self._is_closed
            self._end()
            if was_closed:
                raise StopIteration from None
            raise

    def close(self) -> None:
        """End the watch: the iteration stops."""
        self._is_closed = True
        self._end()

    def _end(self) -> None:
        # Invariant 2.
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            self._stream.cancel()
            connection.release()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def open_watch(
    calls: Calls,
    request: rpc.WatchRequest,
    start_revision: int,
    timeout: float,
    endpoint: str | None,
) -> Watch:
    """Open a watch, and return it when etcd has confirmed it. Raises EtcdError."""
    data = request.SerializeToString()
    watch, _ = calls.run(
        lambda connection, until: _open(calls, connection, data, start_revision, until),
        monotonic() + timeout,
        endpoint,
    )
    return watch


def _open(
    calls: Calls, connection: Connection, request: bytes, start_revision: int, until: float
) -> Watch:
    def send(metadata: Metadata) -> Watch:
        events = WatchEvents(start_revision, connection.endpoint)
        try:
            stream = connection.stream(WATCH.path)(request, metadata=metadata)
        except ValueError:
            raise connection.closed_error() from None
        # The stream itself has no deadline, since it is to stay.
        late = Event()

        def give_up() -> None:
            late.set()
            stream.cancel()

        timer = Timer(max(0.0, until - monotonic()), give_up)
        timer.daemon = True
        timer.start()
        try:
            events.take(_next(calls, connection, stream))
        except EtcdError:
            stream.cancel()
            if not late.is_set():
                raise
        finally:
            timer.cancel()
            timer.join()
        if late.is_set() or events.created is None:
            stream.cancel()
            raise error_of_status(Code.DEADLINE_EXCEEDED, "", connection.endpoint, WATCH.name)
        return Watch(calls, connection, stream, events, events.created)

    return calls.authorised(connection, WATCH, until, send)


def _next(calls: Calls, connection: Connection, stream: _Stream) -> rpc.WatchResponse:
    try:
        data = next(stream)
    except StopIteration:
        raise NoAnswerError(  # Invariant 1.
            f"etcd at {connection.endpoint} ended a watch without a reason; open it again",
            code=Code.UNAVAILABLE,
            text="the stream ended",
            endpoint=connection.endpoint,
        ) from None
    except grpc.RpcError as error:
        raise calls.failed(error, connection, WATCH) from None
    try:
        return WATCH.parse(data)
    except DecodeError:
        raise unreadable(connection.endpoint, WATCH.name) from None
