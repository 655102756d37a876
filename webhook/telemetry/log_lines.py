"""Renders log records: JSON for programs, text for people.

Invariants:

1. A record is one line, whatever it contains. JSON is ASCII with escapes; in text, unprintable
   characters are escaped, and only a traceback continues on lines of its own, each indented.
2. A record has at most ``MAX_BYTES``, which a pipe takes atomically: records of several processes
   that write to one pipe do not mix.
3. What looks like a token or a key is replaced. Leeway never logs one, but a library may put one
   into the message of an exception.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from keys.messages import utc

MAX_BYTES: Final = 4096
"""``PIPE_BUF`` of Linux, including the line feed."""
REDACTED: Final = "[redacted]"
TRACEBACK: Final = "traceback"
"""The field that is rendered on lines of its own in text."""
_MAX_TEXT: Final = 2048
_MAX_TRACEBACK: Final = 8192
_MAX_ENTRIES: Final = 16
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_TOKEN_CHARACTERS: Final = re.compile(r"[\w.-]+", re.A)
_PEM: Final = re.compile(r"-----BEGIN [^-]*-----.*?(?:-----END [^-]*-----|\Z)", re.S)
_BEARER: Final = re.compile(r"(bearer\s+)[\w.~+/=-]{16,}", re.A | re.I)
_USER: Final = re.compile(r"//[^/?#\s@]*@")
_PLAIN: Final = re.compile(r"[^\s\"=]+")

Fields = Mapping[str, object]
"""Strings, numbers, booleans, and sequences of strings; None is omitted."""


def json_line(seconds: float, level: str, message: str, fields: Fields) -> str:
    """Render a record as a JSON object; ``seconds`` are Unix seconds.

    >>> json_line(0, "info", "started", {"workers": 2})
    '{"time": "1970-01-01T00:00:00.000Z", "level": "info", "message": "started", "workers": 2}'
    """
    head = {"time": utc(seconds, "milliseconds"), "level": level}
    line = _clean_line({**head, "message": message, **fields})
    if line:
        return line
    members = head | _cleaned(message, fields)
    line = json.dumps(members)  # invariant 1
    while len(line) >= MAX_BYTES:  # invariant 2
        _shorten(members)
        line = json.dumps(members)
    return line


def _clean_line(members: Mapping[str, object]) -> str:
    """Return the line of members that need no cleaning, as most do; empty if one may need it.

    The line is searched instead of each value, which takes a third of the time. No escape in JSON
    hides what is searched for. Values to be cut or to be made a text are left to ``_clean``.
    """
    kept = {name: value for name, value in members.items() if value is not None}
    for value in kept.values():
        if isinstance(value, (list, tuple)) and len(value) > _MAX_ENTRIES:
            return ""
    try:
        line = json.dumps(kept)
    except (TypeError, ValueError):
        return ""
    is_clean = (
        len(line) <= _MAX_TEXT
        and line.find("{", 1) < 0
        and "\\u" not in line
        and "null" not in line
        and "eyJ" not in line
        and "-----BEGIN" not in line
        and "earer" not in line
        and "EARER" not in line
        and not ("//" in line and _USER.search(line))
    )
    return line if is_clean else ""


def text_line(seconds: float, level: str, message: str, fields: Fields) -> str:
    """Render a record in gunicorn's format, with the fields after the message."""
    date = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S %z")
    members = _cleaned(message, fields)
    process = members.pop("pid", 0)
    start = f"[{date}] [{process}] [{level.upper()}]"
    line = _text(start, members)
    while len(line.encode("utf-8")) >= MAX_BYTES:
        _shorten(members)
        line = _text(start, members)
    return line


def redact(text: str) -> str:
    """Replace what looks like a JWT, a PEM block, a bearer token or the user of a URL.

    Takes linear time (invariant 3).
    """
    if "eyJ" in text:
        text = _TOKEN_CHARACTERS.sub(_without_token, text)
    if "-----BEGIN" in text:
        text = _PEM.sub(REDACTED, text)
    if "earer" in text or "EARER" in text:
        text = _BEARER.sub(rf"\1{REDACTED}", text)
    if "//" in text:
        text = _USER.sub(f"//{REDACTED}@", text)
    return text


def _without_token(match: re.Match[str]) -> str:
    text = match[0]
    start = text.find("eyJ")
    return text[:start] + REDACTED if start >= 0 and "." in text[start:] else text


def _cleaned(message: str, fields: Fields) -> dict[str, object]:
    members = {"message": message} | {n: v for n, v in fields.items() if v is not None}
    return {name: _clean(name, value) for name, value in members.items()}


def _clean(name: str, value: object) -> object:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        kept = [_clean(name, entry) for entry in value[:_MAX_ENTRIES]]
        left = len(value) - len(kept)
        return [*kept, f"and {left} more"] if left else kept
    text = str(value)
    # Cut before the search: part of a token is found too, and the search is short.
    longest = _MAX_TRACEBACK if name == TRACEBACK else _MAX_TEXT
    text = redact(_cut(name, text, longest))
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def _cut(name: str, text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    if name == TRACEBACK:
        # The exception is at its end.
        return f"{text[: longest // 4]}\n...\n{text[len(text) - longest * 3 // 4 :]}"
    return f"{text[:longest]}..."


def _shorten(members: dict[str, object]) -> None:
    name = max(members, key=lambda name: len(json.dumps(members[name])))
    value = members[name]
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    members[name] = _cut(name, text, len(text) // 2)


def _text(start: str, members: Mapping[str, object]) -> str:
    parts = [start, _printable(str(members["message"]))]
    for name, value in members.items():
        if name not in ("message", TRACEBACK):
            parts.append(f"{name}={_value(value)}")
    lines = str(members.get(TRACEBACK, "")).splitlines()
    return "\n".join([" ".join(parts), *("    " + _printable(line) for line in lines)])


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    if _PLAIN.fullmatch(text):
        return _printable(text)
    return '"' + _printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
