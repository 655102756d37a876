"""Durations as Go writes them (``time.ParseDuration``), and in days.

>>> parse_duration("1h30m"), parse_duration("30d"), format_duration(90)
(5400.0, 2592000.0, '1m30s')
"""

import re
from math import isinf
from typing import Final

from keys.messages import shown

_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)


def parse_duration(text: str, *, days: bool = True) -> float:
    """Return seconds. Raises ValueError for a text that is not a duration or is negative.

    Go's ``time.ParseDuration`` knows no ``days``.
    """
    if text == "0":
        return 0.0
    position = 0
    seconds = 0.0
    while part := _PART.match(text, position):
        seconds += float(part[1]) * _UNITS[part[2]]
        position = part.end()
    is_whole = 0 < position == len(text)
    if not is_whole or isinf(seconds) or ("d" in text and not days):
        raise ValueError(f"{shown(text, 32)} is not a duration; write it like 60s, 10m or 1h30m")
    return seconds


def format_duration(seconds: float) -> str:
    """Render seconds in the largest units that fit, as Go does."""
    whole = int(seconds)
    parts = []
    for unit, size in (("h", 3600), ("m", 60)):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count}{unit}")
    rest = seconds - int(seconds) + whole
    if rest or not parts:
        parts.append(f"{rest:g}s")
    return "".join(parts)


def rounded_duration(seconds: float) -> str:
    """Render seconds, rounded down to days if they are at least two days, else to seconds."""
    days = int(seconds // 86400)
    return f"{days} days" if days >= 2 else format_duration(int(seconds))
