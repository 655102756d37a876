"""One GET over HTTPS, with everything about it bounded.

Invariants:

1. Only https, and only with a certificate that is good for the host.
2. No answer but a 200 counts: no redirect is followed. Proxies of the environment are not used.
3. What is received is at most MAX_BODY_BYTES and MAX_HEAD_BYTES beside it.
4. It is over at the deadline, however slowly the other side sends. Time limits of sockets count
   from one byte to the next, so what is left is set before each read.
"""

import http.client
import io
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any, Final, NamedTuple

from webhook.errors import KeysUnavailableError
from webhook.trusted_issuers.documents import HTTPSAddress
from webhook.version import VERSION

MAX_BODY_BYTES: Final = 1024 * 1024
MAX_HEAD_BYTES: Final = 64 * 1024
"""For the header, and what chunked encoding adds to the body."""


class Answer(NamedTuple):
    """The body of an answer, and its Cache-Control header, empty where there is none."""

    body: bytes
    cache_control: str


class Deadline:
    """A moment at which it is over; ``clock`` is monotonic."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds = seconds
        self._clock = clock
        self._end = clock() + seconds

    def left(self) -> float:
        """Return the seconds that are left. Raises TimeoutError where there are none."""
        left = self._end - self._clock()
        if left <= 0:
            raise TimeoutError
        return left


def get(address: HTTPSAddress, ca_file: Path | None, token: str, deadline: Deadline) -> Answer:
    """Get a document; ``token`` goes along as a bearer token unless it is empty.

    ``ca_file`` has the CAs that count, None means those of the system. Raises KeysUnavailableError.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise KeysUnavailableError(
            f"caFile {ca_file} is no PEM file of certificates that can be read: "
            f"{getattr(error, 'strerror', None) or error}"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        with _connect(address, context, deadline) as connection:
            return _exchange(connection, address, token, deadline)
    except KeysUnavailableError:
        raise
    except ssl.SSLCertVerificationError as error:
        why = f"its certificate is not accepted: {error.verify_message}; is caFile its CA?"
        raise KeysUnavailableError(f"{address.url}: {why}") from error
    except TimeoutError as error:
        raise KeysUnavailableError(
            f"{address.url} did not answer in full within {deadline.seconds:g}s"
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise KeysUnavailableError(f"{address.url}: {_in_words(error)}") from error


def _in_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLEOFError):
        return "the connection was cut before the end of the answer"
    if isinstance(error, ssl.SSLError):
        return f"TLS with it failed: {(error.reason or 'unknown').replace('_', ' ').lower()}"[:256]
    if isinstance(error, OSError):
        return f"it cannot be reached: {error.strerror or error}"[:256]
    return f"its answer is not HTTP: {type(error).__name__}"


def _connect(address: HTTPSAddress, context: ssl.SSLContext, deadline: Deadline) -> ssl.SSLSocket:
    found = _resolve(address, deadline)
    last: OSError = OSError("the name has no address")
    for place, (family, kind, protocol, _, target) in enumerate(found):
        plain = socket.socket(family, kind, protocol)
        try:
            # An address that does not answer leaves time for those after it.
            plain.settimeout(deadline.left() / (len(found) - place))
            plain.connect(target)
        except OSError as error:
            plain.close()
            last = error
            continue
        try:
            plain.settimeout(deadline.left())
            return context.wrap_socket(
                plain, server_hostname=address.host, suppress_ragged_eofs=False
            )
        except BaseException:
            plain.close()
            raise
    raise last


def _resolve(address: HTTPSAddress, deadline: Deadline) -> list[Any]:
    # The resolver has limits of its own, which may be longer than ours.
    answer: Future[list[Any]] = Future()

    def resolve() -> None:
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            answer.set_result(found)
        except (OSError, ValueError) as error:
            answer.set_exception(error)

    Thread(target=resolve, name="leeway-resolver", daemon=True).start()
    return answer.result(deadline.left())


def _exchange(
    connection: ssl.SSLSocket, address: HTTPSAddress, token: str, deadline: Deadline
) -> Answer:
    lines = [
        f"GET {address.target} HTTP/1.1",
        f"Host: {address.authority}",
        f"User-Agent: leeway/{VERSION}",
        "Accept: application/jwk-set+json, application/json",
        "Accept-Encoding: identity",
        "Connection: close",
        *([f"Authorization: Bearer {token}"] if token else []),
    ]
    connection.settimeout(deadline.left())
    connection.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
    with closing(_response(connection, deadline)) as response:
        response.begin()
        _check_head(response, address, token)
        body = response.read()
    if len(body) > MAX_BODY_BYTES:
        raise _too_large(address)
    return Answer(body, response.getheader("Cache-Control", ""))


def _check_head(response: http.client.HTTPResponse, address: HTTPSAddress, token: str) -> None:
    status = response.status
    if status != http.client.OK:
        advice = ""
        if 300 <= status < 400:
            advice = "; redirects are not followed: configure the URL that it leads to"
        elif status in (401, 403):
            advice = (
                "; the token of tokenFile is not accepted"
                if token
                else "; give it a token with tokenFile"
            )
        raise KeysUnavailableError(f"{address.url} answered {status}, not 200{advice}")
    encoding = response.getheader("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise KeysUnavailableError(
            f"{address.url} sends its answer as {encoding[:32]!r}; it must send it as it is"
        )
    if response.length is not None and response.length > MAX_BODY_BYTES:
        raise _too_large(address)


def _too_large(address: HTTPSAddress) -> KeysUnavailableError:
    return KeysUnavailableError(
        f"the answer of {address.url} is larger than the {MAX_BODY_BYTES} bytes that are allowed"
    )


class _Received(io.RawIOBase):
    """What a socket sends, until the deadline and up to a number of bytes."""

    def __init__(self, connection: ssl.SSLSocket, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline
        self._room = MAX_BODY_BYTES + MAX_HEAD_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(self._deadline.left())
        size = self._connection.recv_into(buffer)
        self._room -= size
        if self._room < 0:
            raise KeysUnavailableError(
                f"an answer has more than {MAX_BODY_BYTES} bytes, or a header of more than "
                f"{MAX_HEAD_BYTES}; less is allowed"
            )
        return size

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Be to http.client what it wants of a socket."""
        return io.BufferedReader(self)


def _response(connection: ssl.SSLSocket, deadline: Deadline) -> http.client.HTTPResponse:
    received: Any = _Received(connection, deadline)
    return http.client.HTTPResponse(received, method="GET")
