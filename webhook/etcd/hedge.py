"""One read at several endpoints at the same time."""

from queue import Empty, SimpleQueue
from time import monotonic
from typing import TypeAlias

import grpc

from webhook.etcd.channels import Channels, Connection, Metadata

_Call: TypeAlias = "grpc.Future[bytes]"


class Race:
    """Calls of one method with a common deadline, of which the first answer counts."""

    def __init__(self, channels: Channels, path: str, deadline: float) -> None:
        self._channels = channels
        self._path = path
        self._deadline = deadline
        self._waiting: dict[str, _Call] = {}
        self._ended: SimpleQueue[tuple[Connection, _Call]] = SimpleQueue()

    def begin(self, endpoint: str, request: bytes, metadata: Metadata) -> None:
        """Send a request. Raises NotSentError, CredentialFileError."""
        connection = self._channels.connection(endpoint)
        try:
            call: _Call = connection.unary(self._path).future(
                request, timeout=max(0.0, self._deadline - monotonic()), metadata=metadata
            )
        except BaseException as error:
            connection.release()
            if isinstance(error, ValueError):
                raise connection.closed_error() from None
            raise
        self._waiting[endpoint] = call
        call.add_done_callback(lambda done: self._end(connection, done))

    def next_end(self, until: float) -> tuple[Connection, _Call] | None:
        """Return the next call that has ended; None if none does by then."""
        try:
            connection, call = self._ended.get(timeout=max(0.0, until - monotonic()))
        except Empty:
            return None
        del self._waiting[connection.endpoint]
        return connection, call

    def cancel(self) -> list[str]:
        """Cancel what has not ended, and return the endpoints that were silent."""
        for call in self._waiting.values():
            call.cancel()
        return list(self._waiting)

    def _end(self, connection: Connection, call: _Call) -> None:
        connection.release()
        self._ended.put((connection, call))
