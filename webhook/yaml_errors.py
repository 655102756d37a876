"""What PyYAML raises for text that is no YAML, or for a value that is not what its tag says."""

from typing import Final

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
