"""Looks up the groups of this system."""

from grp import getgrnam
from typing import Final

# ``chown`` takes it for "no change": the largest number of a group is one less.
_NO_GROUP: Final = 2**32 - 1
_MAX_DIGITS: Final = len(str(_NO_GROUP))


def find_group(group: str) -> int | None:
    """Return the number of a group, which is a name or a number; None if it cannot exist here."""
    if group.isdigit():
        # Python converts no text of more than 4,300 digits.
        number = int(group) if len(group) <= _MAX_DIGITS else _NO_GROUP
        return number if number < _NO_GROUP else None
    try:
        return getgrnam(group).gr_gid
    except KeyError:
        return None
