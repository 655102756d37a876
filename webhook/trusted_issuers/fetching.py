"""Fetches the keys of an issuer: a key set, or the one that a discovery document names.

Invariants:

1. Both documents together are fetched within MAX_SECONDS.
2. A set of keys is taken over completely, except for keys that are never used here, or not at all.
3. The token of ``token_file`` goes to the host and port that are configured, and no other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from keys.errors import KeysError
from keys.files import read_credential_file
from keys.jwk import VerificationKey, parse_jwks
from keys.messages import shown_path
from webhook.errors import KeysUnavailableError
from webhook.https_url import HTTPSAddress
from webhook.outbound.https import Deadline
from webhook.trusted_issuers.documents import parse_openid_configuration, refresh_seconds
from webhook.trusted_issuers.https import get

MAX_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class FetchedKeys:
    """Keys, those of the set that are skipped, and seconds until they are fetched again."""

    keys: tuple[VerificationKey, ...]
    refresh_after: float
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyLocation:
    """Where the keys of an issuer are fetched.

    ``address`` is that of a key set, or with ``is_discovery`` that of the discovery document of
    ``issuer``. ``token_file`` has a bearer token; it and ``ca_file`` are read for each fetch.
    """

    issuer: str
    address: HTTPSAddress
    is_discovery: bool = False
    ca_file: Path | None = None
    token_file: Path | None = None

    def fetch(self, clock: Callable[[], float] = monotonic) -> FetchedKeys:
        """Fetch the keys. Raises KeysUnavailableError."""
        deadline = Deadline(MAX_SECONDS, clock)
        token = _read_token(self.token_file) if self.token_file else ""
        address = self.address
        if self.is_discovery:
            document = get(address, self.ca_file, token, deadline).body
            address = parse_openid_configuration(document, self.issuer)
            if address.authority != self.address.authority:
                token = ""
        answer = get(address, self.ca_file, token, deadline)
        try:
            found = parse_jwks(answer.body)
        except KeysError as error:
            raise KeysUnavailableError(
                f"the keys at {address.display} cannot be used: {error}"
            ) from error
        return FetchedKeys(found.keys, refresh_seconds(answer.cache_control), found.skipped)


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
