"""gunicorn's ASGI connection with what it leaves out.

* The peer certificate, in the form of the ASGI TLS extension.
* A limit of 9 s for each request from its first byte to its last, and for a client that takes no
  byte of its answer.
* A bound on the requests that a client sends ahead.
* Smaller limits for a client without a certificate, and for the number of such clients.
* 400 for a request without Host, and ``Connection: close`` where the body is not read to its end.
* A short way: a whole request that can be answered without waiting is answered where it is read,
  without a task and the messages of ASGI. What is not answered there has left no trace, and goes
  the long way from its first byte.

It leans on names inside gunicorn; ``test_worker.py`` notices when they move, and
pyproject.toml pins the version range.
"""

import asyncio
import socket
from asyncio import Transport
from sys import maxsize
from typing import Any, Final, Protocol

from gunicorn.asgi.parser import InvalidHeader
from gunicorn.asgi.protocol import (
    _CACHED_SERVER_HEADER,
    ASGIProtocol,
    _get_cached_date_header,
    _get_cached_status_line,
)

from webhook.server.connection.anonymous import AnonymousConnections
from webhook.server.connection.client_trust import ClientTrust
from webhook.server.connection.parser import LeewayParser
from webhook.server.connection.tls import tls_extension
from webhook.server.connection.whole_request import MAX_HEAD, Head, read_head, split
from webhook.server.request.error_map import JSON

# With the second until an abort, whoever stalls is gone after ten.
STALL_SECONDS: Final = 9.0
# How long a client that stalled or was idle may take to let go of a connection.
ABORT_SECONDS: Final = 1.0
_MAX_HEADS: Final = 16
# For clients without a certificate. A bearer token fits into one field.
ANONYMOUS_FIELDS: Final = 32
ANONYMOUS_FIELD_BYTES: Final = 2048
ANONYMOUS_BUFFER_BYTES: Final = 16 * 1024
# Linux doubles it. A connection begins with this, and gets more with a certificate.
ANONYMOUS_RECEIVE_BYTES: Final = 32 * 1024
_RECEIVE_BYTES: Final = 256 * 1024


class ProtocolOwner(Protocol):
    """The worker that a connection belongs to."""

    loop: asyncio.AbstractEventLoop
    alive: bool
    draining: bool
    nr: int
    max_requests: int
    protocols: "set[LeewayProtocol]"
    anonymous: AnonymousConnections


class LeewayProtocol(ASGIProtocol):  # type: ignore[misc]
    """One connection."""

    worker: ProtocolOwner
    transport: Any
    writer: Any
    _callback_parser: Any
    _flow_control: Any
    _task: Any

    def __init__(self, worker: ProtocolOwner) -> None:
        super().__init__(worker)
        self._stall_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_request = False
        self.is_ending = False
        self._tls: dict[str, Any] | None = None
        self.trust: ClientTrust | None = None
        """What its client certificate was checked against."""
        # Hooks and an access log of the operator's see every request, and so need the long way.
        self._has_short_way = (
            self._pre_request is None
            and self._post_request is None
            and not self.log.access_log_enabled
            and worker.max_requests == maxsize
            and self._keepalive > 0
        )
        self._last_answer = 0.0
        # A client sends the same head again and again.
        self._heads: dict[bytes, Head | None] = {}
        self._is_anonymous = self._is_refused = False

    def connection_made(self, transport: Transport) -> None:
        """Take over a connection whose handshake is done."""
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None:
            self._tls = tls_extension(ssl_object)
            self.trust = ssl_object.context.trust
        if not (self._tls and self._tls["client_cert_chain"]):
            if not self.worker.anonymous.admit(self):
                self._is_refused = True
                transport.abort()
                return
            self._limit_anonymous()
        else:
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        self.worker.protocols.add(self)
        super().connection_made(transport)
        self._start_stall_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a connection."""
        if self._is_refused:
            return
        self.worker.anonymous.discard(self)
        self.worker.protocols.discard(self)
        self._stop_stall_timer()
        self._stop_write_timer()
        super().connection_lost(exc)
        if self._task is None or self._task.done():
            self._let_go()
        else:
            self._task.add_done_callback(self._let_go)

    def _limit_anonymous(self) -> None:
        self._is_anonymous = True
        self._max_buffer_size = ANONYMOUS_BUFFER_BYTES
        # It remembers heads, and only a certificate can take it.
        self._has_short_way = False

    @property
    def can_be_dropped(self) -> bool:
        """Whether no request is being answered that is here completely, to a client that reads."""
        return self._in_request or self.is_idle or self._flow_control.write_paused

    def drop(self) -> None:
        """Close the connection at once, whatever it is doing."""
        self.transport.abort()

    def _let_go(self, _task: object = None) -> None:
        # In a circle with its parser and its transport a connection would stay, and all of its TLS
        # with it, until a full collection, which comes once in hours.
        self.transport = self.writer = self._flow_control = None
        self._callback_parser = self._task = self._tls = None
        self._heads.clear()

    def pause_writing(self) -> None:
        """Stop writing, and give up on the client where it does not go on reading."""
        super().pause_writing()
        self._stop_write_timer()
        self._write_timer = self.worker.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on writing."""
        self._stop_write_timer()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Answer what can be answered at once, and leave the rest to gunicorn."""
        if not (
            self._has_short_way
            and self.is_idle
            and not (self._closed or self._reading_paused or self.worker.draining)
            and self.worker.alive
            and self._flow_control is not None
            and not self._flow_control.write_paused
            and self._answer_at_once(data)
        ):
            if not self.is_ending:
                super().data_received(data)
            elif self.is_idle:
                self.close_idle()

    def _answer_at_once(self, data: bytes) -> bool:
        head, body = split(data)
        try:
            request = self._heads[head]
        except KeyError:
            if len(head) > MAX_HEAD:
                return False
            request = read_head(head)
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            self._heads[head] = request
        if request is None or len(body) != request.length:
            return False
        scope = {
            "type": "http",
            "method": "POST",
            "path": request.path,
            "headers": request.fields,
            "extensions": {} if self._tls is None else {"tls": self._tls},
        }
        answer = self.app.answer_at_once(scope, body)
        if answer is None:
            return False
        self._safe_write(
            b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n%b"
            % (
                _get_cached_status_line((1, 1), 201),
                JSON,
                len(answer),
                _CACHED_SERVER_HEADER,
                _get_cached_date_header(),
                answer,
            )
        )
        self._stop_stall_timer()
        self.worker.nr += 1
        self._last_answer = self.worker.loop.time()
        if self._keepalive_handle is None:
            self._arm_keepalive_timer()
        return True

    def _keepalive_timeout(self) -> None:
        # gunicorn starts the timer again with each request; here it is looked at when it is over.
        idle = self.worker.loop.time() - self._last_answer
        if idle < self._keepalive:
            left = self._keepalive - idle
            self._keepalive_handle = self.worker.loop.call_later(left, self._keepalive_timeout)
        else:
            super()._keepalive_timeout()

    @property
    def is_idle(self) -> bool:
        """Whether the connection waits for a request of which no byte is here."""
        # _awaiting_request stays true until the task that serves the request runs.
        return (
            bool(self._awaiting_request)
            and not self._request_ready.is_set()
            and not self._in_request
        )

    def close_idle(self) -> None:
        """Close a connection that is between two requests."""
        self._close_transport()
        self._request_ready.set()
        self._abort_later()

    @property
    def certificate(self) -> str:
        """The client's certificate in PEM, empty where it has shown none."""
        chain = self._tls["client_cert_chain"] if self._tls else ()
        return chain[0] if chain else ""

    def end(self) -> None:
        """Take no other request: close the connection, or let it be closed after an answer."""
        self.is_ending, self._has_short_way = True, False
        if self._in_request and self._body_receiver is not None:
            self._body_receiver.signal_disconnect()
        if self._in_request or self.is_idle:
            self.close_idle()

    def _feed_callback_parser(self, data: bytes) -> bool:
        proceed: bool
        try:
            proceed = super()._feed_callback_parser(data)
        except ValueError:
            # int() takes no more than 4,300 digits.
            self._send_error_response(400, "Invalid Content-Length value")
            self._close_transport()
            proceed = False
        receiver = self._body_receiver
        self._in_request = receiver is None or not receiver._complete
        if not self._in_request or self._closed:
            self._stop_stall_timer()
        elif self._stall_timer is None:
            self._start_stall_timer()
        if self._in_request and self._reading_paused:
            self._maybe_resume_reading()
        return proceed

    def _setup_callback_parser(self) -> None:
        super()._setup_callback_parser()
        parser = self._callback_parser
        # gunicorn has no way to name a class for it, nor limits for one connection.
        parser.__class__ = LeewayParser
        if self._is_anonymous:
            parser._limit_request_fields = ANONYMOUS_FIELDS
            parser._limit_request_field_size = ANONYMOUS_FIELD_BYTES

    def _http1_buffered(self) -> int:
        # gunicorn counts what waits behind a whole request for its own class only.
        held: int = super()._http1_buffered()
        parser = self._callback_parser
        return held + len(parser._buffer) if parser.is_complete else held

    def _resume_reading(self) -> None:
        # gunicorn reads on after every request, however many more are here already: they would
        # pile up without bound, and each is copied once for every request before it.
        if self._http1_buffered() <= self._max_buffer_size:
            super()._resume_reading()

    def _on_headers_complete(self) -> bool:
        parser = self._callback_parser
        # RFC 9112 section 3.2. The parser has refused a second one.
        if parser.http_version >= (1, 1) and not _has_host(parser.headers):
            raise InvalidHeader("Missing Host header")
        skip_body: bool = super()._on_headers_complete()
        return skip_body

    async def _serve_http_request(self, request: Any, sockname: Any, peername: Any) -> bool:
        # gunicorn runs each call in a task of its own, for applications that go on after they have
        # answered. Ours does not, and a task for each request would cost for nothing.
        keep_alive: bool = await self._handle_http_request(request, sockname, peername)
        if self._is_anonymous:
            self.worker.anonymous.used(self)
        return keep_alive

    def _start_stall_timer(self) -> None:
        self._stall_timer = self.worker.loop.call_later(STALL_SECONDS, self._stalled)

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _stalled(self) -> None:
        self._stall_timer = None
        if self._closed:
            return
        receiver = self._body_receiver
        if receiver is None:
            self._send_error_response(408, f"no whole request within {STALL_SECONDS:.0f} s")
        else:
            receiver.signal_disconnect()
        self._close_transport()
        self._abort_later()

    def _abort_later(self) -> None:
        # close() waits for the peer's close_notify, which a stalled peer never sends.
        self.worker.loop.call_later(ABORT_SECONDS, self.transport.abort)

    def _will_close(self, request: Any, response_requires_close: bool) -> bool:
        # A body that is not here yet is not waited for; where it ends the next request begins.
        return (
            self.worker.draining
            or self.is_ending
            or self._in_request
            or super()._will_close(request, response_requires_close)
        )

    def _build_http_scope(self, request: Any, sockname: Any, peername: Any) -> dict[str, Any]:
        scope: dict[str, Any] = super()._build_http_scope(request, sockname, peername)
        if self._tls is not None:
            scope.setdefault("extensions", {})["tls"] = self._tls
        return scope


def _has_host(headers: list[tuple[bytes, bytes]]) -> bool:
    for name, _ in headers:  # noqa: SIM110 - a generator costs more, on the hot path
        if name == b"host":
            return True
    return False
