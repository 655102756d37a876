"""The effective configuration: each field, its value, and the origin of the value."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple, get_args

import msgspec

from keys.messages import could_be_secret
from webhook.config.load import environment_names, load_configuration, member_at, read_members
from webhook.config.section import Duration, Section
from webhook.duration import format_duration

HIDDEN: Final = "(not shown)"
_NOT_SET: Final = object()
# A kid looks random, and is in every token.
_PUBLIC: Final = ("keys.refused",)


class EffectiveField(NamedTuple):
    """A field: its dotted path, its value as in JSON, and its origin."""

    path: str
    value: object
    origin: str


def effective_fields(
    data_dir: Path, environment: Mapping[str, str], flags: Mapping[str, object]
) -> list[EffectiveField]:
    """Return every field of the configuration of a data directory, in the order of the model.

    A value that could be a secret is HIDDEN. Raises what ``load_configuration`` raises.
    """
    configuration = load_configuration(data_dir, environment, flags)
    configuration = msgspec.structs.replace(configuration, signer=configuration.signer_settings)
    members = read_members(data_dir)
    variables = {dotted: name for name, dotted in environment_names().items()}

    def origin(path: str) -> str:
        if flags.get(path) is not None:
            return "flag"
        if variables.get(path, "") in environment:
            return f"environment {variables[path]}"
        return "file" if member_at(members, path, _NOT_SET) is not _NOT_SET else "default"

    fields = [
        EffectiveField(path, _plain(path, value), origin(path))
        for path, value in _leaves(configuration, "")
    ]
    # Without a value of its own it follows notBefore.
    issued_at = format_duration(configuration.leeway.issued_at_seconds)
    return [
        f._replace(value=issued_at) if f.path == "leeway.issuedAt" and f.value is None else f
        for f in fields
    ]


def _leaves(
    section: msgspec.Struct | type[msgspec.Struct], path: str
) -> Iterator[tuple[str, object]]:
    """Yield the fields; those of the kind of store that is not used are None."""
    for field in msgspec.structs.fields(section):
        dotted = f"{path}.{field.encode_name}".lstrip(".")
        value = getattr(section, field.name) if isinstance(section, msgspec.Struct) else None
        kind = (*get_args(field.type), None)[0]
        if isinstance(value, msgspec.Struct):
            yield from _leaves(value, dotted)
        elif value is None and isinstance(kind, type) and issubclass(kind, Section):
            yield from _leaves(kind, dotted)
        elif isinstance(value, tuple) and value and isinstance(value[0], msgspec.Struct):
            for place, entry in enumerate(value):
                yield from _leaves(entry, f"{dotted}[{place}]")
        else:
            yield dotted, value


def _plain(path: str, value: object) -> object:
    if isinstance(value, Duration):
        return format_duration(value)
    if isinstance(value, tuple):
        return [_plain(path, entry) for entry in value]
    if not isinstance(value, str) or path in _PUBLIC or not could_be_secret(value):
        return value
    return HIDDEN
