"""Rules 1 to 4: the log, what was written, in which order, and how it was decided.

1. The groups are one chain without a gap; ids are unique; count and digest of each head are those
   of the records as of it; each group has one author.
2. An acknowledged change is in the log once, a refused one or one that was said not to be written
   never, an unknown one at most once.
3. Of two changes in the log, the one that was answered before the other was sent comes first; an
   answer names the auth revision of its own group.
4. A group is what its change decides from the records before it, but for times and random values;
   a refusal, and "nothing to do", is decided from records that lack nothing acknowledged before.

Linear in time: the log is the order, so nothing is searched.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf

from webhook.errors import LeewayError
from webhook.rbac.records import (
    KEY,
    LIFETIME,
    META,
    PERMISSION,
    REPLICA,
    REVOCATION,
    ROLE,
    SCHEDULE,
    TOKEN,
    USER,
    AuthMeta,
    Record,
    TokenRecord,
    read_permission_id,
    read_revocation_id,
    read_user,
    read_value,
    text_of,
)
from webhook.rbac.state import AuthState

from .history import Change, Group, History, Judgement, Outcome, RecordKey

_MODULUS = 1 << 256
_UPKEEP = {
    frozenset((KEY, SCHEDULE, REPLICA)): "key step",
    frozenset((TOKEN,)): "use",
    frozenset((REVOCATION, LIFETIME)): "tidy",
}
_NEXT = 8
_MAY_BE_THERE = (Outcome.ACKNOWLEDGED, Outcome.UNKNOWN)
FENCE = "fence"
SETUP = "setup"


@dataclass(slots=True)
class Order:
    """Where the changes are in the log, positions from 1 on, and what follows for any moment."""

    positions: dict[int, int] = field(default_factory=dict)
    """The position of each change that is in the log, by its number."""
    authors: list[Change | None] = field(default_factory=list)
    """The change of each position; None for what no client asked for."""
    _sent: list[float] = field(default_factory=list)
    _told: list[float] = field(default_factory=list)
    _known: list[int] = field(default_factory=list)

    def prepare(self, changes: Iterable[Change]) -> None:
        """Build what the two methods below look at."""
        invs = (author.inv if author else -inf for author in self.authors)
        self._sent = list(accumulate(invs, max))
        acknowledged = sorted(
            (change.resp, self.positions[change.number])
            for change in changes
            if change.outcome is Outcome.ACKNOWLEDGED and change.number in self.positions
        )
        self._told = [resp for resp, _ in acknowledged]
        self._known = list(accumulate((position for _, position in acknowledged), max))

    def acknowledged_before(self, moment: float) -> int:
        """Return the last position of which a client had been told before that moment."""
        # Strictly: what is told at the moment itself may be sent after it.
        place = bisect_right(self._told, _just_before(moment))
        return self._known[place - 1] if place else 0

    def sent_before(self, moment: float) -> int:
        """Return the last position that can have been sent by then."""
        return bisect_right(self._sent, moment)


def check_log(history: History, found: Judgement) -> Order:
    """Check rules 1 to 4, and return the order that they establish."""
    _check_chain(history, found)
    order = _match(history, found)
    order.prepare(history.changes)
    _check_order(history, order, found)
    _check_empty_decisions(history, order, found)
    return order


def _check_chain(history: History, found: Judgement) -> None:
    """Rule 1, but for the authors."""
    ids: set[bytes] = set()
    before: Group | None = None
    values: dict[RecordKey, bytes] = {}
    digest, record_digest = 0, history.record_digest
    for k, group in enumerate(history.log, 1):
        if group.id in ids:
            found.is_wrong(1, f"group {k} has the id of an earlier one")
        ids.add(group.id)
        wanted = (before.revision, before.id) if before else None
        if group.previous != wanted:
            found.is_wrong(1, f"group {k} does not follow the one before it")
        if before and group.revision <= before.revision:
            found.is_wrong(1, f"the revision of group {k} is not higher than the one before")
        names = [(kind, record_id) for kind, record_id, _ in group.records]
        if len(set(names)) != len(names):
            found.is_wrong(1, f"group {k} writes a record twice")
        for kind, record_id, value in group.records:
            old = values.pop((kind, record_id), None)
            if old is not None:
                digest -= record_digest((kind, record_id), old)
            if value is not None:
                values[kind, record_id] = value
                digest += record_digest((kind, record_id), value)
        if group.count != len(values):
            found.is_wrong(
                1, f"group {k} counts {group.count} records, and {len(values)} are there"
            )
        if group.digest != digest % _MODULUS:
            found.is_wrong(1, f"the digest of group {k} is not that of the records")
        before = group


def _match(history: History, found: Judgement) -> Order:
    """Find the author of each group: rules 1 (authors), 2, and 4 for what was written."""
    lanes = _Lanes(history.changes)
    order, state = Order(), AuthState()
    for k, group in enumerate(history.log, 1):
        change = None
        upkeep = _upkeep_of(group)
        if not upkeep:
            change = lanes.author(group, state)
            if change is None and k > 1:
                found.is_wrong(
                    1, f"group {k} ({_words(group)}) is nobody's change, or a second one"
                )
        found.count(upkeep or ("change" if change else SETUP))
        if change is not None:
            order.positions[change.number] = k
        order.authors.append(change)
        state.apply(k, group.records)
        _check_answer(change, state, k, found)
    return order


def _check_answer(change: Change | None, state: AuthState, k: int, found: Judgement) -> None:
    if change is None:
        return
    if change.outcome in (Outcome.REFUSED, Outcome.NOT_WRITTEN):
        found.is_wrong(
            2, f"{change.what} was answered as {change.outcome.value}, and is group {k} "
            f"({change.error})"
        )  # fmt: skip
    told = change.auth_revision
    if change.outcome is Outcome.ACKNOWLEDGED and told and told != state.meta.revision:
        found.is_wrong(
            3, f"{change.what} was told auth revision {told}, and its group has "
            f"{state.meta.revision}"
        )  # fmt: skip
    if change.outcome is Outcome.UNKNOWN:
        found.count("unknown and applied")


def _check_order(history: History, order: Order, found: Judgement) -> None:
    """Rule 3: no later group was answered before an earlier one was sent."""
    earliest, whose = inf, ""
    for k in range(len(order.authors), 0, -1):
        author = order.authors[k - 1]
        if author is None:
            continue
        if earliest < author.inv:
            found.is_wrong(3, f"{whose} was answered before {author.what} was sent, and follows it")
        if author.outcome is Outcome.ACKNOWLEDGED and author.resp < earliest:
            earliest, whose = author.resp, author.what


def _check_empty_decisions(history: History, order: Order, found: Judgement) -> None:
    """Rules 2 and 4 for changes that are not in the log: each state that they may rest on."""
    waiting: dict[int, list[tuple[int, Change]]] = defaultdict(list)
    for change in history.changes:
        if change.number in order.positions:
            continue
        if change.outcome is Outcome.UNKNOWN:
            found.count("unknown and not applied")
        if change.outcome in (Outcome.ACKNOWLEDGED, Outcome.REFUSED):
            low = order.acknowledged_before(change.inv)
            waiting[low].append((max(low, order.sent_before(change.resp)), change))
    state, active = AuthState(), _Active()
    for k in range(len(history.log) + 1):
        if k:
            group = history.log[k - 1]
            state.apply(k, group.records)
            active.look(k, _names_of(group), state)
        for high, change in waiting.get(k, ()):
            active.add(high, change, state)
    for change in active.rest():
        if change.outcome is Outcome.ACKNOWLEDGED:
            found.is_wrong(2, f"{change.what} was acknowledged, and is not in the log")
        else:
            found.is_wrong(
                4, f"{change.what} was refused ({change.error}), which no state that has "
                "everything acknowledged before it decides"
            )  # fmt: skip


class _Active:
    """Changes without a group, each until the last state that it can rest on."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[tuple[int, Change]]] = defaultdict(list)
        self._unexplained: dict[int, Change] = {}

    def add(self, high: int, change: Change, state: AuthState) -> None:
        if not _is_empty_decision(change, state):
            self._unexplained[change.number] = change
            for name in change.names:
                self._by_name[name].append((high, change))

    def look(self, k: int, names: Iterable[str], state: AuthState) -> None:
        """Look at those again whose records have just changed."""
        for name in names:
            for high, change in self._by_name.pop(name, ()):
                if k > high or change.number not in self._unexplained:
                    continue
                if _is_empty_decision(change, state):
                    del self._unexplained[change.number]
                else:
                    self._by_name[name].append((high, change))

    def rest(self) -> Iterator[Change]:
        yield from self._unexplained.values()


def _is_empty_decision(change: Change, state: AuthState) -> bool:
    """Return whether the change ends on this state as its answer says, without a write."""
    try:
        records = list(change.decide(state))
    except LeewayError as error:
        return change.outcome is Outcome.REFUSED and change.error in str(error)
    return change.outcome is Outcome.ACKNOWLEDGED and not records


class _Lanes:
    """The changes that are not found yet, by what they are about."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self._lane_of: dict[str, str] = {}
        self._waiting: dict[str, list[Change]] = defaultdict(list)
        self._failed: dict[str, list[Change]] = defaultdict(list)
        for change in sorted(changes, key=lambda change: change.inv):
            lanes = self._waiting if change.outcome in _MAY_BE_THERE else self._failed
            lanes[change.lane].append(change)
            self._lane_of.update(dict.fromkeys(change.names, change.lane))

    def author(self, group: Group, state: AuthState) -> Change | None:
        """Return the change that makes these records of that state, once."""
        lane = next((self._lane_of[n] for n in _names_of(group) if n in self._lane_of), "")
        written = _comparable(group.records)
        # The next few of a lane: each one that was found takes those before it with it.
        waiting = self._waiting[lane]
        fitting = [
            number for number, c in enumerate(waiting[:_NEXT]) if _decided(c, state) == written
        ]
        if fitting:
            number = fitting[0]
            # Asked for again at once, for nobody knew: one of the two is this group.
            is_repeated = waiting[number].outcome is Outcome.UNKNOWN and number + 1 in fitting
            if is_repeated and not _can_follow(waiting[number + 1], group, state):
                number += 1
            change = waiting[number]
            waiting[: number + 1] = [c for c in waiting[:number] if c.outcome is Outcome.UNKNOWN]
            return change
        # Of the same change asked for twice, one that is not said to have failed comes first.
        for change in self._failed[lane]:
            if _decided(change, state) == written:
                self._failed[lane].remove(change)
                return change
        return None


def _can_follow(change: Change, group: Group, state: AuthState) -> bool:
    """Return whether the same change, asked for again after it was made, has its answer."""
    after = state.copy()
    after.apply(state.revision + 1, group.records)
    return change.outcome is Outcome.UNKNOWN or _is_empty_decision(change, after)


def _decided(change: Change, state: AuthState) -> dict[RecordKey, object] | None:
    try:
        return _comparable(change.decide(state))
    except LeewayError:
        return None


def _comparable(records: Iterable[Record]) -> dict[RecordKey, object]:
    """Return what is compared: the last of each record, without times and random values."""
    found: dict[RecordKey, object] = {}
    for kind, record_id, value in records:
        shown: object = value
        if kind == LIFETIME:
            continue
        if value is None:
            shown = None
            if kind in (REVOCATION, TOKEN):
                continue  # what is tidied on the way depends on the clock
        elif kind == REVOCATION:
            shown = True
        elif kind == USER:
            user = read_user(record_id, value)
            shown = (user.roles, bool(user.password_hash), user.generation)
        elif kind == TOKEN:
            shown = read_value(value, TokenRecord).user
        elif kind == META:
            shown = read_value(value, AuthMeta)
        found[kind, record_id] = shown
    return found


def _upkeep_of(group: Group) -> str:
    """Return what a group is that no client asked for, empty for what has an author."""
    if not group.records:
        return FENCE
    kinds = {kind for kind, _, _ in group.records}
    for upkeep, what in _UPKEEP.items():
        is_new = what == "tidy" and any(
            kind == REVOCATION and value is not None for kind, _, value in group.records
        )
        if kinds <= upkeep and group.writer and not is_new:
            return what
    return ""


def _names_of(group: Group) -> Iterator[str]:
    for kind, record_id, _ in group.records:
        if kind in (USER, ROLE):
            yield text_of(record_id)
        elif kind == PERMISSION:
            yield read_permission_id(record_id)[0]
        elif kind == REVOCATION:
            yield read_revocation_id(record_id)[1]


def _words(group: Group) -> str:
    shown = [
        f"{kind} {record_id.decode('utf-8', 'replace')}" for kind, record_id, _ in group.records
    ]
    return ", ".join(shown[:4])


def _just_before(moment: float) -> float:
    return moment - 1e-9
