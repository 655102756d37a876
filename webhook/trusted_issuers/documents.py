"""What an issuer's documents say: where its keys are, and for how long they may be kept.

Sources: OpenID Connect Discovery 1.0 section 4, RFC 9111 section 5.2.2.
"""

import re
from typing import Final, NamedTuple

from keys.encoding import decode_json
from keys.errors import EncodingError
from webhook.errors import KeysUnavailableError

MIN_REFRESH_SECONDS: Final = 300.0
MAX_REFRESH_SECONDS: Final = 3600.0
_DEFAULT_PORT: Final = 443
_URL = re.compile(
    r"https://(?:([A-Za-z0-9](?:[-A-Za-z0-9._]{0,252}))|\[([0-9A-Fa-f:.]{2,45})\])"
    r"(?::([0-9]{1,5}))?([/?][!-~]*)?"
)
_MAX_AGE = re.compile(r'max-age="?([0-9]{1,18})"?')


class HTTPSAddress(NamedTuple):
    """A URL taken apart: ``host`` without brackets, ``target`` the path with the query."""

    url: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """The value of the Host header (RFC 9110 section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORT else f"{host}:{self.port}"


def parse_https_url(url: str) -> HTTPSAddress:
    """Take an https URL apart. Raises ValueError for any other, or one with user or fragment."""
    match = _URL.fullmatch(url)
    port = int(match[3] or _DEFAULT_PORT) if match else 0
    if match is None or "#" in url or not 1 <= port <= 65535:
        raise ValueError(f"{url[:128]!r}; an https URL without user and fragment is allowed")
    target = match[4] or "/"
    host = (match[1] or match[2]).lower()
    return HTTPSAddress(url, host, port, target if target.startswith("/") else f"/{target}")


def parse_openid_configuration(document: bytes, issuer: str) -> HTTPSAddress:
    """Return the ``jwks_uri`` of an issuer's discovery document.

    Raises KeysUnavailableError for one that is not JSON, names another issuer than ``issuer``,
    byte for byte, or whose ``jwks_uri`` is no https URL.
    """
    try:
        members = decode_json(document)
    except EncodingError as error:
        raise KeysUnavailableError(f"the discovery document is {error}") from error
    if not isinstance(members, dict):
        raise KeysUnavailableError("the discovery document is not a JSON object")
    found = members.get("issuer")
    if found != issuer:
        raise KeysUnavailableError(
            f"the discovery document is that of issuer {str(found)[:128]!r}; it must say {issuer!r}"
        )
    uri = members.get("jwks_uri")
    if not isinstance(uri, str):
        raise KeysUnavailableError("the discovery document has no jwks_uri")
    try:
        return parse_https_url(uri)
    except ValueError as error:
        raise KeysUnavailableError(f"the jwks_uri of the discovery document is {error}") from error


def refresh_seconds(cache_control: str) -> float:
    """Say after how long keys are fetched again, by the Cache-Control that they came with.

    That is their ``max-age``, but within MIN_REFRESH_SECONDS and MAX_REFRESH_SECONDS; the former
    where there is none.
    """
    age = 0.0
    for directive in cache_control.lower().split(","):
        name = directive.strip()
        match = _MAX_AGE.fullmatch(name)
        if match is not None:
            age = float(match[1])
        elif name in ("no-store", "no-cache"):
            return MIN_REFRESH_SECONDS
    return min(max(age, MIN_REFRESH_SECONDS), MAX_REFRESH_SECONDS)
