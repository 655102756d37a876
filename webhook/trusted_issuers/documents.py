"""Parses what an issuer publishes: where its keys are, and for how long they can be cached.

Sources: OpenID Connect Discovery 1.0 section 4, RFC 9111 section 5.2.2.
"""

import re
from typing import Final

from keys.encoding import decode_json
from keys.errors import EncodingError
from keys.messages import shown
from webhook.errors import KeysUnavailableError
from webhook.https_url import HTTPSAddress, parse_https_url

MIN_REFRESH_SECONDS: Final = 300.0
MAX_REFRESH_SECONDS: Final = 3600.0
_MAX_AGE = re.compile(r'max-age="?([0-9]{1,18})"?')


def parse_openid_configuration(document: bytes, issuer: str) -> HTTPSAddress:
    """Return the ``jwks_uri`` of an issuer's discovery document.

    Raises KeysUnavailableError if it is not JSON, its issuer is not ``issuer`` byte for byte, or
    its ``jwks_uri`` is not an https URL.
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
            f"the discovery document is that of issuer {shown(str(found))}; it must say {issuer!r}"
        )
    uri = members.get("jwks_uri")
    if not isinstance(uri, str):
        raise KeysUnavailableError("the discovery document has no jwks_uri")
    try:
        return parse_https_url(uri)
    except ValueError as error:
        raise KeysUnavailableError(f"the jwks_uri of the discovery document is {error}") from error


def refresh_seconds(cache_control: str) -> float:
    """Return the seconds until keys are fetched again, from the Cache-Control of their response.

    That is its ``max-age``, within MIN_REFRESH_SECONDS and MAX_REFRESH_SECONDS; the former if it
    has none.

    >>> refresh_seconds("public, max-age=1200")
    1200.0
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
