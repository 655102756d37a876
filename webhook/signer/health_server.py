"""``/metrics`` and ``/livez`` of the signer, over plain HTTP; meant for a loopback address."""

import io
import logging
import socket
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from threading import BoundedSemaphore, Thread
from time import monotonic
from typing import Any, Final

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from webhook.errors import DataDirectoryError
from webhook.telemetry.logs import LOGGER

_MAX_REQUESTS: Final = 16
_CLIENT_SECONDS: Final = 5.0
_TEXT: Final = "text/plain; charset=utf-8"
_logger = logging.getLogger(LOGGER)


class HealthServer:
    """Serves ``HOST:PORT``; port 0 is any free one.

    ``metrics`` renders the metrics, ``problem`` returns why the signer cannot be used, empty if it
    can. Raises DataDirectoryError if the address cannot be used.
    """

    def __init__(self, bind: str, metrics: Callable[[], bytes], problem: Callable[[], str]) -> None:
        host, _, port = bind.rpartition(":")
        try:
            self._server = _Server((host.strip("[]"), int(port)), metrics, problem)
        except OSError as error:
            raise DataDirectoryError(
                f"cannot listen on {bind}: {error.strerror or error}; stop what listens there, or "
                "give another address with --metrics-bind HOST:PORT"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = Thread(target=self._server.serve_forever, name="leeway-health", daemon=True)

    def start(self) -> None:
        """Start to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and free the address."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


# Not http.server's HTTPServer, which asks the DNS for the name of its address: a signer can start
# before there is a DNS.
class _Server(ThreadingMixIn, TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, address: tuple[str, int], metrics: Callable[[], bytes], problem: Callable[[], str]
    ) -> None:
        self.metrics = metrics
        self.problem = problem
        self._room = BoundedSemaphore(_MAX_REQUESTS)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Request)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, *_: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # The client has gone.
            _logger.exception("a request for metrics or health failed")


class _TimedReader(io.RawIOBase):
    """Reads from a connection for ``_CLIENT_SECONDS``, then raises TimeoutError.

    The timeout of a socket alone would begin again with each byte.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = monotonic() + _CLIENT_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        remaining = self._deadline - monotonic()
        if remaining <= 0:
            raise TimeoutError
        self._connection.settimeout(remaining)
        return self._connection.recv_into(buffer)


class _Request(BaseHTTPRequestHandler):
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_TimedReader(self.connection))

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._send(200, CONTENT_TYPE_LATEST, self.server.metrics())
        elif path == "/livez":
            problem = self.server.problem()
            self._send(503 if problem else 200, _TEXT, (problem or "ok").encode())
        else:
            self._send(404, _TEXT, b"/livez and /metrics are served\n")

    def version_string(self) -> str:
        return "leeway"

    def log_message(self, *_: Any) -> None:
        """Write nothing: probes come every few seconds."""

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
