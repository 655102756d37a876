"""GET requests to a server that may not be well: bounded, over verified TLS, and timed."""

import http.client
import socket
import ssl
from contextlib import closing
from time import sleep, time
from typing import Final, NamedTuple

from webhook.doctor.clock import Sample
from webhook.errors import ServerUnreachableError
from webhook.trusted_issuers.documents import HTTPSAddress
from webhook.version import VERSION

_TIMEOUT_SECONDS: Final = 5.0
_MAX_BODY_BYTES: Final = 1024 * 1024
_SAMPLES: Final = 5
# Not a part of a second: each answer finds the other clock at another place in its second.
_PAUSE_SECONDS: Final = 0.23


class NobodyAnswersError(ServerUnreachableError):
    """No process listens there."""


class Place(NamedTuple):
    """Where to connect to, and for which host the certificate must be good."""

    address: str
    port: int
    host: str

    def __str__(self) -> str:
        return f"https://{f'[{self.address}]' if ':' in self.address else self.address}:{self.port}"


class Answer(NamedTuple):
    """An answer, and when it was asked for and had come (Unix seconds)."""

    status: int
    body: bytes
    sample: Sample


def place_of(address: HTTPSAddress) -> Place:
    """Return the place that a URL names."""
    return Place(address.host, address.port, address.host)


def context_for(ca: str | None) -> ssl.SSLContext:
    """Make a context that believes the CAs of a PEM text, None for the system's.

    Raises OSError (ssl.SSLError).
    """
    context = ssl.create_default_context(cadata=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def ask(place: Place, context: ssl.SSLContext, path: str) -> Answer:
    """Get a path; connecting is not a part of the time that it took.

    Raises ServerUnreachableError.
    """
    try:
        with closing(_Connection(place, context)) as connection:
            connection.connect()
            sent = time()
            connection.request("GET", path, headers={"User-Agent": f"leeway/{VERSION}"})
            response = connection.getresponse()
            sample = Sample(response.getheader("Date", ""), sent, time())
            return Answer(response.status, response.read(_MAX_BODY_BYTES), sample)
    except ConnectionRefusedError as error:
        raise NobodyAnswersError(f"nothing listens at {place}") from error
    except ssl.SSLCertVerificationError as error:
        why = f"the certificate of {place} is not accepted: {error.verify_message}"
        raise ServerUnreachableError(why) from error
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise ServerUnreachableError(f"{place} cannot be asked: {why}") from error


def ask_for_dates(place: Place, context: ssl.SSLContext) -> list[Sample]:
    """Ask several times for the Date header, whatever else the answer is.

    Raises ServerUnreachableError.
    """
    samples = []
    for turn in range(_SAMPLES):
        if turn:
            sleep(_PAUSE_SECONDS)
        samples.append(ask(place, context, "/livez").sample)
    return samples


class _Connection(http.client.HTTPSConnection):
    def __init__(self, place: Place, context: ssl.SSLContext) -> None:
        super().__init__(place.host, place.port, timeout=_TIMEOUT_SECONDS, context=context)
        self._place = place
        self._tls = context

    def connect(self) -> None:
        plain = socket.create_connection(
            (self._place.address, self._place.port), timeout=_TIMEOUT_SECONDS
        )
        self.sock = self._tls.wrap_socket(plain, server_hostname=self._place.host)
