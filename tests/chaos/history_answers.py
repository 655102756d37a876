"""Rules 5 to 8: which state each answer rests on, in which order, and when there is none.

5. There is one position between ``lo`` and ``hi`` from which everything in an answer follows, at
   one moment between its request and its end. ``lo`` is the last position acknowledged to anybody
   ``max_staleness`` before the request was sent, ``hi`` the last one sent before the answer had
   come. Below ``lo`` it is stale, above ``hi`` from the future, at no single position torn.
6. An answer that left late is noted, and fails nothing: a process can be stopped before it writes.
7. On one connection the position never falls. After a change that was acknowledged on it, or with
   ``replica_wide`` by the same replica, it is at least that of the change; with a ``minimum`` at
   least that.
8. Without a fault there is no 503; a replica that is cut off answers nothing else from
   ``max_staleness`` + 1 s on.
"""

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field

from .history import Answer, Change, Fault, History, Judgement, Outcome, RecordLog
from .history_log import Order

LATE_SECONDS = 1.0
STOP_SECONDS = 1.0
BACK_SECONDS = 3.0


def check_answers(history: History, order: Order, found: Judgement) -> None:
    """Check rules 5 to 8."""
    told = _Told(order)
    sessions = _Sessions(history, order)
    records = RecordLog(history.log)
    named = {group.position: k for k, group in enumerate(history.log, 1) if group.position}
    # By when they came: what an answer shows, it shows to requests that are sent later.
    for answer in sorted(history.answers, key=lambda answer: answer.resp):
        _check_silence(answer, history, found)
        if answer.told is None:
            continue
        low = told.before(answer.inv - history.max_staleness)
        high = order.sent_before(answer.resp)
        fitting = _fitting(answer, records, named, low, high)
        if not fitting:
            found.is_wrong(5, _why(answer, records, named, low, high, len(history.log)))
            continue
        found.count("answers judged")
        if low < told.before(answer.inv) and len(records.touched(
            answer.request.touches, low, told.before(answer.inv)
        )) > 1:  # fmt: skip
            found.count("answers within max_staleness after a change of their subject")
        told.shown(answer.resp, fitting[0])
        _note_late(answer, history, told, fitting[-1], found)
        sessions.check(answer, fitting, named, high, records, found)


@dataclass(slots=True)
class _Told:
    """What anybody had been told by a moment: acknowledged changes, and answers that show them."""

    order: Order
    _moments: list[float] = field(default_factory=list)
    _positions: list[int] = field(default_factory=list)

    def before(self, moment: float) -> int:
        place = bisect_right(self._moments, moment - 1e-9)
        shown = self._positions[place - 1] if place else 0
        return max(shown, self.order.acknowledged_before(moment))

    def shown(self, moment: float, position: int) -> None:
        if not self._positions or position > self._positions[-1]:
            self._moments.append(moment)
            self._positions.append(position)


def _fitting(
    answer: Answer, records: RecordLog, named: dict[str, int], low: int, high: int
) -> list[int]:
    """Return the first position of each span between two bounds that the answer can rest on.

    Between two of the positions that are tried, no record changes that it depends on.
    """
    assert answer.told is not None
    tried = records.touched(answer.request.touches, low, high)
    if answer.position:
        k = named.get(answer.position, -1)
        tried = [k] if low <= k <= high else []
    return [
        k for k in tried
        if answer.told in answer.request.answers(records.at(k), answer.inv, answer.resp)
    ]  # fmt: skip


def _why(
    answer: Answer, records: RecordLog, named: dict[str, int], low: int, high: int, last: int
) -> str:
    """Say how an answer is wrong."""
    what = f"{answer.request.what} of {answer.inv:.3f} to {answer.resp:.3f} at {answer.replica}"
    told = f"was answered {answer.told}"
    if answer.position and answer.position not in named:
        return f"{what} names a position that is not in the log"
    earlier = _fitting(answer, records, named, 0, max(low - 1, 0))
    if earlier:
        return f"{what} {told}: stale, right until {low - 1} at most, and {low} was acknowledged"
    if _fitting(answer, records, named, min(high + 1, last), last):
        return f"{what} {told}: from the future, right after {high}"
    right = answer.request.answers(records.at(high), answer.inv, answer.resp)
    return (
        f"{what} {told}: torn, right in no single state; in the last one {sorted(map(str, right))}"
    )


def _note_late(
    answer: Answer, history: History, told: _Told, position: int, found: Judgement
) -> None:
    """Rule 6."""
    took = answer.resp - answer.inv
    if took <= history.max_staleness:
        return
    if position < told.before(answer.resp - history.max_staleness - LATE_SECONDS):
        found.count("answers that left late")
        found.noted.append(f"rule 6: {answer.request.what} left {took:.1f} s after its request")


class _Sessions:
    """Rule 7: the position that each connection and each replica has reached."""

    def __init__(self, history: History, order: Order) -> None:
        self._reached: dict[str, int] = defaultdict(int)
        self._own: dict[str, tuple[list[float], list[int]]] = {}
        for change in sorted(history.changes, key=lambda change: change.resp):
            position = order.positions.get(change.number)
            if position is not None and change.outcome is Outcome.ACKNOWLEDGED:
                for whose in _owners(change, history.replica_wide):
                    moments, positions = self._own.setdefault(whose, ([], []))
                    moments.append(change.resp)
                    positions.append(max(position, positions[-1] if positions else 0))

    def _own_before(self, whose: str, moment: float) -> int:
        moments, positions = self._own.get(whose, ([], []))
        place = bisect_right(moments, moment - 1e-9)
        return positions[place - 1] if place else 0

    def check(
        self,
        answer: Answer,
        fitting: list[int],
        named: dict[str, int],
        high: int,
        records: RecordLog,
        found: Judgement,
    ) -> None:
        before = self._reached[answer.connection] if answer.connection else 0
        own = max(
            self._own_before(f"connection {answer.connection}", answer.inv),
            self._own_before(f"replica {answer.replica}", answer.inv),
        )
        minimum = named.get(answer.minimum, 0)
        floor = max(before, own, minimum)
        # Each span of positions that fits goes on until a record changes; what fits and ends
        # below the floor cannot be it.
        spans = _spans(answer, fitting, records, high)
        reached = next((max(first, floor) for first, last in spans if last >= floor), None)
        if reached is not None:
            self._reached[answer.connection] = reached
            return
        what = f"{answer.request.what} of {answer.inv:.3f} at {answer.replica} rests on"
        last = spans[-1][1]
        if last < before:
            found.is_wrong(7, f"{what} {last} at most, and its connection had reached {before}")
        elif last < own:
            found.is_wrong(7, f"{what} {last} at most, after an own change that is {own}")
        else:
            found.is_wrong(7, f"{what} {last} at most, and {minimum} was wanted")


def _spans(
    answer: Answer, fitting: list[int], records: RecordLog, high: int
) -> list[tuple[int, int]]:
    if answer.position:
        return [(fitting[0], fitting[0])]
    places = records.touched(answer.request.touches, fitting[0], high)
    ends = [*(place - 1 for place in places[1:]), high]
    starts = set(fitting)
    return [span for span in zip(places, ends, strict=True) if span[0] in starts]


def _owners(change: Change, replica_wide: bool) -> list[str]:
    owners = [f"connection {change.connection}"] if change.connection else []
    if replica_wide and change.replica:
        owners.append(f"replica {change.replica}")
    return owners


def _check_silence(answer: Answer, history: History, found: Judgement) -> None:
    """Rule 8."""
    mine = [f for f in history.faults if f.replica in ("", answer.replica)]
    if answer.told is None:
        what = "503" if answer.is_503 else answer.failure
        found.count(f"answers {what}")
        if not any(_overlaps(answer, fault) for fault in mine):
            found.is_wrong(
                8, f"{answer.request.what} of {answer.inv:.3f} at {answer.replica}: {what} without "
                "a fault"
            )  # fmt: skip
        return
    for fault in mine:
        silent_from = fault.begin + history.max_staleness + STOP_SECONDS
        if fault.cut and silent_from < answer.inv and answer.resp < fault.end:
            found.is_wrong(
                8,
                f"{answer.request.what} of {answer.inv:.3f} was answered by {answer.replica}, "
                f"which was cut off from {fault.begin:.3f} on",
            )


def _overlaps(answer: Answer, fault: Fault) -> bool:
    return answer.inv <= fault.end + BACK_SECONDS and answer.resp >= fault.begin
