"""One connection: what a client sends becomes requests, and their responses become bytes.

Invariants:

1. Requests are answered one after the other, in their order. Of what a client sends ahead there is
   no more here than ``_BUFFER_BYTES``, ``ANONYMOUS_BUFFER_BYTES`` without a certificate, and what a
   single read of the socket brings beyond that. A head has at most ``MAX_HEAD`` bytes, and
   ``ANONYMOUS_BUFFER_BYTES`` without a certificate.
2. A request is here completely within ``STALL_SECONDS`` of its first byte, or is not answered. A
   client for which writing is paused for that long is cut off.
3. Nothing is read as a request after one whose end is not certain, or is not here.
4. A connection that has ended is not kept alive by its transport, its timer or its task.
"""

import asyncio
import socket
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from math import inf
from time import time
from typing import Any, Final, Protocol, TypeVar

from webhook.server.connection.anonymous import AnonymousConnections
from webhook.server.connection.chunked import ChunkedBody
from webhook.server.connection.client_trust import ClientTrust
from webhook.server.connection.read_head import (
    Head,
    Limits,
    MessageError,
    check_beginning,
    read_head,
)
from webhook.server.connection.tls import certificate_of
from webhook.server.request.message import Answer, Later, Request, Response

# With the second until an abort, a client that stalls is disconnected after ten.
STALL_SECONDS: Final = 9.0
# How long a client that stalled or was idle may take to close the connection.
ABORT_SECONDS: Final = 1.0
MAX_HEAD: Final = 64 * 1024
_LIMITS: Final = Limits(fields=100, field_bytes=8190)
_ANONYMOUS_LIMITS: Final = Limits(fields=32, field_bytes=2048)  # a bearer token fits into one
_BUFFER_BYTES: Final = 256 * 1024
ANONYMOUS_BUFFER_BYTES: Final = 16 * 1024
# Linux doubles it. A connection begins with this, and gets more with a certificate.
ANONYMOUS_RECEIVE_BYTES: Final = 32 * 1024
_RECEIVE_BYTES: Final = 256 * 1024
# A client sends the same heads again and again; what has a secret in it is not kept.
_REMEMBERED_HEADS: Final = 128
_REMEMBERED_BYTES: Final = 1024
_SECRETS: Final = frozenset((b"authorization", b"cookie", b"proxy-authorization"))
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_TICK_SECONDS: Final = 0.01  # as far as a timer may be early
_T = TypeVar("_T")


class Application(Protocol):
    """What answers the requests of a worker. Neither a method nor its coroutine raises.

    ``admit`` is for a request whose body is not complete: it returns the response that the head
    decides, or None, and sets ``max_length``. It is called again once a chunked body is longer.
    """

    def answer(self, request: Request) -> Answer: ...  # noqa: D102
    def admit(self, request: Request) -> Later[Response | None]: ...  # noqa: D102


class ConnectionOwner(Protocol):
    """The worker that a connection belongs to."""

    loop: asyncio.AbstractEventLoop
    draining: bool
    nr: int
    keep_alive_seconds: float
    application: Application
    heads: dict[bytes, Head]
    connections: "set[Connection]"
    anonymous: AnonymousConnections


class Connection(asyncio.Protocol):
    """One connection of a worker."""

    def __init__(self, worker: ConnectionOwner) -> None:
        self.certificate = ""
        """The client's certificate in PEM, empty without one; checked against ``trust``."""
        self.trust: ClientTrust | None = None
        self.is_ending = False
        self._worker = worker
        self._loop = worker.loop
        self._transport: asyncio.Transport
        self._address: tuple[str, int] | None = None
        self._buffer_bytes = self._max_head = ANONYMOUS_BUFFER_BYTES
        self._heads: dict[bytes, Head] = {}
        self._is_closed = self._is_write_paused = self._is_read_paused = False

        # What has arrived and is not read yet begins at an offset.
        self._data: bytes | bytearray = b""
        self._at = 0
        self._has_skipped_line = False

        # The request whose body is being read, once its head has been admitted.
        self._request: Request | None = None
        self._chunked: ChunkedBody | None = None
        # The head of the last request, and its bytes if it is remembered.
        self._head: Head
        self._raw = b""
        self._is_answering = False
        # Nothing more is read until this has finished.
        self._pending: asyncio.Task[Any] | asyncio.Handle | None = None

        # One timer; most deadlines are postponed before it fires, and it checks them then.
        self._expires_at = self._timer_at = inf
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._is_request_timed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take over a connection whose handshake is done."""
        self._transport = transport
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.trust = tls.context.trust
            self.certificate = certificate_of(tls)
        if self.certificate:
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
            self._buffer_bytes, self._max_head = _BUFFER_BYTES, MAX_HEAD
            self._heads = self._worker.heads
        elif not self._worker.anonymous.admit(self):
            self._is_closed = True
            transport.abort()
            return
        self._worker.connections.add(self)
        self._address = transport.get_extra_info("peername")[:2]
        self._start_request_clock()

    def connection_lost(self, _error: Exception | None) -> None:
        """Release everything, and cancel the answer in progress: the client has disconnected."""
        self._is_closed = True
        self._worker.anonymous.discard(self)
        self._worker.connections.discard(self)
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        if self._pending is not None:
            self._pending.cancel()
        self._data, self._at = b"", 0
        # Invariant 4. A circle, with all of its TLS, would stay until a full collection, once in
        # hours.
        del self._transport

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered, and no byte of the next one is here."""
        is_busy = self._request is not None or self._is_answering
        return not is_busy and self._at == len(self._data)

    @property
    def can_be_dropped(self) -> bool:
        """Whether no request is being answered that is here completely, to a client that reads."""
        return not self._is_answering or self._is_write_paused

    def drop(self) -> None:
        """Close the connection at once, whatever it is doing."""
        self._transport.abort()

    def end(self) -> None:
        """Accept no more requests: close the connection after the answer in progress."""
        self.is_ending = True
        if not self._is_answering:
            self._close(within=ABORT_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Go on reading, or keep what is sent ahead."""
        if self._is_closed:
            return
        if self._at == len(self._data):
            self._data, self._at = data, 0
        else:
            if self._at or isinstance(self._data, bytes):
                self._data, self._at = bytearray(self._data[self._at :]), 0
            self._data += data
        self._read()

    def _read(self) -> None:
        # Invariant 1.
        if self._pending is not None or self._is_closed or self._is_write_paused:
            if len(self._data) - self._at > self._buffer_bytes and not self._is_read_paused:
                self._is_read_paused = True
                self._transport.pause_reading()
            return
        try:
            if self._request is None:
                self._read_request()
            else:
                self._read_body(self._request)
        except MessageError as error:
            self._refuse(error)

    def _read_request(self) -> None:
        data, at = self._data, self._at
        if self._raw and data.startswith(self._raw, at):
            head, start = self._head, at + len(self._raw)
        else:
            start = data.find(b"\r\n\r\n", at, at + self._max_head) + 4
            raw = bytes(data[at:start])
            found = self._heads.get(raw) or self._parse(raw)
            if found is None:
                return
            self._head = head = found
            self._raw = raw if raw in self._heads else b""
        self._at, self._has_skipped_line = start, False
        request = Request(
            head.method,
            head.path,
            head.query,
            head.headers,
            b"",
            head.length or 0,
            self.certificate,
            self._address,
        )
        if head.length is None:
            self._chunked = ChunkedBody()
        self._read_body(request)

    def _parse(self, raw: bytes) -> Head | None:
        """Read a head that is not remembered; return None where it is not complete."""
        if not self._has_skipped_line and self._data.startswith(b"\r\n", self._at):
            # RFC 9112 section 2.2: old clients send one after a body.
            self._has_skipped_line = True
            self._at += 2
            self._read()
            return None
        if not raw.endswith(b"\r\n\r\n"):
            self._wait_for_head()
            return None
        if not self.certificate:
            # Anyone can connect, so clients without a certificate get little memory.
            return read_head(raw, _ANONYMOUS_LIMITS)
        head = read_head(raw, _LIMITS)
        if len(raw) <= _REMEMBERED_BYTES and _SECRETS.isdisjoint(head.headers.first):
            if len(self._heads) >= _REMEMBERED_HEADS:
                self._heads.clear()
            self._heads[raw] = head
        return head

    def _wait_for_head(self) -> None:
        arrived = self._data[self._at : self._at + self._max_head]
        check_beginning(arrived, _LIMITS if self.certificate else _ANONYMOUS_LIMITS)
        if len(arrived) == self._max_head:
            raise MessageError(431, f"the head is longer than {self._max_head} bytes")
        if arrived:
            self._start_request_clock()
        self._resume_reading()

    def _read_body(self, request: Request) -> None:
        chunked = self._chunked
        if chunked is None:
            end = self._at + request.length
            if len(self._data) < end:
                self._wait_for_body(request)
                return
            request.body = bytes(self._data[self._at : end])
            self._at = end
        else:
            self._at = chunked.feed(self._data, self._at)
            request.length = chunked.length
            if not chunked.is_complete:
                self._wait_for_body(request)
                return
            request.body = bytes(chunked.body)
        self._is_answering = True
        answer = self._worker.application.answer(request)
        if isinstance(answer, Response):
            self._write(answer)
        else:
            self._expires_at = inf
            self._wait(answer, self._write)

    def _wait_for_body(self, request: Request) -> None:
        self._start_request_clock()
        is_too_long = self._chunked is not None and request.length > request.max_length
        if self._request is not None and not is_too_long:
            self._resume_reading()
            return
        self._request = request
        self._wait(self._worker.application.admit(request), self._admitted)

    def _admitted(self, response: Response | None) -> None:
        if response is not None:
            self._write(response)
            return
        if self._head.expects_continue:
            self._transport.write(_CONTINUE)
        self._read()

    def _wait(self, coroutine: Later[_T], then: Callable[[_T], None]) -> None:
        def done(task: asyncio.Task[_T]) -> None:
            self._pending = None
            if self._is_closed:
                return
            if task.cancelled():
                self.drop()
                return
            try:
                result = task.result()
            except Exception:
                self.drop()
                raise
            then(result)

        self._pending = self._loop.create_task(coroutine)
        self._pending.add_done_callback(done)

    def _write(self, response: Response) -> None:
        worker, head = self._worker, self._head
        keep_alive = worker.keep_alive_seconds
        closes = (
            worker.draining
            or self.is_ending
            or not (head.keeps_alive and self._is_answering and keep_alive)
        )
        self._transport.write(
            render(response, head.version, is_head=head.method == "HEAD", closes=closes)
        )
        worker.nr += 1
        if not self.certificate:
            worker.anonymous.used(self)
        if closes:
            self._close()  # Invariant 3.
            return
        self._request = self._chunked = None
        self._is_answering = self._is_request_timed = False
        self._expires_at = self._loop.time() + keep_alive
        if self._expires_at < self._timer_at:
            self._arm()
        left = len(self._data) - self._at
        if left == 0:
            self._data, self._at = b"", 0
        else:
            # Other connections get a turn between two pipelined requests.
            self._pending = self._loop.call_soon(self._read_next)
        if self._is_read_paused and left <= self._buffer_bytes:
            self._resume_reading()

    def _read_next(self) -> None:
        self._pending = None
        self._read()

    def _refuse(self, error: MessageError, within: float | None = None) -> None:
        response = Response(error.code, str(error).encode(), b"text/plain")
        self._transport.write(render(response, b"HTTP/1.1", is_head=False, closes=True))
        self._close(within)

    def _close(self, within: float | None = None) -> None:
        """Close the connection; abort it where the client has not let go of it within seconds."""
        if self._is_closed:
            return
        self._is_closed = True
        self._data, self._at = b"", 0
        # Bytes left unread would reset the connection, and the answer would be lost with it.
        self._resume_reading()
        self._transport.close()
        self._expires_at = inf
        if within is not None:
            self._expire_in(within)

    def _resume_reading(self) -> None:
        if self._is_read_paused:
            self._is_read_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """Answer nothing more, and give up on the client where it does not go on reading."""
        self._is_write_paused = True
        self._write_timer = self._loop.call_later(STALL_SECONDS, self.drop)  # Invariant 2.

    def resume_writing(self) -> None:
        """Go on answering."""
        self._is_write_paused = False
        if self._write_timer is not None:
            self._write_timer.cancel()
        if self._at < len(self._data) or self._request is not None:
            self._read()

    def _start_request_clock(self) -> None:
        if not self._is_request_timed:
            self._is_request_timed = True
            self._expire_in(STALL_SECONDS)  # Invariant 2.

    def _expire_in(self, seconds: float) -> None:
        self._expires_at = self._loop.time() + seconds
        if self._expires_at < self._timer_at:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._expires_at
        self._timer = self._loop.call_at(self._timer_at, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer, self._timer_at = None, inf
        if self._expires_at == inf:
            return
        if self._expires_at > self._loop.time() + _TICK_SECONDS:
            self._arm()
        elif self._is_closed:
            self._transport.abort()
        elif self._is_request_timed and self._request is None:
            text = f"no complete request arrived within {STALL_SECONDS:.0f} s"
            self._refuse(MessageError(408, text), ABORT_SECONDS)
        else:
            self._close(within=ABORT_SECONDS)


def render(response: Response, version: bytes, *, is_head: bool, closes: bool) -> bytes:
    """Return a response as it is sent; ``is_head`` leaves the body out, and says its length."""
    body, code = response.body, response.code
    fields = b"Connection: close\r\n" if closes else b""
    if response.headers:
        fields += b"".join([b"%b: %b\r\n" % field for field in response.headers])
    if code != 204:
        fields = b"content-length: %d\r\n%b" % (len(body), fields)
    if is_head or code in (204, 304):
        body = b""
    start = _start(version, code, response.content_type)
    return b"%b%b%b\r\n%b" % (start, _date(int(time())), fields, body)


@lru_cache(maxsize=256)
def _start(version: bytes, code: int, content_type: bytes) -> bytes:
    status = b"%b %d %b" % (version, code, HTTPStatus(code).phrase.encode("ascii"))
    return b"%b\r\nServer: leeway\r\ncontent-type: %b\r\n" % (status, content_type)


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return b"Date: %b\r\n" % formatdate(second, usegmt=True).encode("ascii")
