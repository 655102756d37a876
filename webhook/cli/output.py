"""How commands print: a value as text, JSON or YAML, tables, and names that are not trusted."""

import json
from collections.abc import Sequence

import click
import msgspec
import yaml


def show(value: object, text: str, output: str) -> None:
    """Print a value: ``text`` as it is, or ``value`` as JSON or YAML."""
    if output == "json":
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode("utf-8")
        # An escape of JSON's own, and only texts can hold what is escaped.
        text = "\n".join(map(_json_printable, text.split("\n")))
    elif output == "yaml":
        text = yaml.safe_dump(msgspec.to_builtins(value), sort_keys=False).rstrip("\n")
    click.echo(text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under a head, in columns as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = (
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        for row in (head, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def say(text: str, *, err: bool = False) -> None:
    """Print one line, whatever the names in it hold."""
    click.echo(printable(text), err=err)


def printable(text: str) -> str:
    """Escape what could move the cursor, begin a line or turn the direction of a text."""
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
