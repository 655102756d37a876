"""Rules 9 to 11: signing keys, simple tokens, and whether a run shows anything at all.

9. At most one key is active in each state. A token's key is active in some state from 300 s before
   ``lo`` of its request until ``hi``; it verifies everywhere until it expires unless it is revoked;
   a JWKS lists each key that signs within ``max_age`` after it.
10. A simple token that is accepted has been idle for its lifetime at most, but for clocks; one that
    is refused has ended, has been idle for half of it, or is in the last seconds of its life.
11. A run has enough of what the rules above are about.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .history import History, Judgement
from .history_log import Order

KEYRING_SECONDS = 300.0
WANTED: Mapping[str, int] = {
    "answers within max_staleness after a change of their subject": 100,
    "unknown": 20,
    "unknown and applied": 5,
    "unknown and not applied": 5,
    "fence": 20,
}
RELOADS_WANTED = 5


@dataclass(frozen=True, slots=True)
class KeyState:
    """The keys from a position of the log on."""

    position: int
    active: frozenset[str]


@dataclass(frozen=True, slots=True)
class Signed:
    """A token that a replica has signed, and how it was reviewed afterwards."""

    kid: str
    inv: float
    resp: float
    refused_at: Sequence[float] = ()
    """When a review has refused it although it was neither revoked nor expired."""


@dataclass(frozen=True, slots=True)
class Published:
    """A JWKS that a replica has served."""

    inv: float
    resp: float
    kids: frozenset[str]
    replica: str = ""


@dataclass(slots=True)
class KeyHistory:
    """What a run has recorded about signing keys."""

    states: list[KeyState] = field(default_factory=list)
    signed: list[Signed] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    max_age: float = 3600.0


def check_keys(keys: KeyHistory, order: Order, max_staleness: float, found: Judgement) -> None:
    """Check rule 9."""
    for state in keys.states:
        if len(state.active) > 1:
            found.is_wrong(9, f"{len(state.active)} keys are active in {state.position}")
    positions = [state.position for state in keys.states]
    for token in keys.signed:
        low = order.acknowledged_before(token.inv - max_staleness - KEYRING_SECONDS)
        high = order.sent_before(token.resp)
        first = max(bisect_right(positions, low) - 1, 0)
        seen = keys.states[first : bisect_right(positions, high)]
        if not any(token.kid in state.active for state in seen):
            found.is_wrong(9, f"a token of {token.inv:.3f} was signed by {token.kid}, not active")
        if token.refused_at:
            found.is_wrong(9, f"a token of {token.kid} was refused at {token.refused_at[0]:.3f}")
    signers = sorted(keys.signed, key=lambda token: token.inv)
    invs = [token.inv for token in signers]
    for document in keys.published:
        first = bisect_left(invs, document.resp)
        last = bisect_right(invs, document.resp + keys.max_age)
        missing = {token.kid for token in signers[first:last]} - document.kids
        if missing:
            found.is_wrong(
                9, f"the JWKS of {document.inv:.3f} at {document.replica} lacks {sorted(missing)}, "
                "which signs while it is cached"
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class TokenUse:
    """A request with a simple token: ``issued`` and ``last_used`` are of requests before it."""

    inv: float
    resp: float
    accepted: bool
    issued: float
    last_used: float
    stored_used: float
    """The last use that was in the store when the request was sent."""
    ended: bool = False
    """Whether it was revoked, or its user's password changed, before the request's end."""


@dataclass(frozen=True, slots=True)
class TokenBounds:
    """L, w, m and s of the store's simple tokens, in seconds."""

    ttl: float
    written_within: float
    max_staleness: float
    clocks: float = 0.0


def check_tokens(uses: Sequence[TokenUse], bounds: TokenBounds, found: Judgement) -> None:
    """Check rule 10."""
    delay = bounds.written_within + bounds.max_staleness + bounds.clocks
    for use in uses:
        idle = use.inv - use.last_used
        if use.accepted:
            if idle > bounds.ttl + bounds.clocks:
                found.is_wrong(10, f"a simple token was accepted after {idle:.1f} s without use")
            continue
        is_late = use.resp >= use.stored_used + bounds.ttl - delay
        if not (use.ended or idle >= bounds.ttl / 2 - delay or is_late):
            found.is_wrong(10, f"a simple token was refused after {idle:.1f} s without use")


def check_enough(history: History, found: Judgement, *, wanted: Mapping[str, int] = WANTED) -> None:
    """Check rule 11; ``wanted`` is the least number of each thing that is counted."""
    counts = found.counts
    unknown = counts.get("unknown and applied", 0) + counts.get("unknown and not applied", 0)
    counts["unknown"] = unknown
    for what, least in wanted.items():
        number = counts.get(what, 0) + history.counted.get(what, 0)
        if number < least:
            found.is_wrong(11, f"{what}: {number}, and {least} are wanted")
    for what, number in history.counted.items():
        if what.startswith("reload ") and number < RELOADS_WANTED:
            found.is_wrong(11, f"{what}: {number}, and {RELOADS_WANTED} are wanted")
