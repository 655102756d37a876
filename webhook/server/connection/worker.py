"""The gunicorn worker: an event loop, its listeners and its connections.

* TLS with a limit of 9 s for a handshake, and one on their number (``acceptor.py``).
* A limit on connections without a client certificate (``anonymous.py``).
* New certificates for new connections as soon as their files change; open connections stay open.
* A drain that drops nothing: after SIGTERM connections are accepted until the listener closes,
  every answer says ``Connection: close``, and a connection between two requests gets a moment to
  send one before it is closed.

It needs nothing of gunicorn but the public ``gunicorn.workers.base.Worker``.
"""

import asyncio
import contextlib
import gc
import os
import shlex
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

import uvloop
from gunicorn.workers.base import Worker

from keys.file_watch import FileWatch
from webhook.config.paths import TLSFiles, crl_beside
from webhook.server.connection.acceptor import Acceptor
from webhook.server.connection.anonymous import AnonymousConnections
from webhook.server.connection.connection import (
    ABORT_SECONDS,
    ANONYMOUS_RECEIVE_BYTES,
    STALL_SECONDS,
    Connection,
)
from webhook.server.connection.handshake import ServerContext, failure_of
from webhook.server.connection.read_head import Head
from webhook.server.connection.stop_signals import exit_on_signal, hold, release
from webhook.server.connection.tls import load_context
from webhook.server.request.errors import describe_error, traceback_of

# How long a client may take to close a connection that the server is closing. What it still sends
# is read and thrown away: bytes unread would reset the connection, and the answer be lost with it.
_CLOSE_SECONDS: Final = 2.0
_ACCEPT_WHILE_DRAINING_SECONDS: Final = 0.5
_IDLE_WHILE_DRAINING_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 1.0
_EVERYWHERE: Final = ("", "0.0.0.0", "[::]")  # noqa: S104 - compared with, not listened on
_GC_THRESHOLDS: Final = (50_000, 10, 10)


class LeewayWorker(Worker):  # type: ignore[misc]
    """One process."""

    alive: bool
    nr: int
    application: Any
    loop: asyncio.AbstractEventLoop

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.draining = False
        self.keep_alive_seconds: float = self.cfg.keepalive
        self.heads: dict[bytes, Head] = {}
        self.connections: set[Connection] = set()
        self.anonymous = AnonymousConnections(self._max_anonymous, self._over_limit)
        self._acceptor = Acceptor(self._connect, self._max_anonymous, self._over_limit)
        self._context: ServerContext

    def load_wsgi(self) -> None:
        """Load the application, and spare each full garbage collection the walk through it."""
        super().load_wsgi()
        self.application = self.wsgi
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)

    def init_process(self) -> None:
        """Start and serve, until the end of this process."""
        exit_on_signal()
        try:
            super().init_process()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> NoReturn:
        # The master starts another worker. At other statuses it stops the others, which still
        # serve what they have loaded.
        text = "This worker cannot start, another one will try: %s"
        self.log.error(text, error, exc_info=traceback_of(error))
        time.sleep(_RETRY_SECONDS)
        raise SystemExit(1) from error

    def init_signals(self) -> None:
        """Do nothing: until its loop runs, uvloop keeps a signal to itself until another comes."""

    def run(self) -> None:
        """Serve until a signal, or until the master is gone."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    def _handle_signals(self) -> None:
        hold()
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for number, handle in {
            signal.SIGTERM: self._drain_soon,
            signal.SIGINT: self._stop,
            signal.SIGQUIT: self._stop,
            signal.SIGHUP: self._reload,  # which the master passes on
            signal.SIGUSR1: self.log.reopen_files,
            signal.SIGABRT: lambda: self.handle_abort(signal.SIGABRT, None),
        }.items():
            self.loop.add_signal_handler(number, handle)
        release()

    def _drain_soon(self) -> None:
        # ``alive`` stays true, so that open requests are answered.
        self.draining = True
        self._wake.set()

    def _stop(self) -> None:
        self.alive = False
        self.cfg.worker_int(self)
        self._wake.set()

    def _reload(self) -> None:
        # Changed or not.
        self.application.reload_soon()
        self.loop.run_in_executor(None, self._watch.notify)

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._handle_signals()
        listeners = [listener.sock for listener in self.sockets]
        try:
            files = self._tls_files()
            crl = files.client_ca.with_suffix(".crl")
            paths = (files.certificate, files.private_key, files.client_ca, crl)
            self._watch = FileWatch(paths, self._reload_tls, "leeway-tls-files")
            self._context = load_context(files)
            await self.application.start()
            self._acceptor.start(listeners)
            if self.age == 1:
                self.log.info("%s", ready_line(self.cfg.bind[0], self.cfg.ca_certs))
            self._watch.start()
        except Exception as error:
            self._give_up(error)
        while self.alive and not self.draining:
            self.notify()
            if self.ppid != os.getppid():
                self.log.info("The master is gone, shutting down")
                break
            if self.nr >= self.max_requests:
                self.log.info("This worker has had its %d requests", self.max_requests)
                break
            await self._end_untrusted()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), 1.0)
        # It may wait for its thread, which may wait for this loop.
        await self.loop.run_in_executor(None, self._watch.close)
        if self.alive:
            self.draining = True
            await self._drain(listeners)
        self.alive = False
        await self.application.stop()

    def _tls_files(self) -> TLSFiles:
        ca = Path(self.cfg.ca_certs)
        return TLSFiles(Path(self.cfg.certfile), Path(self.cfg.keyfile), ca, crl_beside(ca))

    def _reload_tls(self) -> bool:
        """Load the files of TLS again, in any thread; broken ones change nothing."""
        try:
            context = load_context(self._tls_files())
        except Exception as error:
            problem = f"{describe_error(error)}; what was loaded before stays in use"
            if self.application.report("tls", problem, repr(error)):
                text = "TLS was not loaded again: %s"
                self.log.error(text, problem, exc_info=traceback_of(error))
            return False
        self._context = context
        self.application.report("tls", "")
        self.log.info("New connections get the certificates that are there now")
        return True

    async def _end_untrusted(self) -> None:
        """End the connections whose certificate is not accepted since a change of files."""
        trust = self._context.trust
        stale = [c for c in self.connections if c.trust is not trust and c.certificate]
        if not stale:
            return
        shown = {c.certificate for c in stale if c.trust != trust}
        refused = await asyncio.to_thread(lambda: {pem for pem in shown if not trust.accepts(pem)})
        ended = 0
        for connection in stale:
            if connection.certificate not in refused:
                connection.trust = trust
                continue
            ended += not connection.is_ending
            connection.end()
        if ended:
            text = "Ending connections with a client certificate that is no longer accepted: %d"
            self.log.info(text, ended)

    def _max_anonymous(self) -> int:
        return int(self.application.max_anonymous_connections)

    def _over_limit(self, what: Literal["connection", "file"] = "connection") -> None:
        self.application.over_limit(what)

    async def _connect(self, client: socket.socket) -> None:
        # What one read of an unknown client may bring, with all its copies on the way.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ANONYMOUS_RECEIVE_BYTES)
        address = client.getpeername()[0]
        try:
            await self.loop.connect_accepted_socket(
                lambda: Connection(self),
                client,
                ssl=self._context,
                ssl_handshake_timeout=STALL_SECONDS,
                ssl_shutdown_timeout=_CLOSE_SECONDS,
            )
        except OSError as error:
            self.application.handshake_failed(*failure_of(error), address)
            raise

    async def _drain(self, listeners: list[socket.socket]) -> None:
        self.log.info("Draining %d connections", len(self.connections))
        deadline = self.loop.time() + self.cfg.graceful_timeout - ABORT_SECONDS
        await asyncio.sleep(_ACCEPT_WHILE_DRAINING_SECONDS)
        await self._acceptor.stop()
        # The kernel has accepted these clients already; closing the listener would reset them.
        for listener in listeners:
            for client in _accept_backlog(listener):
                self._acceptor.begin(client)
        idle_until = self.loop.time() + _IDLE_WHILE_DRAINING_SECONDS
        while self.loop.time() < deadline and self.alive:
            if not (self.connections or self._acceptor.handshakes):
                break
            self.notify()
            if self.loop.time() >= idle_until:
                for connection in [c for c in self.connections if c.is_idle]:
                    connection.end()
            await asyncio.sleep(0.05)
        self._acceptor.close()


def ready_line(bind: str, ca: str) -> str:
    """Return the one line that a server logs once it answers: its URL, and what to try next.

    >>> ready_line("0.0.0.0:8443", "tls/ca.crt")
    'ready at https://localhost:8443; to check: curl --cacert tls/ca.crt https://localhost:8443/readyz'
    """
    host, _, port = bind.rpartition(":")
    # What listens everywhere has a certificate for this host at least.
    url = f"https://{'localhost' if host in _EVERYWHERE else host}:{port}"
    return f"ready at {url}; to check: curl --cacert {shlex.quote(ca)} {url}/readyz"


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
