"""The known ``LEEWAY_…`` variables, and suggestions for an unknown one."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Final

from webhook.errors import ConfigurationError

PREFIX: Final = "LEEWAY_"
DATA_DIR: Final = "LEEWAY_DATA_DIR"
# Variables of the command line and of the image, not fields of the configuration.
_OTHERS: Final = (DATA_DIR, "LEEWAY_COMMIT")
# What a kubelet sets in every Pod for a Service named leeway, or leeway-something
# (kubernetes ``pkg/kubelet/envvars/envvars.go``).
_SERVICE: Final = re.compile(
    r"LEEWAY_(?=\w*\Z)(?:\w+_)??(?:SERVICE_HOST\Z|SERVICE_PORT|PORT_[0-9]+_(?:TCP|UDP|SCTP))",
    re.A,
)
_SERVICE_URL: Final = re.compile(r"(?:tcp|udp|sctp)://[!-~]+")


def require_known(environment: Mapping[str, str], fields: Iterable[str]) -> None:
    """Raise ConfigurationError for an unknown variable; ``fields`` are the variables of fields.

    Its value is not shown.
    """
    known = {*fields, *_OTHERS}
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name in known or _is_of_service(name, environment[name]):
            continue
        words = {entry.removeprefix(PREFIX): entry for entry in sorted(known)}
        near = get_close_matches(name.removeprefix(PREFIX), words, n=3)
        meant = " or ".join(words[entry] for entry in near)
        fix = (
            f"set {meant}, or unset it" if near else "unset it; `leeway config show` has the names"
        )
        raise ConfigurationError(f"environment variable {name[:64]!a} is not known; {fix}")


def _is_of_service(name: str, value: str) -> bool:
    if _SERVICE.match(name):
        return True
    return name.endswith("_PORT") and _SERVICE_URL.fullmatch(value) is not None
