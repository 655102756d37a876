"""gunicorn's ``asgi`` worker with what it leaves out.

* The peer certificate, in the form of the ASGI TLS extension.
* A limit of 10 s for the handshake, and for each request from its first byte to its last.
* A drain that drops nothing: after SIGTERM connections are accepted until the listener closes,
  every answer says ``Connection: close``, and a connection between two requests gets a moment to
  send one before it is closed.

It leans on names inside gunicorn; ``tests/unit/webhook/server/test_worker.py`` notices when they
move, and pyproject.toml pins the version range.
"""

import asyncio
import os
import socket
import ssl
from asyncio import Transport
from pathlib import Path
from typing import Any, Final

from gunicorn.arbiter import Arbiter
from gunicorn.asgi.lifespan import LifespanManager
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers.gasgi import ASGIWorker

from webhook.server.tls import server_context, tls_extension

STALL_SECONDS: Final = 10.0
# How long a stalled or idle client may take to let go of a connection that is being closed.
_CLOSE_SECONDS: Final = 1.0
_ACCEPT_WHILE_DRAINING_SECONDS: Final = 0.5
_IDLE_WHILE_DRAINING_SECONDS: Final = 2.0
_BACKLOG: Final = 2048


class LeewayProtocol(ASGIProtocol):
    """One connection."""

    worker: "LeewayWorker"

    def __init__(self, worker: "LeewayWorker") -> None:
        super().__init__(worker)
        self._stall_timer: asyncio.TimerHandle | None = None
        self._tls: dict[str, Any] | None = None
        worker.handshakes[self] = worker.loop.time() + STALL_SECONDS

    def connection_made(self, transport: Transport) -> None:
        """Take over a connection whose handshake is done."""
        self.worker.handshakes.pop(self, None)
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
        super().connection_lost(exc)

    @property
    def is_idle(self) -> bool:
        """Whether the connection is between two requests, with no byte of the next one here."""
        return bool(self._awaiting_request) and self._stall_timer is None

    def close_idle(self) -> None:
        """Close a connection that is between two requests."""
        self._close_transport()
        self._request_ready.set()
        self._abort_later()

    def _feed_callback_parser(self, data: bytes) -> bool:
        proceed: bool = super()._feed_callback_parser(data)
        receiver = self._body_receiver
        if receiver is not None and receiver._complete:
            self._stop_stall_timer()
        elif self._stall_timer is None:
            self._start_stall_timer()
        return proceed

    def _start_stall_timer(self) -> None:
        self._stall_timer = self.worker.loop.call_later(STALL_SECONDS, self._stalled)

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

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
        self.worker.loop.call_later(_CLOSE_SECONDS, self.transport.abort)

    def _will_close(self, request: Any, response_requires_close: bool) -> bool:
        return self.worker.draining or super()._will_close(request, response_requires_close)

    def _build_http_scope(self, request: Any, sockname: Any, peername: Any) -> dict[str, Any]:
        scope: dict[str, Any] = super()._build_http_scope(request, sockname, peername)
        if self._tls is not None:
            scope.setdefault("extensions", {})["tls"] = self._tls
        return scope


class LeewayWorker(ASGIWorker):
    """One process: an event loop, its listeners and its connections."""

    loop: asyncio.AbstractEventLoop

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.draining = False
        self.protocols: set[LeewayProtocol] = set()
        self.handshakes: dict[LeewayProtocol, float] = {}
        self._wake = asyncio.Event()

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
            self._beat()
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
        limits = {"ssl_handshake_timeout": STALL_SECONDS} if context else {}
        return await self.loop.create_server(
            lambda: LeewayProtocol(self), sock=listener, ssl=context, backlog=_BACKLOG, **limits
        )

    def _beat(self) -> None:
        self.notify()
        now = self.loop.time()
        # A handshake that fails never reports to its protocol.
        for protocol in [p for p, deadline in self.handshakes.items() if deadline < now]:
            del self.handshakes[protocol]

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            pass

    async def _drain(self, listeners: list[socket.socket], context: ssl.SSLContext | None) -> None:
        self.log.info("Draining %d connections", len(self.protocols))
        deadline = self.loop.time() + self.cfg.graceful_timeout - _CLOSE_SECONDS
        await asyncio.sleep(_ACCEPT_WHILE_DRAINING_SECONDS)
        for server in self.servers:
            server.close()
        for listener in listeners:
            await self._accept_backlog(listener, context)
        idle_until = self.loop.time() + _IDLE_WHILE_DRAINING_SECONDS
        while (self.protocols or self.handshakes) and self.loop.time() < deadline and self.alive:
            self._beat()
            if self.loop.time() >= idle_until:
                for protocol in [p for p in self.protocols if p.is_idle]:
                    protocol.close_idle()
            await asyncio.sleep(0.05)

    async def _accept_backlog(
        self, listener: socket.socket, context: ssl.SSLContext | None
    ) -> None:
        # The kernel has accepted these clients already; closing the listener would reset them.
        limits = {"ssl_handshake_timeout": STALL_SECONDS} if context else {}
        accepted = []
        listener.setblocking(False)
        try:
            while True:
                accepted.append(listener.accept()[0])
        except OSError:
            listener.close()
        for client in accepted:
            client.setblocking(False)
            self.loop.create_task(
                self.loop.connect_accepted_socket(
                    lambda: LeewayProtocol(self), client, ssl=context, **limits
                )
            )
        await asyncio.sleep(0)
