"""Estimates how far another server's clock is ahead of this one, from its ``Date`` headers.

``Date`` has whole seconds (RFC 9110 section 6.6.1), so a response shows only that at some moment
between request and response the other clock was between that time and a second later. Several
responses narrow this down, as in NTP's intersection (RFC 5905 section 11.2.1). Times are Unix
seconds.

>>> estimate_offset([Sample("Thu, 01 Jan 1970 00:01:00 GMT", 30.0, 30.25)])
Offset(ahead=30.375, uncertainty=0.625)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from webhook.doctor.findings import Verdict, failure, ok, warning
from webhook.token.claims import ClockLeeway

FIX: Final = "chronyc makestep   # on the machine whose clock is wrong; `date -u` on both tells"


class Sample(NamedTuple):
    """A response: its Date header, and the times of the request and the response."""

    date: str
    sent: float
    received: float


@dataclass(frozen=True, slots=True)
class Offset:
    """By how many seconds the other clock is ahead, plus or minus the uncertainty."""

    ahead: float
    uncertainty: float


def estimate_offset(samples: Iterable[Sample]) -> Offset | None:
    """Return the offset that agrees with all samples, None if none has a date.

    If they disagree, because a clock was set meanwhile or a date came from a cache, the sample with
    the shortest round trip decides.
    """
    ranges = []
    for sample in samples:
        try:
            date = parsedate_to_datetime(sample.date).replace(tzinfo=UTC).timestamp()
        except (ValueError, OverflowError):
            continue
        ranges.append((date - sample.received, date + 1 - sample.sent))
    if not ranges:
        return None
    low, high = max(low for low, _ in ranges), min(high for _, high in ranges)
    if low > high:
        low, high = min(ranges, key=lambda found: found[1] - found[0])
    return Offset((low + high) / 2, (high - low) / 2)


def check_offset(offset: Offset | None, name: str, leeway: ClockLeeway) -> Verdict:
    """Compare an offset with the leeway: a failure beyond it, a warning beyond half of it.

    A server that is ahead signs tokens that are not valid yet here; one that is behind sends tokens
    that have expired here.
    """
    if offset is None:
        fix = "give the URL of the API server itself with --api-server"
        return failure(f"{name} answers without a Date header", fix)
    is_ahead = offset.ahead > 0
    allowed = min(leeway.not_before, leeway.issued_at) if is_ahead else leeway.expiry
    certain = max(0.0, abs(offset.ahead) - offset.uncertainty)
    word = "ahead of" if is_ahead else "behind"
    finding = (
        f"the clock of {name} is {abs(offset.ahead):.1f}s {word} this one "
        f"(± {offset.uncertainty:.1f}s, leeway {allowed:g}s)"
    )
    if certain > allowed:
        return failure(finding, FIX)
    if certain > allowed / 2:
        return warning(finding, FIX)
    return ok(finding)
