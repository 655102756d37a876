"""The plan of an import: its differences in words, and the records that remove them.

Invariants:

1. The texts of the differences contain no password hash.
2. Different changes have different texts: what is not one plain word of ASCII is quoted, and its
   other characters are escaped, since a letter of another script can look the same.
3. Each step leads from one valid state to another. Several steps are one transaction if they fit,
   and a transaction ends only between two steps.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Concatenate, Final, NamedTuple, ParamSpec, Self

from webhook.rbac.batches import MAX_BYTES, Batches, fits, size_of
from webhook.rbac.errors import TooLargeError
from webhook.rbac.model import Permission
from webhook.rbac.ranges import OPEN_END
from webhook.rbac.records import Record
from webhook.rbac.state import AuthState

_QUOTED: Final = frozenset(" '\"\\")
_P = ParamSpec("_P")


class Difference(NamedTuple):
    """A difference in words, and the audit line of the command that would remove it."""

    text: str
    action: str
    fields: Mapping[str, object]

    @classmethod
    def of(cls, text: str, action: str, **fields: object) -> Self:
        """Return a difference whose audit line has these fields."""
        return cls(text, action, fields)


class Step(NamedTuple):
    """Records that are a change of their own; ``is_last`` of those that remove a difference."""

    records: tuple[Record, ...]
    is_last: bool


class Transaction(NamedTuple):
    """The records of some steps, and how many differences are gone with it."""

    records: list[Record]
    removed: int


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """The differences in the order of their changes, and what removes all of them.

    ``revisions`` has the auth revision after each difference is removed, by the ``steps``. In
    between nothing is allowed that neither the first nor the last state allows. ``kept`` has what
    pruning would take away, each with the option that does.
    """

    differences: tuple[Difference, ...]
    revisions: tuple[int, ...]
    steps: tuple[Step, ...]
    kept: tuple[tuple[str, str], ...]

    def transactions(self, max_records: int | None) -> list[Transaction]:
        """Return all steps in as few transactions of at most ``max_records`` as they fit into.

        Raises TooLargeError for a step that does not fit into any.
        """
        done: list[Transaction] = []
        records: dict[tuple[str, bytes], Record] = {}
        size = removed = 0
        for step in self.steps:
            if not fits(step.records, max_records):
                raise TooLargeError(
                    f"one change of the import has {len(step.records):,} records, and the store "
                    f"takes at most {max_records:,} in 1 MiB at once; divide the largest user, "
                    "role or group of the document"
                )
            new = {(record.kind, record.id): record for record in step.records}
            replaced = [records[found] for found in new.keys() & records.keys()]
            size += size_of(step.records) - size_of(replaced)
            count = len(records) + len(new) - len(replaced)
            # Invariant 3.
            if records and max_records is not None and (count > max_records or size > MAX_BYTES):
                done.append(Transaction(list(records.values()), removed))
                records, removed, size = {}, 0, size_of(step.records)
            records.update(new)
            removed += step.is_last
        return [*done, Transaction(list(records.values()), removed)] if records else done


class Draft:
    """A copy of a state that is changed step by step, and what the steps have written."""

    def __init__(self, state: AuthState, max_records: int | None) -> None:
        self.state = state.copy()
        self.differences: list[Difference] = []
        self.revisions: list[int] = []
        self.steps: list[Step] = []
        self._max_records = max_records

    def change(
        self,
        difference: Difference,
        decide: Callable[Concatenate[AuthState, _P], Iterable[Record]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> None:
        """Make a change, and note the difference that it removes."""
        is_last = False
        while not is_last:
            decided = decide(self.state, *args, **kwargs)
            records, is_last = list(decided), True
            if isinstance(decided, Batches):
                records, is_last = decided.next(self._max_records)
            self.state.apply(self.state.revision, records)
            self.steps.append(Step(tuple(records), is_last))
        self.differences.append(difference)
        self.revisions.append(self.state.meta.revision)


def named(name: str) -> str:
    r"""Return a name, quoted if it is not one plain word (invariant 2).

    >>> named("alice"), named("alice: role root"), named("\N{CYRILLIC SMALL LETTER A}lice")
    ('alice', "'alice: role root'", "'\\u0430lice'")
    """
    is_plain = name.isascii() and name.isprintable() and not _QUOTED.intersection(name)
    return name if is_plain else ascii(name)


def granted(permission: Permission) -> str:
    """Return the type and the keys of a permission in words."""
    kind, key = permission.type.name, _named_key(permission.key)
    if not permission.range_end:
        return f"{kind} {key}"
    if permission.range_end == OPEN_END:
        return f"{kind} [{key}, <open ended>"
    return f"{kind} [{key}, {_named_key(permission.range_end)})"


def _named_key(key: bytes) -> str:
    try:
        return named(key.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(key)
