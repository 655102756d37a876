"""Fetches the keys of an issuer: a key set, or the one that a discovery document names.

Invariants, beside those of ``webhook.outbound.https``:

1. Both documents together are fetched within MAX_SECONDS.
2. A key set is used completely, except for keys that are never used here, or not at all.
3. The token of ``token_file`` is sent only to the host and port that are configured.
4. Only a 200 counts, without a content coding, of at most MAX_BODY_BYTES.
"""

import http.client
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

from keys.errors import KeysError
from keys.files import read_credential_file
from keys.jwk import VerificationKey, parse_jwks
from keys.messages import shown_path
from webhook.errors import KeysUnavailableError
from webhook.https_url import HTTPSAddress
from webhook.outbound.errors import CertificateRefusedError, OutboundError
from webhook.outbound.https import Client, ClientResponse, Deadline, client_context, endpoint_of
from webhook.trusted_issuers.documents import parse_openid_configuration, refresh_seconds

MAX_SECONDS: Final = 5.0
MAX_BODY_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FetchedKeys:
    """Keys, the seconds until they are fetched again, and the skipped keys of their set."""

    keys: tuple[VerificationKey, ...]
    refresh_after: float
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyLocation:
    """Where the keys of an issuer are fetched.

    ``address`` is the URL of a key set, or with ``is_discovery`` of the discovery document of
    ``issuer``. ``token_file`` has a bearer token; it and ``ca_file`` are read for each fetch.
    """

    issuer: str
    address: HTTPSAddress
    is_discovery: bool = False
    ca_file: Path | None = None
    token_file: Path | None = None

    def fetch(self, clock: Callable[[], float] = monotonic) -> FetchedKeys:
        """Fetch the keys. Raises KeysUnavailableError."""
        deadline = Deadline(MAX_SECONDS, clock)  # invariant 1
        token = _read_token(self.token_file) if self.token_file else ""
        address = self.address
        if self.is_discovery:
            document = get(address, self.ca_file, token, deadline).body
            address = parse_openid_configuration(document, self.issuer)
            if address.authority != self.address.authority:
                token = ""  # invariant 3
        document, cache_control = get(address, self.ca_file, token, deadline)
        try:
            found = parse_jwks(document)  # invariant 2
        except KeysError as error:
            raise KeysUnavailableError(
                f"the keys at {address.display} cannot be used: {error}"
            ) from error
        return FetchedKeys(found.keys, refresh_seconds(cache_control), found.skipped)


class Document(NamedTuple):
    """The body of a response, and its Cache-Control header, empty if it has none."""

    body: bytes
    cache_control: str


def get(address: HTTPSAddress, ca_file: Path | None, token: str, deadline: Deadline) -> Document:
    """Fetch a document; ``token`` is sent as a bearer token unless it is empty.

    ``ca_file`` has the CAs to trust, None means those of the system. Raises KeysUnavailableError.
    """
    try:
        context = client_context(ca_file)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it cannot be parsed"
        raise KeysUnavailableError(
            f"caFile {shown_path(ca_file)} is not a readable PEM file of certificates: {why}"
        ) from error
    headers = {
        "Accept": "application/jwk-set+json, application/json",
        "Connection": "close",
        **({"Authorization": f"Bearer {token}"} if token else {}),
    }
    try:
        with (
            closing(Client(endpoint_of(address), context)) as client,
            client.get(address.target, headers, deadline, MAX_BODY_BYTES) as response,
        ):
            _check_head(response, address, token)
            body = response.read()
            if len(body) > MAX_BODY_BYTES:
                raise _too_large(address)
            return Document(body, response.header("Cache-Control"))
    except OutboundError as error:
        advice = "; is caFile its CA?" if isinstance(error, CertificateRefusedError) else ""
        raise KeysUnavailableError(f"{address.display}: {error}{advice}") from error


def _check_head(response: ClientResponse, address: HTTPSAddress, token: str) -> None:
    """Raise KeysUnavailableError unless invariant 4 holds, as far as the head shows it."""
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
            f"{address.display} sends its answer as {encoding[:32]!r}; it must send it without "
            "Content-Encoding"
        )
    if response.length is not None and response.length > MAX_BODY_BYTES:
        raise _too_large(address)


def _too_large(address: HTTPSAddress) -> KeysUnavailableError:
    return KeysUnavailableError(
        f"the answer of {address.display} is larger than the {MAX_BODY_BYTES} bytes that are "
        "allowed"
    )


def _read_token(path: Path) -> str:
    try:
        token = read_credential_file(path).strip()
    except KeysError as error:
        raise KeysUnavailableError(f"tokenFile {error}") from error
    # It becomes a line of a header.
    if not token.isascii() or any(byte <= 0x20 or byte == 0x7F for byte in token):
        raise KeysUnavailableError(
            f"tokenFile {shown_path(path)} does not hold one token and nothing else"
        )
    return token.decode("ascii")
