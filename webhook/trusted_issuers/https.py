"""One document of an issuer over HTTPS.

Invariants beside those of ``webhook.outbound.https``:

1. No answer but a 200 counts, sent as it is (no content coding), of at most MAX_BODY_BYTES.
"""

import http.client
from pathlib import Path
from typing import Final, NamedTuple

from keys.messages import shown_path
from webhook.errors import KeysUnavailableError
from webhook.https_url import HTTPSAddress
from webhook.outbound.errors import CertificateRefusedError, OutboundError
from webhook.outbound.https import Client, Deadline, Response, client_context, endpoint_of

MAX_BODY_BYTES: Final = 1024 * 1024


class Answer(NamedTuple):
    """The body of an answer, and its Cache-Control header, empty where there is none."""

    body: bytes
    cache_control: str


def get(address: HTTPSAddress, ca_file: Path | None, token: str, deadline: Deadline) -> Answer:
    """Get a document; ``token`` goes along as a bearer token unless it is empty.

    ``ca_file`` has the CAs that count, None means those of the system. Raises KeysUnavailableError.
    """
    try:
        context = client_context(ca_file)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it cannot be parsed"
        raise KeysUnavailableError(
            f"caFile {shown_path(ca_file)} is no PEM file of certificates that can be read: {why}"
        ) from error
    headers = {
        "Accept": "application/jwk-set+json, application/json",
        "Connection": "close",
        **({"Authorization": f"Bearer {token}"} if token else {}),
    }
    client = Client(endpoint_of(address), context)
    try:
        with client.get(address.target, headers, deadline, MAX_BODY_BYTES) as response:
            _check_head(response, address, token)
            body = response.read()
            if len(body) > MAX_BODY_BYTES:
                raise _too_large(address)
            return Answer(body, response.header("Cache-Control"))
    except OutboundError as error:
        advice = "; is caFile its CA?" if isinstance(error, CertificateRefusedError) else ""
        raise KeysUnavailableError(f"{address.display}: {error}{advice}") from error
    finally:
        client.close()


def _check_head(response: Response, address: HTTPSAddress, token: str) -> None:
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
        raise KeysUnavailableError(f"{address.display} answered {status}, not 200{advice}")
    encoding = (response.header("Content-Encoding") or "identity").lower()
    if encoding != "identity":
        raise KeysUnavailableError(
            f"{address.display} sends its answer as {encoding[:32]!r}; it must send it as it is"
        )
    if response.length is not None and response.length > MAX_BODY_BYTES:
        raise _too_large(address)


def _too_large(address: HTTPSAddress) -> KeysUnavailableError:
    return KeysUnavailableError(
        f"the answer of {address.display} is larger than the {MAX_BODY_BYTES} bytes that are "
        "allowed"
    )
