"""Decides whose clock is wrong, from the estimates of ``webhook.skew.tracker``.

The rules, in order:

1. This server's clock is wrong if at least ``MIN_SOURCES`` clocks are known, and more than half of
   them differ from it by more than ``IN_STEP_SECONDS``, and by the same within ``IN_STEP_SECONDS``.
   The clocks are those of the issuers. If too few issuers are known, they are those of all nodes,
   unless an issuer agrees with this server.
2. Otherwise the clocks that differ are wrong. If none is in step, and there are too few for rule 1,
   it is undecided whether they or this server's clock are wrong.

The clock of an issuer is the median of its nodes' if ``MIN_SOURCES`` of them are known, so that one
fast node does not make its issuer fast.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from statistics import median_low
from typing import Final

import msgspec

from webhook.skew.tracker import IN_STEP_SECONDS, ISSUED_AT, ClockState, Estimate

MIN_SOURCES: Final = 3
_NAMED: Final = 5
_COMPARE: Final = (
    "Run `date -u` there, on the API server that signed, and here; set the wrong clock right "
    "(chronyc makestep), and keep it right with chrony or ntpd."
)


class VerdictKind(StrEnum):
    """Whose clock is wrong."""

    NO_TOKENS = "NoTokens"
    UNKNOWN = "Unknown"
    """No token was new enough to compare clocks."""
    IN_STEP = "InStep"
    SIGNERS = "SignerClocks"
    SERVER = "ServerClock"
    UNDECIDED = "Undecided"
    """Either this server's clock or the others'."""

    @property
    def is_skewed(self) -> bool:
        """Whether a clock is wrong."""
        return self in (VerdictKind.SIGNERS, VerdictKind.SERVER, VerdictKind.UNDECIDED)


class ClockVerdict(msgspec.Struct, frozen=True):
    """Whose clock is wrong, a sentence about it, and what to do.

    ``server_ahead`` is by how many seconds this server's clock is ahead, 0 if it is not wrong.
    """

    kind: VerdictKind
    server_ahead: float = msgspec.field(name="serverAheadSeconds")
    message: str
    advice: str


class _Clock(msgspec.Struct, frozen=True):
    name: str
    issuer: str
    ahead: float
    is_guess: bool = False


def judge(estimates: Iterable[Estimate]) -> ClockVerdict:
    """Return whose clock is wrong, by the rules in the docstring of this module."""
    seen = [estimate for estimate in estimates if estimate.claim == ISSUED_AT]
    nodes = [_clock_of(e) for e in seen if e.node and e.state is not ClockState.UNKNOWN]
    issuers = _issuer_clocks(seen, nodes)
    if not seen:
        return ClockVerdict(
            VerdictKind.NO_TOKENS,
            0.0,
            "no token was seen in the last 15 minutes",
            "Ask again once tokens are in use.",
        )
    if not issuers and not nodes:
        return ClockVerdict(
            VerdictKind.UNKNOWN,
            0.0,
            "no token was new enough to compare clocks",
            "Ask again when a token has been made and used, within 15 minutes.",
        )
    # 1. This server's clock.
    kind, voters = "issuers", issuers
    if len(issuers) < MIN_SOURCES:
        kind, voters = "nodes", nodes
        if len(issuers) > 1 and any(abs(clock.ahead) <= IN_STEP_SECONDS for clock in issuers):
            voters = []
    shared = _same_skew(voters)
    if shared:
        return _server_verdict(kind, voters, shared, nodes)
    # 2. The clocks that differ.
    wrong = _wrong_clocks(issuers, nodes)
    if not wrong:
        return ClockVerdict(
            VerdictKind.IN_STEP,
            0.0,
            f"every clock that is known is within {IN_STEP_SECONDS:g} s of this server's",
            "Nothing needs to be done.",
        )
    text = _list(wrong)
    if len(voters) < MIN_SOURCES and not any(
        abs(clock.ahead) <= IN_STEP_SECONDS for clock in [*issuers, *nodes]
    ):
        return ClockVerdict(
            VerdictKind.UNDECIDED,
            0.0,
            f"{text}, or this server's clock is wrong by as much: too few clocks are known to say",
            _COMPARE,
        )
    return ClockVerdict(VerdictKind.SIGNERS, 0.0, text, _advice(wrong))


def _server_verdict(
    kind: str, voters: Sequence[_Clock], shared: Sequence[_Clock], nodes: Sequence[_Clock]
) -> ClockVerdict:
    skew = median_low([clock.ahead for clock in shared])
    where = "behind" if skew > 0 else "ahead"
    seems = "looks" if any(clock.is_guess for clock in shared) else "is"
    message = (
        f"this server's clock {seems} {where} by {abs(skew):.0f} s: "
        f"{len(shared)} of {len(voters)} {kind} differ from it by the same amount"
    )
    others = [
        _Clock(clock.name, clock.issuer, clock.ahead - skew)
        for clock in dict.fromkeys([*voters, *nodes])
        if abs(clock.ahead - skew) > IN_STEP_SECONDS
    ]
    if others:
        message += f"; apart from that, {_list(others)}"
    advice = (
        "Run `date -u` here and on an API server that signs; set the wrong clock right (chronyc "
        "makestep), and keep it right with chrony or ntpd."
    )
    if kind == "nodes":
        advice += " Where one API server signs for all of these nodes, it may be its clock instead."
    return ClockVerdict(VerdictKind.SERVER, -skew, message, advice)


def _same_skew(clocks: Sequence[_Clock]) -> Sequence[_Clock]:
    """Return the clocks that differ from this server's by the same, if they are the majority."""
    ordered = sorted(clocks, key=lambda clock: clock.ahead)
    largest: Sequence[_Clock] = ()
    first = 0
    for last, clock in enumerate(ordered):
        while clock.ahead - ordered[first].ahead > IN_STEP_SECONDS:
            first += 1
        if last + 1 - first > len(largest):
            largest = ordered[first : last + 1]
    if len(clocks) < MIN_SOURCES or 2 * len(largest) <= len(clocks):
        return ()
    skewed = abs(median_low([clock.ahead for clock in largest])) > IN_STEP_SECONDS
    return largest if skewed else ()


def _issuer_clocks(seen: Sequence[Estimate], nodes: Sequence[_Clock]) -> list[_Clock]:
    clocks = []
    for estimate in seen:
        if estimate.node:
            continue
        own = [node.ahead for node in nodes if node.issuer == estimate.issuer]
        if len(own) >= MIN_SOURCES:
            clocks.append(_Clock("", estimate.issuer, median_low(own)))
        elif estimate.state is not ClockState.UNKNOWN:
            clocks.append(_clock_of(estimate))
    return clocks


def _wrong_clocks(issuers: Sequence[_Clock], nodes: Sequence[_Clock]) -> list[_Clock]:
    """Return an issuer in place of most of its nodes, or single nodes; none appears twice."""
    wrong: list[_Clock] = []
    of_issuer = {clock.issuer: clock for clock in issuers}
    for url in dict.fromkeys(clock.issuer for clock in [*issuers, *nodes]):
        issuer = of_issuer.get(url)
        own = [node for node in nodes if node.issuer == url]
        skewed = [clock for clock in own if abs(clock.ahead) > IN_STEP_SECONDS]
        if issuer is not None and abs(issuer.ahead) > IN_STEP_SECONDS:
            # An issuer with few nodes is as far ahead as the fastest, so that node is named.
            told_by_node = any(abs(node.ahead - issuer.ahead) <= IN_STEP_SECONDS for node in own)
            if _same_skew(own):
                wrong.append(issuer)
                skewed = [n for n in skewed if abs(n.ahead - issuer.ahead) > IN_STEP_SECONDS]
            elif not told_by_node:
                wrong.append(issuer)
        wrong += skewed
    return wrong


def _clock_of(estimate: Estimate) -> _Clock:
    is_guess = estimate.state is ClockState.BEHIND
    return _Clock(estimate.node, estimate.issuer, estimate.ahead, is_guess)


def _list(clocks: Sequence[_Clock]) -> str:
    worst = sorted(clocks, key=lambda clock: -abs(clock.ahead))
    parts = [_describe(clock) for clock in worst[:_NAMED]]
    if len(worst) > _NAMED:
        parts.append(f"{len(worst) - _NAMED} more")
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]


def _describe(clock: _Clock) -> str:
    name = f"node {clock.name}" if clock.name else f"issuer {clock.issuer}"
    seems = "looks" if clock.is_guess else "is"
    where = "ahead" if clock.ahead > 0 else "behind"
    return f"{name} {seems} {where} by {abs(clock.ahead):.0f} s"


def _advice(wrong: Sequence[_Clock]) -> str:
    if any(clock.is_guess for clock in wrong):
        return (
            f"{_COMPARE} A clock looks behind if all new tokens are equally old when they are "
            "first used; so do programs that always wait equally long before they use theirs."
        )
    return _COMPARE
