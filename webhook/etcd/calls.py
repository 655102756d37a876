"""Sends requests: to which endpoint, how often, and with which token.

Invariants:

1. A write is sent once. It is sent to another endpoint, or again, only after an error that says it
   was not sent or not executed.
2. A read is sent to one endpoint after the other until one answers, and each has its share of the
   time.
3. An endpoint that does not answer is left: the next request begins with another one.
4. No request takes longer than its timeout, log-in included.
"""

from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from webhook.etcd.channels import Channels, Connection, Metadata
from webhook.etcd.errors import (
    AUTH_OLD_REVISION,
    Code,
    EtcdError,
    NoAnswerError,
    NotSentError,
    RefusedError,
    combine,
    error_of_status,
    unreadable,
)
from webhook.etcd.hedge import Race
from webhook.etcd.methods import PROBE, Method, Response
from webhook.etcd.session import Session, status_of

# etcd answers at once that there is no leader, and an election takes longer than a round trip.
_PAUSE_SECONDS: Final = 0.05
_Result = TypeVar("_Result")
_ABOUT_A_MEMBER: Final = (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE)
# One is enough but where tokens live for a second: a JWT ends with a whole one.
_RENEWALS: Final = 2
_LEADER: Final = (("hasleader", "true"),)


class Calls:
    """The requests of a client. ``endpoints`` are URLs; timeouts are in seconds."""

    def __init__(
        self, endpoints: Sequence[str], channels: Channels, session: Session | None
    ) -> None:
        self.endpoints = tuple(endpoints)
        self._channels = channels
        self._session = session
        # What is tried, by what is tried first.
        self._orders = {
            first: (*self.endpoints[index:], *self.endpoints[:index])
            for index, first in enumerate(self.endpoints)
        }
        self.first = self.endpoints[0]

    def next_endpoint(self, after: str) -> str:
        """Return the endpoint that follows one in the list."""
        order = self._orders[after]
        return order[1 % len(order)]

    def read(
        self,
        method: Method[Response],
        request: Message,
        timeout: float,
        endpoint: str | None = None,
        hedge: float | None = None,
    ) -> tuple[Response, str]:
        """Send a read, to one endpoint or to any. Return the answer, and who gave it.

        ``hedge`` is after how many seconds without an answer the next endpoint is asked as well.
        """
        data = request.SerializeToString()
        deadline = monotonic() + timeout
        if hedge is not None and endpoint is None and len(self.endpoints) > 1:
            found = self._hedged(method, data, deadline, hedge)
            if found is not None:
                return found
        return self.run(
            lambda connection, until: self._send(connection, method, data, until),
            deadline,
            endpoint,
        )

    def write(
        self, method: Method[Response], request: Message, timeout: float, endpoint: str | None
    ) -> tuple[Response, str]:
        """Send a write once (invariant 1), to one endpoint or to any."""
        data = request.SerializeToString()

        def send(connection: Connection, until: float) -> Response:
            if not connection.is_proven:
                # Sent into a connection that is not there, or to a member that is stopped, it could
                # arrive later. A read finds out first.
                self._probe(connection, until)
            return self._send(connection, method, data, deadline)

        deadline = monotonic() + timeout
        return self.run(send, deadline, endpoint, is_write=True)

    def log_in(self, timeout: float, endpoint: str | None) -> None:
        """Log in, if there is a user."""
        session = self._session
        if session is not None:
            self.run(
                lambda connection, until: session.renew(session.present or "", connection, until),
                monotonic() + timeout,
                endpoint,
            )

    def run(
        self,
        send: Callable[[Connection, float], _Result],
        deadline: float,
        endpoint: str | None,
        *,
        is_write: bool = False,
    ) -> tuple[_Result, str]:
        """Call ``send`` with one connection after the other until it raises no EtcdError.

        Its second argument is until when it may take. Raises the last error, or one for all.
        """
        before: list[EtcdError] = []
        while True:
            order = self._orders[self.first] if endpoint is None else (endpoint,)
            errors: list[EtcdError] = []
            for index, url in enumerate(order):
                now = monotonic()
                until = now + (deadline - now) / (len(order) - index)  # Invariant 2.
                try:
                    with self._channels.connection(url) as connection:
                        result = send(connection, until)
                except EtcdError as error:
                    if not _is_for_another(error, is_write=is_write):
                        if isinstance(error, NoAnswerError):
                            self._leave(url)
                        raise
                    errors.append(error)
                    self._leave(url)
                else:
                    if endpoint is None:
                        self.first = url
                    return result, url
            if all(error.code is Code.DEADLINE_EXCEEDED for error in errors):
                # What was said before the time was up says more.
                errors = before or errors
            is_over = deadline - monotonic() <= _PAUSE_SECONDS
            if is_write or is_over or not any(map(_is_of_the_moment, errors)):
                raise combine(errors)
            before = errors
            sleep(_PAUSE_SECONDS)

    def authorised(
        self,
        connection: Connection,
        method: Method[Response],
        deadline: float,
        send: Callable[[Metadata], _Result],
    ) -> _Result:
        """Call ``send`` with the metadata of a request, and again after a new log-in."""
        session = self._session if method.needs_login else None
        token = session.token(connection, deadline) if session else ""
        for _ in range(_RENEWALS):
            try:
                return send(_metadata(method, token))
            except RefusedError as error:
                if not error.is_auth:
                    raise
                if session is not None:
                    token = session.renew(token, connection, deadline)
                elif error.text != AUTH_OLD_REVISION:
                    raise
        return send(_metadata(method, token))

    def failed(
        self, error: grpc.RpcError, connection: Connection, method: Method[Response]
    ) -> EtcdError:
        """Return what a status means, and note what it says about the connection."""
        code, text = status_of(error)
        if self._session is not None:
            text = self._session.hide(text)
        failure = error_of_status(code, text, connection.endpoint, method.name)
        connection.is_proven = isinstance(failure, RefusedError)
        if isinstance(failure, NotSentError):
            self._channels.poll_soon()
        return failure

    def _send(
        self, connection: Connection, method: Method[Response], data: bytes, until: float
    ) -> Response:
        def send(metadata: Metadata) -> Response:
            remaining = until - monotonic()
            if remaining <= 0:  # Invariant 4.
                raise _late(connection.endpoint)
            try:
                answer = connection.unary(method.path)(data, timeout=remaining, metadata=metadata)
            except grpc.RpcError as error:
                # Without the cause: it holds the call, and repeats what the server has sent.
                raise self.failed(error, connection, method) from None
            except ValueError:
                raise connection.closed_error() from None
            return self._parse(answer, connection, method)

        return self.authorised(connection, method, until, send)

    def _parse(self, answer: bytes, connection: Connection, method: Method[Response]) -> Response:
        try:
            parsed = method.parse(answer)
        except DecodeError:
            raise unreadable(connection.endpoint, method.name) from None
        connection.is_proven = True
        return parsed

    def _probe(self, connection: Connection, until: float) -> None:
        # Half of the time is left for the write itself.
        now = monotonic()
        try:
            self._send(connection, PROBE, b"", now + (until - now) / 2)
        except RefusedError:
            pass
        except NoAnswerError as error:
            raise NotSentError.at(
                connection.endpoint, error.text or error.code.name, error.code
            ) from None

    def _leave(self, endpoint: str) -> None:
        if self.first == endpoint:
            self.first = self.next_endpoint(endpoint)  # Invariant 3.

    def _hedged(
        self, method: Method[Response], data: bytes, deadline: float, hedge: float
    ) -> tuple[Response, str] | None:
        """Ask one endpoint more every ``hedge`` seconds, or as soon as one fails.

        None: ask again without haste, because of a log-in or a refusal.
        """
        order = list(self._orders[self.first])
        race = Race(self._channels, method.path, deadline)
        errors: list[EtcdError] = []
        more_at = monotonic()
        try:
            while (now := monotonic()) < deadline and len(errors) < len(self.endpoints):
                if order and now >= more_at:
                    more_at = now + hedge
                    metadata = self._metadata_at_hand(method)
                    if metadata is None:
                        return None
                    try:
                        race.begin(order.pop(0), data, metadata)
                    except NotSentError as error:
                        errors.append(error)
                        more_at = now
                    continue
                ended = race.next_end(more_at if order else deadline)
                if ended is None:
                    continue
                connection, call = ended
                try:
                    answer = self._parse(call.result(), connection, method)
                except grpc.RpcError as error:
                    failure = self.failed(error, connection, method)
                    if isinstance(failure, RefusedError):
                        return None
                    self._leave(connection.endpoint)
                    errors.append(failure)
                    more_at = now
                else:
                    self.first = connection.endpoint
                    return answer, connection.endpoint
        finally:
            silent = race.cancel()
        for endpoint in silent:
            self._leave(endpoint)
            errors.append(error_of_status(Code.DEADLINE_EXCEEDED, "", endpoint, method.name))
        errors += map(_late, order)
        raise combine(errors)

    def _metadata_at_hand(self, method: Method[Response]) -> Metadata | None:
        if self._session is None:
            return _metadata(method, "")
        token = self._session.present
        return None if token is None else _metadata(method, token)


def _metadata(method: Method[Response], token: str) -> Metadata:
    leader = _LEADER if method.needs_leader else ()
    return (*leader, ("token", token)) if token else leader


def _late(endpoint: str) -> NotSentError:
    return NotSentError.at(endpoint, "it took too long", Code.DEADLINE_EXCEEDED)


def _is_for_another(error: EtcdError, *, is_write: bool) -> bool:
    """Return whether another endpoint may do better, without doing something twice."""
    if isinstance(error, NotSentError):
        return True
    if is_write:
        return False  # Invariant 1.
    # `too many requests` and `no leader` are about one member.
    return isinstance(error, NoAnswerError) or error.code in _ABOUT_A_MEMBER


def _is_of_the_moment(error: EtcdError) -> bool:
    """Return whether etcd itself says that it cannot answer now, as during an election."""
    return error.code is Code.UNAVAILABLE and error.text.startswith("etcdserver: ")
