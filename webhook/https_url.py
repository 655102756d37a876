"""Parses https URLs."""

import re
from typing import Final, NamedTuple

from keys.messages import HIDDEN, kind_of_secret, plain, shown

_DEFAULT_PORT: Final = 443
_URL = re.compile(
    r"https://(?:([A-Za-z0-9](?:[-A-Za-z0-9._]{0,252}))|\[([0-9A-Fa-f:.]{2,45})\])"
    r"(?::([0-9]{1,5}))?([/?][!-~]*)?"
)


class HTTPSAddress(NamedTuple):
    """The parts of a URL: ``host`` without brackets, ``target`` is the path with the query."""

    url: str
    host: str
    port: int
    target: str

    @property
    def display(self) -> str:
        """The URL for messages: without its query, which may contain a key."""
        start, mark, _ = self.url.partition("?")
        return (HIDDEN if kind_of_secret(start) else start) + (mark and "?...")

    @property
    def display_target(self) -> str:
        """The path for messages, without the query."""
        start, mark, _ = self.target.partition("?")
        return plain(start) + (mark and "?...")

    @property
    def authority(self) -> str:
        """The value of the Host header (RFC 9110 section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORT else f"{host}:{self.port}"


def parse_https_url(url: str) -> HTTPSAddress:
    """Parse an https URL. Raises ValueError for any other, or one with a user or a fragment.

    >>> address = parse_https_url("https://[::1]:8443/keys?v=2")
    >>> address.host, address.port, address.target, address.display
    ('::1', 8443, '/keys?v=2', 'https://[::1]:8443/keys?...')
    """
    match = _URL.fullmatch(url)
    port = int(match[3] or _DEFAULT_PORT) if match else 0
    if match is None or "#" in url or not 1 <= port <= 65535:
        raise ValueError(f"{shown(url)}; an https URL without user and fragment is allowed")
    target = match[4] or "/"
    host = (match[1] or match[2]).lower()
    return HTTPSAddress(url, host, port, target if target.startswith("/") else f"/{target}")
