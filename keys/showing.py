"""Which values a message can repeat.

A message can be read by anybody: ``/readyz?verbose`` is public, and logs are collected. A value of
a configuration, a file name or an argument may be a secret that was put in the wrong place. Every
message that repeats one uses ``shown``, or ``shown_path`` for a path.
"""

import re
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


def kind_of_secret(text: str) -> str:
    """Return what a text certainly holds: a key, a token, or a URL with a user; empty for none."""
    if _PEM in text:
        return "a key or certificate"
    if _TOKEN.search(text):
        return "a token"
    return "a URL with a user or password" if _USER.search(text) else ""


def could_be_secret(text: str) -> bool:
    """Return whether a text could hold a secret. Takes time linear in its length.

    It could where it holds a PEM block, a token, a URL with a user, a query or a fragment, a user
    with a password before an ``@``, more than one line, or a long run of letters and digits as
    random keys have. Identifiers in the path of a URL are no secrets: issuers have them.
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
    """Return a value as a message shows it, at most ``longest`` characters of it, or HIDDEN."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; a list in itself
        return f"a {type(value).__name__} that is too large to be shown"
    if could_be_secret(text) or (not isinstance(value, str) and "\\n" in text):
        return HIDDEN
    return repr(text[:longest]) if isinstance(value, str) else text[:longest]


def plain(text: str) -> str:
    """Return a text as a message shows it without quotes, or HIDDEN."""
    return HIDDEN if could_be_secret(text) else text


def shown_path(path: object) -> str:
    """Return a path as a message shows it. Files of keys have random names, but with a suffix."""
    text = str(path)
    # A path has one slash where a URL has two.
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
