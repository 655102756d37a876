"""What a library's error says, in words of our messages.

Errors of msgspec, json, OSError and ssl carry names of Python's types, numbers of errors and names
of source files. Every message that passes one on goes through here.
"""

import re
from typing import Final

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


def validation_in_words(error: Exception) -> str:
    """Return what msgspec's ValidationError says: ``exp must be a whole number, not a string``."""
    name, text = path_and_text(str(error))
    subject, inside = name or "it", f"{name}." if name else ""
    if found := _WRONG_TYPE.match(text):
        return f"{subject} must be {types_in_words(found[1])}, not {types_in_words(found[2])}"
    if found := _OUT_OF_RANGE.match(text):
        counted = ("characters" if found[1] == "str" else "entries") if found[2] else ""
        limit = f"{_LIMITS[found[3]]} {found[4]} {counted}".rstrip()
        return f"{subject} must be {types_in_words(found[1])} of {limit}"
    if found := _MISSING.match(text):
        return f"{inside}{found[1]} is missing"
    if found := _UNKNOWN.match(text):
        return f"unknown field {inside}{found[1]}"
    if found := _BAD_CHOICE.match(text):
        return f"{subject} is {found[1]}, which is not one of its values"
    text = text.replace("`", "")
    return f"{name}: {text}" if name else text


def path_and_text(message: str) -> tuple[str, str]:
    """Return the dotted path of the field that msgspec's message is about, and the rest of it."""
    path = _PATH.search(message)
    return (path[1].lstrip("."), message[: path.start()]) if path else ("", message)


def types_in_words(names: str) -> str:
    """Return msgspec's names of types (``int | null``) in words: ``a whole number or null``."""
    return " or ".join(_TYPES.get(name, name) for name in names.split(" | "))


def decoding_in_words(error: Exception) -> str:
    """Return what msgspec's DecodeError, or a UnicodeError, says of a text."""
    if isinstance(error, UnicodeError):
        return "not UTF-8"
    text = str(error).partition("\n")[0]
    if found := _MALFORMED.match(text):
        return f"{found[1]} at byte {found[2]}"
    return _TEXTS.get(text, text)


def os_error_in_words(error: OSError) -> str:
    """Return what an OSError says: the file, where it names one, and the system's words."""
    why = error.strerror or str(error) or type(error).__name__
    why = _SSL.sub("", str(why)).strip()
    return f"{error.filename}: {why}" if isinstance(error.filename, str) else why


def os_error_with_advice(error: OSError) -> str:
    """Return what ``os_error_in_words`` does, and what to do where a permission is missing."""
    text = os_error_in_words(error)
    if isinstance(error, PermissionError):
        return f"{text}; let the user that this runs as use it"
    return text
