"""What all sections of the configuration are made of: durations, and checks of values."""

import re

import msgspec

from keys.messages import shown
from webhook.duration import format_duration

_BIND = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[^\[\]:\s/]+):(\d{1,5})")


def is_address(text: str) -> bool:
    """Return whether a text is ``HOST:PORT``."""
    match = _BIND.fullmatch(text)
    return match is not None and int(match[1]) <= 65535


def require_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError for a number, or a time in seconds, that is not from low to high."""
    if not low <= value <= high:
        show = format_duration if isinstance(value, float) else str
        raise ValueError(f"{name} is {show(value)}; {show(low)} to {show(high)} is allowed")


def require_path(name: str, value: str) -> None:
    """Raise ValueError for a text that cannot be a path; an empty one is allowed."""
    if "\0" in value:
        raise ValueError(f"{name} is {shown(value)}; a path without NUL is allowed")


class Duration(float):
    """Seconds; written like 60s, 10m or 1h30m."""


class Section(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """Base of all sections: names in camel case, unknown ones rejected."""
