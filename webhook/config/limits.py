"""The limits of a value in the configuration, and what is said where it is not within them."""

import re
from typing import Final

from keys.messages import shown
from webhook.duration import format_duration
from webhook.https_url import parse_https_url

_HTTPS_URL: Final = re.compile(r"https://[^\s/?#@]+(?:/[^\s?#]*)?")


def require(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError for a number that is not from ``low`` to ``high``."""
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; {low} to {high} is allowed")


def require_duration(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError for a time (seconds) that is not from ``low`` to ``high``."""
    if not low <= value <= high:
        raise ValueError(
            f"{name} is {format_duration(value)}; "
            f"{format_duration(low)} to {format_duration(high)} is allowed"
        )


def require_https(name: str, value: str, condition: str = ";") -> None:
    """Raise ValueError for what is not an https URL without query and fragment."""
    if not _HTTPS_URL.fullmatch(value):
        raise ValueError(
            f"{name} is {shown(value)}{condition} an https URL without query and fragment is "
            "allowed"
        )


def require_issuer(value: str) -> None:
    """Raise ValueError for what cannot be the `iss` of a trusted issuer."""
    if not value or not value.isprintable():
        raise ValueError(
            f"url is {shown(value)}; the `iss` of its tokens is allowed, byte for byte, which is "
            "text that is not empty and has no control characters"
        )


def require_fetchable(name: str, value: str) -> None:
    """Raise ValueError for a URL that keys cannot be fetched from."""
    try:
        parse_https_url(value)
    except ValueError as error:
        raise ValueError(f"{name} is {error}") from error


def require_path(name: str, value: str) -> None:
    """Raise ValueError for what no file can be called; empty is left to others."""
    if "\0" in value:
        raise ValueError(f"{name} is {shown(value)}; a path without NUL is allowed")


def is_unicode(text: str) -> bool:
    """Return whether UTF-8 can encode a text: whether it has no half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def require_audiences(audiences: tuple[str, ...], *, at_least: int) -> None:
    """Raise ValueError for too few audiences, or one that is no printable ASCII."""
    if len(audiences) < at_least or not all(
        entry and entry.isascii() and entry.isprintable() for entry in audiences
    ):
        raise ValueError(
            f"audiences is {shown(list(audiences))}; entries of printable ASCII are allowed, "
            "none of them empty"
        )
