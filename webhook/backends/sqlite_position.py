"""Positions in the history of a SQLite file, and their opaque texts.

Each commit writes a random head, and the last ones are kept: two files with the same revision are
the same data only if they have the same head.
"""

import re
from collections.abc import Mapping
from typing import Final

from webhook.rbac.errors import ForeignPositionError

HEADS_KEPT: Final = 256
_TEXT: Final = re.compile("sqlite-([0-9a-f]{16})-([0-9a-f]{0,16})")


def with_later(heads: Mapping[int, bytes], later: Mapping[int, bytes]) -> dict[int, bytes]:
    """Return the heads that are kept, by revision in ascending order."""
    found = dict(sorted([*heads.items(), *later.items()]))
    for revision in list(found)[:-HEADS_KEPT]:
        del found[revision]
    return found


def position_text(revision: int, head: bytes) -> str:
    """Return the text of a position.

    >>> position_text(10, bytes(8))
    'sqlite-000000000000000a-0000000000000000'
    """
    return f"sqlite-{revision:016x}-{head.hex()}"


def reaches(position: str, revision: int, heads: Mapping[int, bytes]) -> bool:
    """Return whether the data of a revision contains what had been written at a position.

    Where the head of the position is no longer kept, it is taken for one of this data. Raises
    ForeignPositionError for one of another file or of another kind of store.
    """
    match = _TEXT.fullmatch(position)
    if match is None:
        raise _foreign()
    wanted, head = int(match[1], 16), match[2]
    if wanted > revision:
        return False
    if wanted >= next(iter(heads), revision + 1) and heads.get(wanted, b"").hex() != head:
        raise _foreign()
    return True


def _foreign() -> ForeignPositionError:
    return ForeignPositionError(
        "the position is of another store, or of what this one was before it was restored from a "
        "backup; use one that this store has returned since"
    )
