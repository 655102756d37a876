"""SkewReport: what ``GET /apis/leeway.dev/v1/skew`` answers."""

from collections.abc import Iterable
from typing import Final

import msgspec

from keys.messages import utc
from webhook.skew.tracker import ISSUED_AT, WINDOW_SECONDS, ClockState, Estimate
from webhook.skew.verdict import VerdictKind, judge

API_VERSION: Final = "leeway.dev/v1"
KIND: Final = "SkewReport"
SKEW_PATH: Final = f"/apis/{API_VERSION}/skew"


class VerdictEntry(msgspec.Struct, frozen=True, rename="camel"):
    """Whose clock is wrong. Source of the fields: ``webhook.skew.verdict.Verdict``."""

    kind: VerdictKind
    server_ahead_seconds: float
    message: str
    advice: str


class ClockEntry(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One clock, of a node where ``node`` is not empty. See ``webhook.skew.tracker.Estimate``."""

    issuer: str
    node: str
    state: ClockState
    ahead_seconds: float
    tokens: int
    seen_at: str


class SkewStatus(msgspec.Struct, frozen=True, rename="camel"):
    """The verdict, and every clock: issuers first, then nodes, those that differ most first."""

    observed_at: str
    window_seconds: int
    verdict: VerdictEntry
    clocks: tuple[ClockEntry, ...]


class SkewReport(msgspec.Struct, frozen=True, kw_only=True, rename={"api_version": "apiVersion"}):
    """The object itself."""

    kind: str = KIND
    api_version: str = API_VERSION
    status: SkewStatus


def report_of(estimates: Iterable[Estimate], now: float) -> SkewReport:
    """Make the report of the estimates at the time ``now``."""
    seen = [entry for entry in estimates if entry.claim == ISSUED_AT]
    verdict = judge(seen)
    clocks = [
        ClockEntry(
            issuer=entry.issuer,
            node=entry.node,
            state=entry.state,
            ahead_seconds=round(entry.ahead, 1) + 0.0,
            tokens=entry.tokens,
            seen_at=utc(entry.at),
        )
        for entry in sorted(seen, key=_place)
    ]
    # Adding 0.0 makes -0.0 a 0.0.
    server_ahead = round(verdict.server_ahead, 1) + 0.0
    shown = VerdictEntry(verdict.kind, server_ahead, verdict.message, verdict.advice)
    return SkewReport(status=SkewStatus(utc(now), WINDOW_SECONDS, shown, tuple(clocks)))


def _place(entry: Estimate) -> tuple[bool, bool, int, str, str]:
    unknown = entry.state is ClockState.UNKNOWN
    # In whole seconds, so that clocks that agree stand in the order of their names.
    return bool(entry.node), unknown, -abs(round(entry.ahead)), entry.node, entry.issuer
