"""Printing: a value as text, JSON or YAML, a table, and text that is not trusted."""

import json
from collections.abc import Sequence

import click
import msgspec
import yaml


def show(value: object, text: str, output: str) -> None:
    """Print ``text`` unchanged, or ``value`` as JSON or YAML."""
    if output == "json":
        text = json_text(value)
    elif output == "yaml":
        text = yaml.safe_dump(msgspec.to_builtins(value), sort_keys=False).rstrip("\n")
    click.echo(text)


def json_text(value: object) -> str:
    """Return a value as indented JSON, with the control characters in it escaped."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode("utf-8")
    # Only strings hold such characters, so JSON's own escapes are right for them.
    return "\n".join(map(_json_printable, text.split("\n")))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows below a head, in aligned columns.

    >>> print(table(("KID", "STATE"), [("a1", "active"), ("longer", "pending")]))
    KID     STATE
    a1      active
    longer  pending
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = (
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        for row in (head, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def say(text: str, *, err: bool = False) -> None:
    """Print one line, with the control characters in it escaped."""
    click.echo(printable(text), err=err)


def printable(text: str) -> str:
    r"""Return a text with its control characters, line breaks and direction marks escaped.

    >>> printable("a\nb")
    'a\\u000ab'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_printable(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)
