"""Parses the URLs of etcd's endpoints."""

import re
from typing import Final, NamedTuple

from keys.messages import shown

_URL: Final = re.compile(
    r"(https?)://(?:([A-Za-z0-9](?:[-A-Za-z0-9._]{0,252}))|\[([0-9A-Fa-f:.]{2,45})\])"
    r":([0-9]{1,5})/?"
)


class Endpoint(NamedTuple):
    """An endpoint: its URL as it is named in messages, and what gRPC connects to."""

    url: str
    target: str
    is_encrypted: bool


def parse_endpoint(url: str) -> Endpoint:
    """Parse a URL. Raises ValueError for one without a port, or with a user, path or query.

    >>> parse_endpoint("https://[::1]:2379")
    Endpoint(url='https://[::1]:2379', target='dns:///[::1]:2379', is_encrypted=True)
    """
    match = _URL.fullmatch(url)
    if match is None or not 1 <= int(match[4]) <= 65535:
        raise ValueError(
            f"{shown(url)} is not an endpoint of etcd; a URL like https://10.0.0.11:2379 is allowed"
        )
    host = match[2] or f"[{match[3]}]"
    return Endpoint(url, f"dns:///{host}:{match[4]}", match[1] == "https")
