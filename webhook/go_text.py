"""Texts in messages as Go, and so Kubernetes, writes them."""

from typing import Final

MAX_SHOWN: Final = 256
"""So many characters of a text that a client sent are repeated; Kubernetes repeats all of it."""
_ESCAPES: Final = {
    '"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r",
    "\t": "\\t", "\v": "\\v",
}  # fmt: skip


def go_quoted(text: str) -> str:
    """Return a text as Go's ``%q`` shows it, cut after 256 characters."""
    return f'"{"".join(map(_character, text[:MAX_SHOWN]))}"'


def _character(character: str) -> str:
    if character in _ESCAPES or character.isprintable():
        return _ESCAPES.get(character, character)
    code = ord(character)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
