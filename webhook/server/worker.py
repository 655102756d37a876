"""gunicorn's ``asgi`` worker with what it leaves out.

* The peer certificate, in the form of the ASGI TLS extension.
* A limit of 9 s for the handshake, for each request from its first byte to its last, and for a
  client that takes no byte of its answer.
* A bound on the requests that a client sends ahead.
* 400 for a request without Host, and ``Connection: close`` where the body is not read to its end.
* A drain that drops nothing: after SIGTERM connections are accepted until the listener closes,
  every answer says ``Connection: close``, and a connection between two requests gets a moment to
  send one before it is closed.

It leans on names inside gunicorn; ``tests/unit/webhook/server/test_worker.py`` notices when they
move, and pyproject.toml pins the version range.
"""

import asyncio
import contextlib
import gc
import os
import socket
import ssl
from asyncio import Transport
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from weakref import WeakSet

from gunicorn.arbiter import Arbiter
from gunicorn.asgi.lifespan import LifespanManager
from gunicorn.asgi.parser import InvalidHeader
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers.gasgi import ASGIWorker

from webhook.server.parser import LeewayParser
from webhook.server.tls import server_context, tls_extension

# With the second until an abort, whoever stalls is gone after ten.
STALL_SECONDS: Final = 9.0
# How long a client may take to let go of a connection that is being closed. What it still sends
# is read and thrown away: bytes unread would reset the connection, and the answer be lost with it.
_CLOSE_SECONDS: Final = 2.0
# The same for one that stalled or was idle.
_ABORT_SECONDS: Final = 1.0
_ACCEPT_WHILE_DRAINING_SECONDS: Final = 0.5
_IDLE_WHILE_DRAINING_SECONDS: Final = 2.0
_BACKLOG: Final = 2048
_GC_THRESHOLDS: Final = (50_000, 20, 100)


class LeewayProtocol(ASGIProtocol):  # type: ignore[misc]
    """One connection."""

    worker: "LeewayWorker"

    def __init__(self, worker: "LeewayWorker") -> None:
        super().__init__(worker)
        self._stall_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_request = False
        self._tls: dict[str, Any] | None = None
        worker.handshakes.add(self)

    def connection_made(self, transport: Transport) -> None:
        """Take over a connection whose handshake is done."""
        self.worker.handshakes.discard(self)
        self.worker.protocols.add(self)
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None:
            self._tls = tls_extension(ssl_object)
        super().connection_made(transport)
        self._start_stall_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a connection."""
        self.worker.protocols.discard(self)
        self._stop_stall_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Stop writing, and give up on the client where it does not go on reading."""
        super().pause_writing()
        self._stop_write_timer()
        self._write_timer = self.worker.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on writing."""
        self._stop_write_timer()
        super().resume_writing()

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
        # gunicorn has no way to name a class for it.
        self._callback_parser.__class__ = LeewayParser

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
        self.worker.loop.call_later(_ABORT_SECONDS, self.transport.abort)

    def _will_close(self, request: Any, response_requires_close: bool) -> bool:
        # A body that is not here yet is not waited for; where it ends the next request begins.
        return (
            self.worker.draining
            or self._in_request
            or super()._will_close(request, response_requires_close)
        )

    def _build_http_scope(self, request: Any, sockname: Any, peername: Any) -> dict[str, Any]:
        scope: dict[str, Any] = super()._build_http_scope(request, sockname, peername)
        if self._tls is not None:
            scope.setdefault("extensions", {})["tls"] = self._tls
        return scope


class LeewayWorker(ASGIWorker):  # type: ignore[misc]
    """One process: an event loop, its listeners and its connections."""

    alive: bool
    loop: asyncio.AbstractEventLoop

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.draining = False
        self.protocols: set[LeewayProtocol] = set()
        # A handshake that fails does not report to its protocol, but lets go of it.
        self.handshakes: WeakSet[LeewayProtocol] = WeakSet()
        self._wake = asyncio.Event()

    def load_wsgi(self) -> None:
        """Load the application, and keep the garbage collector off what is there for good.

        Else each full collection walks all modules and cached tokens, and holds every request up.
        """
        super().load_wsgi()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)

    def handle_exit_signal(self) -> None:
        """Begin the drain on SIGTERM. ``alive`` stays true, so that open requests are answered."""
        self.draining = True
        self._wake.set()

    def handle_quit_signal(self) -> None:
        """Stop at once on SIGINT and SIGQUIT."""
        super().handle_quit_signal()
        self._wake.set()

    async def _serve(self) -> None:
        self.lifespan = LifespanManager(self.asgi, self.log, self.state)
        try:
            context = self._server_context()
            await self.lifespan.startup()
        except (OSError, RuntimeError) as error:
            self.log.error("Cannot serve: %s", error)
            raise SystemExit(Arbiter.WORKER_BOOT_ERROR) from error
        listeners = [listener.sock for listener in self.sockets]
        for listener in listeners:
            self.servers.append(await self._listen(listener.dup(), context))
        while self.alive and not self.draining:
            self.notify()
            if self.ppid != os.getppid():
                self.log.info("The master is gone, shutting down")
                break
            await self._pause(1.0)
        if self.alive:
            self.draining = True
            await self._drain(listeners, context)
        self.alive = False
        await self.lifespan.shutdown()

    def _server_context(self) -> ssl.SSLContext | None:
        if not self.cfg.is_ssl:
            return None
        cfg = self.cfg
        return server_context(Path(cfg.certfile), Path(cfg.keyfile), Path(cfg.ca_certs))

    async def _listen(
        self, listener: socket.socket, context: ssl.SSLContext | None
    ) -> asyncio.AbstractServer:
        return await self.loop.create_server(
            self._new_protocol, sock=listener, backlog=_BACKLOG, **_tls_options(context)
        )

    def _new_protocol(self) -> LeewayProtocol:
        return LeewayProtocol(self)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    async def _drain(self, listeners: list[socket.socket], context: ssl.SSLContext | None) -> None:
        self.log.info("Draining %d connections", len(self.protocols))
        deadline = self.loop.time() + self.cfg.graceful_timeout - _ABORT_SECONDS
        await asyncio.sleep(_ACCEPT_WHILE_DRAINING_SECONDS)
        for server in self.servers:
            server.close()
        # The kernel has accepted these clients already; closing the listener would reset them.
        clients = [client for listener in listeners for client in _accept_backlog(listener)]
        options = _tls_options(context)
        last_handshakes = asyncio.gather(
            *(
                self.loop.connect_accepted_socket(self._new_protocol, client, **options)
                for client in clients
            ),
            return_exceptions=True,
        )
        await asyncio.sleep(0)
        idle_until = self.loop.time() + _IDLE_WHILE_DRAINING_SECONDS
        while (self.protocols or self.handshakes) and self.loop.time() < deadline and self.alive:
            self.notify()
            if self.loop.time() >= idle_until:
                for protocol in [p for p in self.protocols if p.is_idle]:
                    protocol.close_idle()
            await asyncio.sleep(0.05)
        last_handshakes.cancel()


def _tls_options(context: ssl.SSLContext | None) -> dict[str, Any]:
    if context is None:
        return {}
    return {
        "ssl": context,
        "ssl_handshake_timeout": STALL_SECONDS,
        "ssl_shutdown_timeout": _CLOSE_SECONDS,
    }


def _accept_backlog(listener: socket.socket) -> Iterator[socket.socket]:
    """Accept whoever waits, then close the listener."""
    listener.setblocking(False)
    with listener:
        while True:
            try:
                client = listener.accept()[0]
            except ConnectionAbortedError:
                continue
            except OSError:
                return
            client.setblocking(False)
            yield client


def _has_host(headers: list[tuple[bytes, bytes]]) -> bool:
    for name, _ in headers:  # noqa: SIM110 - a generator costs more, on the hot path
        if name == b"host":
            return True
    return False
