"""Reads YAML with PyYAML: its errors, and its loader without numbers that take quadratic time."""

import re
from typing import Any, ClassVar, Final

import yaml

from keys.messages import shown
from webhook.errors import ConfigurationError

try:
    # Five times as fast; PyYAML has it where it was built with libyaml.
    from yaml import CSafeLoader as _FastLoader
except ImportError:  # pragma: no cover
    from yaml import SafeLoader as _FastLoader  # type: ignore[assignment]

_QUOTED: Final = re.compile(r"""'[^']*'|"[^"]*"|!\S+""")

YAML_ERRORS: Final = (
    yaml.YAMLError,
    # Raised by its constructors (``yaml/constructor.py``) for a date that does not exist, a number
    # without digits, a ``!!bool`` that is neither, and so on.
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class PlainNumbers(yaml.constructor.SafeConstructor):
    """Loads numbers of base 60 (``1:30``) as text, as YAML 1.2 does; the first base of a loader.

    Unlike other integers they have no limit in length, and they take quadratic time.
    """

    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        **yaml.constructor.SafeConstructor.yaml_constructors,
        "tag:yaml.org,2002:int": lambda loader, node: loader.construct_yaml_int(node),
        "tag:yaml.org,2002:float": lambda loader, node: loader.construct_yaml_float(node),
    }

    def construct_yaml_int(self, node: yaml.ScalarNode) -> Any:
        """Return an integer, or the text of one in base 60."""
        text = self.construct_scalar(node)
        return text if ":" in text else super().construct_yaml_int(node)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> Any:
        """Return a floating-point number, or the text of one in base 60."""
        text = self.construct_scalar(node)
        return text if ":" in text else super().construct_yaml_float(node)


class _PlainLoader(PlainNumbers, yaml.SafeLoader):
    pass


class _UniqueKeys(PlainNumbers):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # As texts. A list or a mapping is refused below; its text may be exponential in its length.
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                field = shown(key.value).strip("'")
                raise yaml.constructor.ConstructorError(
                    problem=f"the field {field} appears twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class UniqueKeyLoader(_UniqueKeys, yaml.SafeLoader):
    """Refuses a mapping in which a key appears twice."""


class _DocumentLoader(_UniqueKeys, _FastLoader):
    """Leaves times as text, as in JSON."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - of the class, as in PyYAML
        first: [entry for entry in entries if entry[0] != "tag:yaml.org,2002:timestamp"]
        for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def parse_yaml(data: bytes, name: str) -> dict[Any, Any]:
    """Return the mapping in the first document of a YAML text, as Kubernetes reads it.

    ``name`` is the text's name in errors. Raises ConfigurationError, which shows nothing of the
    text.

    >>> parse_yaml(b"kind: Pod", "pod.yaml")
    {'kind': 'Pod'}
    """
    try:
        documents = yaml.load_all(data, Loader=_PlainLoader)
        document = next((found for found in documents if found is not None), None)
    except YAML_ERRORS as error:
        raise ConfigurationError(f"{name} is not YAML{yaml_problem(error)}") from None
    if not isinstance(document, dict):
        raise ConfigurationError(f"{name} is not a mapping in YAML")
    return document


def parse_single_document(text: str, name: str) -> object:
    """Return the value of a YAML text with one document, in which no key appears twice.

    ``name`` is the text's name in errors. Raises ConfigurationError, which shows no value.
    """
    try:
        return yaml.load(text, Loader=_DocumentLoader)  # noqa: S506 - a SafeLoader
    except YAML_ERRORS as error:
        raise ConfigurationError(f"{name} is not YAML{yaml_problem(error)}") from None


def yaml_problem(error: Exception) -> str:
    """Return where and why a text is not YAML, to follow "is not YAML"; empty if unknown.

    The text of the error shows the line, and a tag or an anchor that may be part of a password:
    neither is repeated.
    """
    if isinstance(error, yaml.reader.ReaderError):
        return f": {error.reason}"
    if not isinstance(error, yaml.MarkedYAMLError):
        return ": a value is not what it looks like or what its tag says; put it in quotes"
    mark = error.problem_mark or error.context_mark
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    problem = error.problem or error.context or ""
    return f"{where}: {_QUOTED.sub(_without_text, problem)}" if problem else where


def _without_text(quoted: re.Match[str]) -> str:
    """Return a quoted part of a message unchanged if it is YAML syntax, else ``...``."""
    part = quoted[0]
    return part if len(part) == len("','") or part.startswith("'<") else "..."
