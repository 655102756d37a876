"""Reads the configuration: flags over environment over ``leeway.yaml`` over defaults."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
import yaml

from webhook.config import Configuration, Duration, Section
from webhook.duration import parse_duration
from webhook.errors import ConfigurationError, DataDirectoryError
from webhook.yaml_errors import YAML_ERRORS

FILE_NAME: Final = "leeway.yaml"
DEFAULT_DATA_DIR: Final = "leeway-data"
ENVIRONMENT_PREFIX: Final = "LEEWAY_"
_INTEGERS: Final = (
    "server.workers",
    "server.maxBodyBytes",
    "server.maxWorkerBytes",
    "auth.bcryptCost",
)
_PATH = re.compile(r" - at `(?:key in )?\$(.*)`$")


def data_dir_of(environment: Mapping[str, str]) -> Path:
    """Return the data directory where no flag names it: ``$LEEWAY_DATA_DIR``, else the default."""
    return Path(environment.get("LEEWAY_DATA_DIR") or DEFAULT_DATA_DIR)


def load_configuration(
    data_dir: Path, environment: Mapping[str, str], flags: Mapping[str, object]
) -> Configuration:
    """Read ``leeway.yaml`` and put the environment and then the flags over it.

    ``flags`` maps dotted paths (``server.bind``) to values; None means not given. Raises
    ConfigurationError, or DataDirectoryError where the file cannot be read.
    """
    path = data_dir / FILE_NAME
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise DataDirectoryError(f"{path} is missing; make it with `leeway init`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataDirectoryError(f"{path} cannot be read: {error}") from error
    return parse_configuration(text, str(path), environment, flags)


def parse_configuration(
    text: str, source: str, environment: Mapping[str, str], flags: Mapping[str, object]
) -> Configuration:
    """Parse the YAML of a configuration; ``source`` is what errors call it."""
    members = _load_yaml(text, source)
    configuration = _convert(members, source)
    for name, dotted in _environment_names().items():
        if name in environment:
            _set(members, dotted, _environment_value(dotted, environment[name]))
            configuration = _convert(members, f"environment variable {name}")
    for dotted, value in flags.items():
        if value is not None:
            _set(members, dotted, value)
            configuration = _convert(members, f"flag --{dotted.rpartition('.')[2]}")
    return configuration


def _load_yaml(text: str, source: str) -> dict[str, Any]:
    try:
        members = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except YAML_ERRORS as error:
        raise ConfigurationError(f"{source} is not YAML: {_in_one_line(error)}") from error
    if not isinstance(members, dict):
        raise ConfigurationError(f"{source} must be a mapping that begins with apiVersion and kind")
    return members


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, yaml.YAMLError):
        return text
    return f"a value is not what it looks like or what its tag says ({text}); put it in quotes"


class _UniqueKeyLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    problem=f"the field {name} stands twice", problem_mark=node.start_mark
                )
        return super().construct_mapping(node, deep)


def _convert(members: dict[str, Any], source: str) -> Configuration:
    try:
        return msgspec.convert(members, Configuration, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigurationError(_describe(str(error), members, source)) from error


def _decode(kind: type, value: object) -> object:
    if kind is not Duration:
        raise NotImplementedError
    if isinstance(value, str):
        return Duration(parse_duration(value))
    if value == 0 and not isinstance(value, bool):
        return Duration(0)
    raise ValueError(f"{value!r} is not a duration; write it with a unit, like 60s, 10m or 1h30m")


def _describe(message: str, members: dict[str, Any], source: str) -> str:
    match = _PATH.search(message)
    dotted = match[1].lstrip(".") if match else ""
    text = message[: match.start()] if match else message
    found = _found(members, dotted)
    if text.startswith("Object contains unknown field"):
        allowed = ", ".join(_field_names(dotted))
        text = f"{text.replace('Object contains unknown', 'unknown')}; allowed are {allowed}"
    elif text.startswith("Expected") and found is not None:
        text = f"found {found!r}, {text[0].lower()}{text[1:]}"
    elif text.startswith("Invalid enum value"):
        text = f"found {found!r}, allowed is {_choices(dotted)}"
    return f"{source}: {dotted + ': ' if dotted else ''}{text.replace('`', '')}"


def _found(members: object, dotted: str) -> object:
    for part in re.findall(r"[^.\[\]]+", dotted):
        if isinstance(members, dict):
            members = members.get(part)
        elif isinstance(members, list | tuple) and part.isdigit() and int(part) < len(members):
            members = members[int(part)]
        else:
            return None
    return members


def _field_names(dotted: str) -> list[str]:
    return [field.encode_name for field in _section_fields(dotted)]


def _section_fields(dotted: str) -> tuple[msgspec.structs.FieldInfo, ...]:
    section: Any = Configuration
    for part in re.findall(r"[A-Za-z]+", dotted):
        field = next(f for f in msgspec.structs.fields(section) if f.encode_name == part)
        section = getattr(field.type, "__args__", (field.type,))[0]
    return msgspec.structs.fields(section)


def _choices(dotted: str) -> str:
    section, _, name = dotted.rpartition(".")
    kind = next(f.type for f in _section_fields(section) if f.encode_name == name)
    return " or ".join(repr(choice) for choice in get_args(kind))


def _environment_names() -> dict[str, str]:
    names = {}

    def walk(section: Any, path: str) -> None:
        for field in msgspec.structs.fields(section):
            dotted = f"{path}.{field.encode_name}".lstrip(".")
            if isinstance(field.type, type) and issubclass(field.type, Section):
                walk(field.type, dotted)
            elif dotted not in ("apiVersion", "kind", "trustedIssuers"):
                words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", dotted).replace(".", "_").upper()
                names[ENVIRONMENT_PREFIX + words] = dotted

    walk(Configuration, "")
    return names


def _environment_value(dotted: str, text: str) -> object:
    if dotted == "audiences":
        return [entry.strip() for entry in text.split(",")]
    if dotted in _INTEGERS and re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    if dotted == "tokens.extend" and text in ("true", "false"):
        return text == "true"
    return text


def _set(members: dict[str, Any], dotted: str, value: object) -> None:
    *parents, last = dotted.split(".")
    for part in parents:
        members = members.setdefault(part, {})
    members[last] = value
