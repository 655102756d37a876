"""SkewReport: what ``GET /apis/leeway.dev/v1/skew`` answers."""

from collections.abc import Iterable
from typing import Final

import msgspec

from keys.messages import utc
from webhook.skew.tracker import ISSUED_AT, WINDOW_SECONDS, ClockState, Estimate
from webhook.skew.verdict import ClockVerdict, judge

API_VERSION: Final = "leeway.dev/v1"
KIND: Final = "SkewReport"
SKEW_PATH: Final = f"/apis/{API_VERSION}/skew"


class ClockEntry(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The clock of a node, or of an issuer if ``node`` is empty: an ``Estimate``, rounded."""

    issuer: str
    node: str
    state: ClockState
    ahead_seconds: float
    tokens: int
    seen_at: str


class SkewStatus(msgspec.Struct, frozen=True, rename="camel"):
    """The verdict and every clock: issuers, then nodes, those that differ most first."""

    observed_at: str
    window_seconds: int
    verdict: ClockVerdict
    clocks: tuple[ClockEntry, ...]


class SkewReport(msgspec.Struct, frozen=True, kw_only=True, rename={"api_version": "apiVersion"}):
    """The object."""

    kind: str = KIND
    api_version: str = API_VERSION
    status: SkewStatus


def report_of(estimates: Iterable[Estimate], now: float) -> SkewReport:
    """Return the report on estimates made at the time ``now`` (Unix seconds)."""
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
    rounded = round(verdict.server_ahead, 1) + 0.0
    verdict = msgspec.structs.replace(verdict, server_ahead=rounded)
    return SkewReport(status=SkewStatus(utc(now), WINDOW_SECONDS, verdict, tuple(clocks)))


def _place(entry: Estimate) -> tuple[bool, bool, int, str, str]:
    unknown = entry.state is ClockState.UNKNOWN
    # In whole seconds, so that clocks that agree are sorted by name.
    return bool(entry.node), unknown, -abs(round(entry.ahead)), entry.node, entry.issuer
