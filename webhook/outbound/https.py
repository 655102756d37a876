"""The HTTPS client for all outgoing requests: GET only, and limited in time and size.

Invariants:

1. Only https, and only with a certificate that is valid for the host, unless the caller's TLS
   context allows another.
2. At most the caller's limit is received, and MAX_HEAD_BYTES in addition.
3. A request ends at its deadline, however slowly the other side sends. The timeout of a socket
   starts again with each byte, so it is set to the time left before each read.

No request is repeated and no redirect followed: the caller decides. Proxies of the environment are
not used.
"""

import http.client
import io
import select
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from time import monotonic
from typing import Any, Final, NamedTuple, Self

from webhook.https_url import HTTPSAddress
from webhook.outbound.errors import RequestFailedError, outbound_error
from webhook.version import VERSION

MAX_HEAD_BYTES: Final = 64 * 1024
"""For the header and the framing of a chunked body."""
_CHUNK_BYTES: Final = 64 * 1024
_MAX_IDLE: Final = 8


class Deadline:
    """A time limit that starts now; ``clock`` is monotonic.

    >>> times = iter([100.0, 101.5, 103.0])
    >>> deadline = Deadline(2.0, lambda: next(times))
    >>> deadline.left()
    0.5
    >>> deadline.left()
    Traceback (most recent call last):
    TimeoutError
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._end = clock() + seconds

    def left(self) -> float:
        """Return the seconds that are left. Raises TimeoutError after the deadline."""
        left = self._end - self._clock()
        if left <= 0:
            raise TimeoutError
        return left


class Endpoint(NamedTuple):
    """Where to connect, the host that the certificate must be valid for, and the Host header."""

    address: str
    port: int
    server_name: str
    authority: str

    @property
    def url(self) -> str:
        """The address as an https URL."""
        return f"https://{f'[{self.address}]' if ':' in self.address else self.address}:{self.port}"


class Proxy(NamedTuple):
    """An HTTP proxy for HTTPS servers (CONNECT); ``authorization`` is the value of its header."""

    host: str
    port: int
    authorization: str = ""


def endpoint_of(address: HTTPSAddress) -> Endpoint:
    """Return the endpoint of a URL."""
    return Endpoint(address.host, address.port, address.host, address.authority)


def client_context(ca_file: Path | str | None = None, ca: str | None = None) -> ssl.SSLContext:
    """Return a TLS context that trusts the CAs of a file or a PEM text, else those of the system.

    Chain, names and dates are checked. The default since Python 3.13 would refuse CAs without key
    identifiers, such as those of EKS and MicroK8s. Raises OSError and ValueError.
    """
    context = ssl.create_default_context(cafile=ca_file, cadata=ca)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class ClientResponse:
    """A response whose body has yet to be read. It has to be closed."""

    def __init__(
        self,
        response: http.client.HTTPResponse,
        received: "_Received",
        give_back: Callable[[bool], None],
    ) -> None:
        self._response = response
        self._received = received
        self._give_back: Callable[[bool], None] | None = give_back
        self.status = response.status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def header(self, name: str) -> str:
        """Return a header field, empty if there is none."""
        return self._response.getheader(name, "")

    @property
    def length(self) -> int | None:
        """The number of bytes left in the body, None if unknown."""
        return self._response.length

    def chunks(self) -> Iterator[bytes]:
        """Yield parts of the body as they arrive. Raises OutboundError."""
        try:
            while part := self._response.read1(_CHUNK_BYTES):
                yield part
            if self._response.length:
                raise http.client.IncompleteRead(b"", self._response.length)
        except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:
            raise outbound_error(error, self._received.seconds) from error

    def read(self) -> bytes:
        """Return the body. Raises OutboundError."""
        return b"".join(self.chunks())

    def interrupt(self) -> None:
        """Wake a thread that waits in ``chunks``."""
        self._received.interrupt()

    def close(self) -> None:
        """Keep the connection for the next request if the body was read to the end."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            response = self._response
            ended = response.length == 0 or (response.isclosed() and response.length is None)
            complete = ended and not response.will_close
            response.close()
            give_back(complete)


class Client:
    """A client for one endpoint, which keeps its connections for the next requests.

    >>> endpoint = Endpoint("127.0.0.1", 1, "localhost", "localhost:1")
    >>> client = Client(endpoint, client_context())
    >>> client.get("/livez", {}, Deadline(2.0), max_bytes=1000)
    Traceback (most recent call last):
    webhook.outbound.errors.NotListeningError: it cannot be reached: Connection refused
    """

    def __init__(
        self, endpoint: Endpoint, context: ssl.SSLContext, proxy: Proxy | None = None
    ) -> None:
        self._endpoint = endpoint
        self._context = context
        self._proxy = proxy
        self._idle: list[ssl.SSLSocket] = []
        self._closed = False
        self._lock = Lock()

    def connect(self, deadline: Deadline) -> None:
        """Open a connection for a later request. Raises OutboundError."""
        try:
            self._keep(self._connect(deadline), True)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise outbound_error(error, deadline.seconds) from error

    def get(
        self,
        target: str,
        headers: Mapping[str, str],
        deadline: Deadline,
        max_bytes: int,
    ) -> ClientResponse:
        """Return the response, whatever its status; ``target`` is the path with the query.

        ``deadline`` includes the body. Raises OutboundError.
        """
        lines = [f"GET {target} HTTP/1.1", f"Host: {self._endpoint.authority}"]
        fields = {"User-Agent": f"leeway/{VERSION}", "Accept-Encoding": "identity", **headers}
        lines += [f"{name}: {value}" for name, value in fields.items()]
        if not all(line.isascii() and line.isprintable() for line in lines):
            raise RequestFailedError("a header of the request has a character that is not allowed")
        connection: ssl.SSLSocket | None = None
        try:
            connection = self._take() or self._connect(deadline)
            connection.settimeout(deadline.left())
            connection.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
            received = _Received(connection, deadline, max_bytes)
            response = received.response()
            response.begin()
        except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:
            if connection is not None:
                connection.close()
            raise outbound_error(error, deadline.seconds) from error
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        opened = connection
        return ClientResponse(response, received, lambda complete: self._keep(opened, complete))

    def close(self) -> None:
        """Close the idle connections now, and those in use after their responses."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> ssl.SSLSocket | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if not _is_readable(connection):
                return connection
            # The other side has closed it.
            connection.close()

    def _keep(self, connection: ssl.SSLSocket, complete: bool) -> None:
        with self._lock:
            if complete and not self._closed and len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self, deadline: Deadline) -> ssl.SSLSocket:
        host, port = self._proxy[:2] if self._proxy else self._endpoint[:2]
        plain = _connected(host, port, deadline)
        try:
            plain.settimeout(deadline.left())
            if self._proxy:
                _open_tunnel(plain, self._endpoint, self._proxy, deadline)
            return self._context.wrap_socket(  # invariant 1
                plain, server_hostname=self._endpoint.server_name, suppress_ragged_eofs=False
            )
        except BaseException:
            plain.close()
            raise


def _is_readable(connection: ssl.SSLSocket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _connected(host: str, port: int, deadline: Deadline) -> socket.socket:
    found = _resolve(host, port, deadline)
    last: OSError = OSError(0, "the name has no address")
    for place, (family, kind, protocol, _, target) in enumerate(found):
        plain = socket.socket(family, kind, protocol)
        try:
            # Leave time for the other addresses.
            plain.settimeout(deadline.left() / (len(found) - place))
            plain.connect(target)
        except OSError as error:
            plain.close()
            last = error
            continue
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return plain
    raise last


def _resolve(host: str, port: int, deadline: Deadline) -> list[Any]:
    # In a thread, since the timeouts of the resolver may be longer than the deadline.
    answer: Future[list[Any]] = Future()

    def resolve() -> None:
        try:
            answer.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as error:
            answer.set_exception(error)

    Thread(target=resolve, name="leeway-resolver", daemon=True).start()
    return answer.result(deadline.left())


def _open_tunnel(
    plain: socket.socket, endpoint: Endpoint, proxy: Proxy, deadline: Deadline
) -> None:
    """Request a tunnel to an endpoint from a proxy (RFC 9110 section 9.3.6)."""
    host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    target = f"{host}:{endpoint.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", f"User-Agent: leeway/{VERSION}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    plain.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
    response = _Received(plain, deadline, 0).response("CONNECT")
    try:
        response.begin()
        if response.status != http.client.OK:
            raise RequestFailedError(f"its proxy answered {response.status} to CONNECT")
    finally:
        response.close()


class _Received(io.RawIOBase):
    """The stream from a socket, until the deadline and up to ``max_bytes`` of body."""

    def __init__(self, connection: socket.socket, deadline: Deadline, max_bytes: int) -> None:
        self._connection = connection
        self._deadline = deadline
        self._max_bytes = max_bytes
        self._room = max_bytes + MAX_HEAD_BYTES
        self._interrupted = False
        self.seconds = deadline.seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(self._deadline.left())  # invariant 3
        try:
            size = self._connection.recv_into(buffer)
        except OSError:
            if self._interrupted:
                return 0
            raise
        self._room -= size
        if self._room < 0:  # invariant 2
            raise RequestFailedError(
                f"its answer has more than {self._max_bytes} bytes, or a header of more than "
                f"{MAX_HEAD_BYTES}; less is allowed"
            )
        return size

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the stream that http.client reads; it calls this as a socket's method."""
        return io.BufferedReader(self, _CHUNK_BYTES)

    def response(self, method: str = "GET") -> http.client.HTTPResponse:
        received: Any = self
        return http.client.HTTPResponse(received, method=method)

    def interrupt(self) -> None:
        self._interrupted = True
        # Not SSLSocket's own method, after which the other thread would read without TLS.
        with suppress(OSError):
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)
