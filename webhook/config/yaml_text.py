"""What PyYAML raises for text that is not YAML, and what it reads in more than linear time."""

import re
from typing import Any, ClassVar, Final

import yaml

_QUOTED: Final = re.compile(r"""'[^']*'|"[^"]*"|!\S+""")

YAML_ERRORS: Final = (
    yaml.YAMLError,
    # The constructors of its values (``yaml/constructor.py``) let through what Python says of
    # a date that does not exist, a number without digits, a ``!!bool`` that is neither, and so on.
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class PlainNumbers(yaml.constructor.SafeConstructor):
    """Leaves numbers of base 60 (``1:30``) as text, as YAML 1.2 does.

    They have no limit in length, unlike other integers, and take quadratic time. To be the first
    base of a loader.
    """

    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        **yaml.constructor.SafeConstructor.yaml_constructors,
        "tag:yaml.org,2002:int": lambda loader, node: loader.construct_yaml_int(node),
        "tag:yaml.org,2002:float": lambda loader, node: loader.construct_yaml_float(node),
    }

    def construct_yaml_int(self, node: yaml.ScalarNode) -> Any:
        """Return an integer, or the text of one of base 60."""
        text = self.construct_scalar(node)
        return text if ":" in text else super().construct_yaml_int(node)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> Any:
        """Return a floating-point number, or the text of one of base 60."""
        text = self.construct_scalar(node)
        return text if ":" in text else super().construct_yaml_float(node)


def yaml_problem(error: Exception) -> str:
    """Return where a text is not YAML and why, to go after "is not YAML"; empty if not known.

    The error's own text shows the line it happened on, and a tag or an anchor that may be part of a
    password: neither is repeated.
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
    """Return a quoted part of a message if it is one character or a token of YAML, else dots."""
    part = quoted[0]
    return part if len(part) == len("','") or part.startswith("'<") else "..."
