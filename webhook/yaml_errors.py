"""What PyYAML raises for text that is not YAML, and what it reads in more than linear time."""

from typing import Any, ClassVar, Final

import yaml

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
