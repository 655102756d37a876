"""Loads the configuration: flags over environment over ``leeway.yaml`` over defaults."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args, get_origin

import msgspec
import yaml

from keys.messages import describe_types, kind_of_secret, path_and_text, plain, shown
from webhook.config.environment import DATA_DIR, PREFIX, require_known
from webhook.config.model import Configuration
from webhook.config.section import Duration, Section
from webhook.config.yaml_text import YAML_ERRORS, UniqueKeyLoader, yaml_problem
from webhook.duration import parse_duration
from webhook.errors import ConfigurationError, DataDirectoryError

FILE_NAME: Final = "leeway.yaml"
DEFAULT_DATA_DIR: Final = "leeway-data"
_A_FILE: Final = "write it to a file of mode 0600, and give the path of the file where one belongs"
_INSTEAD: Final = {
    "a URL with a user or password": "an https URL without a user is allowed; a server that needs "
    "a login gets the bearer token of tokenFile, and etcd the password of passwordFile"
}


def data_dir_of(environment: Mapping[str, str]) -> Path:
    """Return the data directory without a flag: ``$LEEWAY_DATA_DIR``, else the default."""
    return Path(environment.get(DATA_DIR) or DEFAULT_DATA_DIR)


def load_configuration(
    data_dir: Path, environment: Mapping[str, str], flags: Mapping[str, object]
) -> Configuration:
    """Read ``leeway.yaml``, overridden by the environment and then by the flags.

    ``flags`` maps dotted paths (``server.bind``) to values; None means not given. Raises
    ConfigurationError, or DataDirectoryError if the file cannot be read.
    """
    text = _read(data_dir / FILE_NAME)
    return parse_configuration(text, str(data_dir / FILE_NAME), environment, flags)


def read_members(data_dir: Path) -> dict[str, Any]:
    """Return the members of ``leeway.yaml``, unchecked. Raises what ``load_configuration`` does."""
    path = data_dir / FILE_NAME
    return _load_yaml(_read(path), str(path))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise DataDirectoryError(
            f"{path} is missing; create it with `leeway init`, or give another data directory with "
            "--data-dir or LEEWAY_DATA_DIR"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise DataDirectoryError(
            f"{path} cannot be read: {error.strerror}; let the user that this runs as read it"
        ) from error


def parse_configuration(
    text: str, source: str, environment: Mapping[str, str], flags: Mapping[str, object]
) -> Configuration:
    """Parse the YAML of a configuration; ``source`` is its name in errors.

    >>> text = "issuer: https://issuer.example"
    >>> flags = {"server.workers": 4}
    >>> configuration = parse_configuration(text, "leeway.yaml", {}, flags)
    >>> configuration.issuer, configuration.server.workers, configuration.leeway.expiry
    ('https://issuer.example', 4, 60.0)
    """
    require_known(environment, environment_names())
    members = _load_yaml(text, source)
    changes = [
        _Change(f"environment variable {name}", dotted, _environment_value(dotted, value))
        for name, dotted in environment_names().items()
        if (value := environment.get(name)) is not None
    ]
    changes += [
        _Change(f"flag --{dotted.rpartition('.')[2]}", dotted, value)
        for dotted, value in flags.items()
        if value is not None
    ]
    try:
        return _changed(members, changes, source)
    except ConfigurationError:
        _blame(members, changes, source)
        raise


class _Change(NamedTuple):
    source: str
    dotted: str
    value: object


def _changed(members: dict[str, Any], changes: Sequence[_Change], source: str) -> Configuration:
    members = deepcopy(members)
    for change in changes:
        _set(members, change.dotted, change.value)
    return _convert(members, source)


def _blame(members: dict[str, Any], changes: Sequence[_Change], source: str) -> None:
    """Raise the error of the only change that is wrong, naming its source.

    Otherwise raise that of the file, or of the first change that is wrong after those before it.
    """
    for change in changes:
        try:
            _changed(members, [other for other in changes if other is not change], source)
        except ConfigurationError:
            continue
        _changed(members, changes, change.source)
    _changed(members, (), source)
    for end, change in enumerate(changes, 1):
        _changed(members, changes[:end], change.source)


def _load_yaml(text: str, source: str) -> dict[str, Any]:
    try:
        members = yaml.load(text, Loader=UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except YAML_ERRORS as error:
        raise ConfigurationError(f"{source} is not YAML{yaml_problem(error)}") from None
    if not isinstance(members, dict):
        raise ConfigurationError(f"{source} must be a mapping that begins with apiVersion and kind")
    return members


def _convert(members: dict[str, Any], source: str) -> Configuration:
    _check_texts(members, source)
    try:
        return msgspec.convert(members, Configuration, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigurationError(_describe(str(error), members, source)) from error


def _check_texts(members: object, source: str) -> None:
    """Raise ConfigurationError for a name or a value that is a secret or has a lone surrogate.

    No field holds a key or a token itself. Lone surrogates come from YAML's escapes and from bytes
    of the environment that are not UTF-8; no response could contain one.
    """
    found = [("", members)]
    seen: set[int] = set()
    # The list grows meanwhile: without recursion, as values may be nested deeply or in themselves.
    for dotted, value in found:
        if isinstance(value, str):
            if value.encode("utf-8", "ignore").decode("utf-8") != value:
                raise ConfigurationError(
                    f"{source}: {dotted + ': ' if dotted else ''}found {shown(value)}; text that "
                    "UTF-8 can encode is allowed, without lone surrogates"
                )
            if kind := kind_of_secret(value):
                raise ConfigurationError(
                    f"{source}: {dotted + ': ' if dotted else ''}holds {kind}, which is not shown; "
                    f"{_INSTEAD.get(kind, _A_FILE)}"
                )
        elif id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, dict):
                found += [(dotted, name) for name in value]
                found += [(f"{dotted}.{name}".lstrip("."), entry) for name, entry in value.items()]
            elif isinstance(value, list | tuple | set):
                found += [(f"{dotted}[{place}]", entry) for place, entry in enumerate(value)]


def _decode(kind: type, value: object) -> object:
    if kind is not Duration:
        raise NotImplementedError
    if isinstance(value, str):
        return Duration(parse_duration(value))
    if value == 0 and not isinstance(value, bool):
        return Duration(0)
    raise ValueError(
        f"{shown(value)} is not a duration; write it with a unit, like 60s, 10m or 1h30m"
    )


def _describe(message: str, members: dict[str, Any], source: str) -> str:
    dotted, text = path_and_text(message)
    found = member_at(members, dotted)
    if text.startswith("Object contains unknown field"):
        allowed = ", ".join(_field_names(dotted))
        name = text.removeprefix("Object contains unknown field ").strip("`")
        text = f"unknown field {plain(name)}; allowed are {allowed}"
    elif text.startswith("Expected") and found is not None:
        text = f"found {_as_yaml(found)}, {text[0].lower()}{text[1:]}"
    elif text.startswith("Invalid enum value"):
        text = f"found {_as_yaml(found)}, allowed is {_choices(dotted)}"
    return f"{source}: {dotted + ': ' if dotted else ''}{_without_types(text)}"


def _as_yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else shown(value)


def _without_types(text: str) -> str:
    """Describe a message's msgspec types in words; drop that of the value if the value is shown."""
    if text.startswith("found"):
        text = re.sub(r", got `[^`]*`", "", text)
    # The commands of our own messages stay quoted.
    return re.sub(r"`(?!leeway )([^`]*)`", lambda name: describe_types(name[1]), text)


def member_at(members: object, dotted: str, missing: object = None) -> object:
    """Return the member at a dotted path like ``trustedIssuers[0].url``, else ``missing``."""
    for part in re.findall(r"[^.\[\]]+", dotted):
        if isinstance(members, dict) and part in members:
            members = members[part]
        elif isinstance(members, list | tuple) and part.isdigit() and int(part) < len(members):
            members = members[int(part)]
        else:
            return missing
    return members


def _field_names(dotted: str) -> list[str]:
    return [field.encode_name for field in _section_fields(dotted)]


def _section_fields(dotted: str) -> tuple[msgspec.structs.FieldInfo, ...]:
    section: Any = Configuration
    for part in re.findall(r"[A-Za-z]+", dotted):
        field = next(f for f in msgspec.structs.fields(section) if f.encode_name == part)
        section = getattr(field.type, "__args__", (field.type,))[0]
    return msgspec.structs.fields(section)


def _type_of(dotted: str) -> Any:
    section, _, name = dotted.rpartition(".")
    return next(f.type for f in _section_fields(section) if f.encode_name == name)


def _choices(dotted: str) -> str:
    return " or ".join(repr(choice) for choice in get_args(_type_of(dotted)))


def environment_names() -> dict[str, str]:
    """Return the variable of each field that has one, with the field's dotted path."""
    names = {}

    def walk(section: Any, path: str) -> None:
        for field in msgspec.structs.fields(section):
            dotted = f"{path}.{field.encode_name}".lstrip(".")
            # A section that can be left out is a union with None.
            kind = getattr(field.type, "__args__", (field.type,))[0]
            if dotted in ("apiVersion", "kind", "trustedIssuers"):
                continue
            if isinstance(kind, type) and issubclass(kind, Section):
                walk(kind, dotted)
            else:
                words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", dotted).replace(".", "_").upper()
                names[PREFIX + words] = dotted

    walk(Configuration, "")
    return names


def _environment_value(dotted: str, text: str) -> object:
    kind = _type_of(dotted)
    if get_origin(kind) is tuple:
        return [entry.strip() for entry in text.split(",")]
    if kind is int and re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    if kind is bool and text in ("true", "false"):
        return text == "true"
    return text


def _set(members: dict[str, Any], dotted: str, value: object) -> None:
    *parents, last = dotted.split(".")
    for part in parents:
        members = members.setdefault(part, {})
        if not isinstance(members, dict):
            return  # the conversion raises the error
    members[last] = value
