"""Text for messages: values that can be repeated, errors of libraries, numbers and times.

Anybody can read a message: ``/readyz?verbose`` is public, and logs are collected. A value of a
configuration, a file name or an argument can be a secret that was put in the wrong place, so every
message that repeats one uses ``shown``, or ``shown_path`` for a path:

>>> shown("RS257"), shown("https://admin:hunter2@10.0.0.1/")
("'RS257'", 'a value that is not shown because it could be a secret')

Errors of msgspec, json, OSError and ssl carry names of Python's types, error numbers and names of
source files. Every message that passes one on uses ``describe_validation``, ``describe_decoding``
or ``describe_os_error``.
"""

import re
from datetime import UTC, datetime
from typing import Final

HIDDEN: Final = "a value that is not shown because it could be a secret"
_HIDDEN_PATH: Final = "a path that is not shown because it could be a secret"
_LONGEST: Final = 128
# The base64url of `{"` begins every JWT; a bootstrap token is "abcdef.0123456789abcdef".
_TOKEN: Final = re.compile(
    r"eyJ[\w-]{8}|\b[a-z0-9]{6}\.(?=[a-z]{0,15}[0-9])[a-z0-9]{16}\b|(?i:bearer)\s+\S", re.ASCII
)
_PEM: Final = "-----BEGIN"
_USER: Final = re.compile(r"//[^/?#\s]*@")
# "user:password@host", as in a URL that lacks a slash; a port or a path is not a match.
_PASSWORD: Final = re.compile(r":(?![0-9]{1,5}/)[^:@\s]+@")
# Random keys and passwords: long, without a word in them.
_RUN: Final = re.compile(r"[A-Za-z0-9+=]{20,}")
_LONG_RUN: Final = re.compile(r"[A-Za-z0-9+=_-]{32,}")
_TYPES: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
    "bytes": "base64",
    "datetime": "a time",
}
_LIMITS: Final = {"<=": "at most", ">=": "at least", "<": "less than", ">": "more than"}
# The messages of msgspec 0.18 to 0.23 (``src/msgspec/_core.c``).
_PATH: Final = re.compile(r" - at `(?:key in )?\$([^`]*)`\Z")
_WRONG_TYPE: Final = re.compile(r"Expected `([^`]*)`, got `([^`]*)`")
_OUT_OF_RANGE: Final = re.compile(r"Expected `([^`]*)` (of length )?(<=|>=|<|>) (\S+)")
_MISSING: Final = re.compile(r"Object missing required field `([^`]*)`")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `([^`]*)`")
_BAD_CHOICE: Final = re.compile(r"Invalid enum value (.*)")
_MALFORMED: Final = re.compile(r"JSON is malformed: (.*?) \(byte ([0-9]+)\)")
_TEXTS: Final = {
    "Input data was truncated": "it ends too early",
    "Invalid UTF-8 encoded string": "not UTF-8",
}
_SSL: Final = re.compile(r"\A\[[A-Z0-9_: ]*\] ?|(?: ?\(_ssl\.c:[0-9]{1,6}\)){1,3}\Z")


def kind_of_secret(text: str) -> str:
    """Return which secret a text certainly contains; empty for none."""
    if _PEM in text:
        return "a key or certificate"
    if _TOKEN.search(text):
        return "a token"
    return "a URL with a user or password" if _USER.search(text) else ""


def could_be_secret(text: str) -> bool:
    """Return whether a text could contain a secret, in time linear in its length.

    That is a PEM block, a token, a URL with a user, a query or a fragment, a user with a password
    before an ``@``, more than one line, or a long run of letters and digits like that of a random
    key. Identifiers in the path of a URL are not secrets, because issuers have them.
    """
    if kind_of_secret(text) or _PASSWORD.search(text) or "\n" in text or "\r" in text:
        return True
    if "://" in text:
        return "?" in text or "#" in text
    return any(_is_random(run[0]) for run in _RUN.finditer(text)) or any(
        _is_random(run[0]) and not (run[0].islower() or run[0].isupper())
        for run in _LONG_RUN.finditer(text)
    )


def _is_random(run: str) -> bool:
    return any(map(str.isdigit, run)) and any(map(str.isalpha, run))


def shown(value: object, longest: int = _LONGEST) -> str:
    """Return at most ``longest`` characters of a value, quoted if it is a string, or HIDDEN."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; a list in itself
        return f"a {type(value).__name__} that is too large to be shown"
    if could_be_secret(text) or (not isinstance(value, str) and "\\n" in text):
        return HIDDEN
    return repr(text[:longest]) if isinstance(value, str) else text[:longest]


def plain(text: str) -> str:
    """Return a text without quotes, or HIDDEN."""
    return HIDDEN if could_be_secret(text) else text


def shown_path(path: object) -> str:
    """Return a path, or a text like HIDDEN. Files of keys have random names, but a suffix."""
    text = str(path)
    # In a path, the two slashes of a URL have become one.
    start, colon, rest = text.partition(":/")
    if colon and could_be_secret(f"{start}://{rest}"):
        return _HIDDEN_PATH
    bare = (part for part in text.split("/") if "." not in part)
    hidden = (
        kind_of_secret(text)
        or _PASSWORD.search(text)
        or "\n" in text
        or any(map(could_be_secret, bare))
    )
    return _HIDDEN_PATH if hidden else text


def describe_validation(error: Exception) -> str:
    """Describe msgspec's ValidationError: ``exp must be a whole number, not a string``."""
    name, text = path_and_text(str(error))
    subject, inside = name or "it", f"{name}." if name else ""
    if found := _WRONG_TYPE.match(text):
        return f"{subject} must be {describe_types(found[1])}, not {describe_types(found[2])}"
    if found := _OUT_OF_RANGE.match(text):
        counted = ("characters" if found[1] == "str" else "entries") if found[2] else ""
        limit = f"{_LIMITS[found[3]]} {found[4]} {counted}".rstrip()
        return f"{subject} must be {describe_types(found[1])} of {limit}"
    if found := _MISSING.match(text):
        return f"{inside}{found[1]} is missing"
    if found := _UNKNOWN.match(text):
        return f"unknown field {inside}{found[1]}"
    if found := _BAD_CHOICE.match(text):
        return f"{subject} is {found[1]}, which is not one of its values"
    text = text.replace("`", "")
    return f"{name}: {text}" if name else text


def path_and_text(message: str) -> tuple[str, str]:
    """Return the dotted path of the field in a message of msgspec, and the rest of it."""
    path = _PATH.search(message)
    return (path[1].lstrip("."), message[: path.start()]) if path else ("", message)


def describe_types(names: str) -> str:
    """Describe types as msgspec names them, ``int | null``: ``a whole number or null``."""
    return " or ".join(_TYPES.get(name, name) for name in names.split(" | "))


def describe_decoding(error: Exception) -> str:
    """Describe msgspec's DecodeError, or a UnicodeError."""
    if isinstance(error, UnicodeError):
        return "not UTF-8"
    _, text = path_and_text(str(error).partition("\n")[0])
    if found := _MALFORMED.match(text):
        return f"{found[1]} at byte {found[2]}"
    return _TEXTS.get(text, text)


def describe_os_error(error: OSError) -> str:
    """Describe an OSError: its file, if it names one, and the system's message."""
    why = error.strerror or str(error) or type(error).__name__
    why = _SSL.sub("", str(why)).strip()
    return f"{error.filename}: {why}" if isinstance(error.filename, str) else why


def os_error_with_advice(error: OSError) -> str:
    """Describe an OSError, and what to do if a permission is missing."""
    text = describe_os_error(error)
    if isinstance(error, PermissionError):
        return f"{text}; let the user that this runs as use it"
    return text


def counted(count: int, noun: str) -> str:
    """Return a number and its noun, in the plural unless it is 1.

    >>> counted(1, "key"), counted(0, "change")
    ('1 key', '0 changes')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def utc(moment: float | datetime, timespec: str = "seconds") -> str:
    """Render Unix seconds, or an aware time, as RFC 3339 in UTC: ``2026-11-30T16:55:00Z``.

    Digits below ``timespec`` (see ``datetime.isoformat``) are cut off. Seconds of a year that the
    format does not have become ``after 9999-12-31T23:59:59Z`` or ``before 0001-01-01T00:00:00Z``.
    """
    if isinstance(moment, datetime):
        date = moment.astimezone(UTC)
    else:
        try:
            date = datetime.fromtimestamp(int(moment) if timespec == "seconds" else moment, UTC)
        except (ValueError, OverflowError, OSError):
            return "after 9999-12-31T23:59:59Z" if moment > 0 else "before 0001-01-01T00:00:00Z"
    return date.isoformat(timespec=timespec).replace("+00:00", "Z")
