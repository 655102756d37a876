"""GET requests to a server that may not be well: bounded, over verified TLS, and timed."""

import ssl
from time import sleep, time
from typing import Final, NamedTuple

from webhook.doctor.clock import Sample
from webhook.errors import ServerUnreachableError
from webhook.https_url import HTTPSAddress
from webhook.outbound.errors import CertificateRefusedError, NotListeningError, OutboundError
from webhook.outbound.https import Client, Deadline, Endpoint

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


def ask(place: Place, context: ssl.SSLContext, path: str) -> Answer:
    """Get a path; connecting is not a part of the time that it took.

    Raises ServerUnreachableError.
    """
    authority = f"{place.host}:{place.port}"
    client = Client(Endpoint(place.address, place.port, place.host, authority), context)
    deadline = Deadline(_TIMEOUT_SECONDS)
    try:
        client.connect(deadline)
        sent = time()
        with client.get(path, {}, deadline, _MAX_BODY_BYTES) as response:
            sample = Sample(response.header("Date"), sent, time())
            return Answer(response.status, response.read(), sample)
    except NotListeningError as error:
        raise NobodyAnswersError(f"nothing listens at {place}") from error
    except CertificateRefusedError as error:
        why = f"the certificate of {place} is not accepted: {error.why}"
        raise ServerUnreachableError(why) from error
    except OutboundError as error:
        raise ServerUnreachableError(f"{place} cannot be asked: {error}") from error
    finally:
        client.close()


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
