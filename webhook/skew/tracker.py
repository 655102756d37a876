"""Estimates how far signers' clocks are ahead of this server's.

A token cannot be seen before it was issued. Each token is therefore a lower bound, and its
signature is the only thing to trust: the signer's clock is ahead of this server's by at least
``iat - now``. The largest bound is that of the token that arrived fastest, and it is close to the
truth as soon as one token is used while it is new. There is one for each issuer and each node.

It cannot be proved that a clock is *behind*: a token is old because the clock that stamped it is
slow, or because it has been in use for an hour. In the second case, however, the ages at first use
are scattered over minutes. If the youngest of many tokens were all equally old when they were first
seen, their clock looks slow: see ``SlowClockRule``.

Invariants:

1. Only claims with a valid signature are counted, also those of a token that a clock check then
   refuses.
2. No bound exceeds the true value, whichever tokens are seen, and however often.
3. Tokens are forgotten after the window, and all at once by ``forget``.
4. Memory is bounded by the number of nodes, and for each node. The configuration bounds issuers.

Times are Unix seconds; ``ahead`` is in seconds, negative for a clock that is behind.

>>> from webhook.token.claims import ObjectReference
>>> tracker = SkewTracker()
>>> claims = Claims("https://a.example", "", (), "", ObjectReference("sa"), issued_at=1090)
>>> tracker.see(claims, now=1000.0, token=1)
>>> (found,) = estimate([tracker.snapshot(1001.0)], 1001.0)
>>> found.state.value, found.ahead
('Ahead', 90.0)
"""

from bisect import insort
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from webhook.token.claims import Claims

BUCKET_SECONDS: Final = 300
BUCKETS: Final = 3
WINDOW_SECONDS: Final = BUCKET_SECONDS * BUCKETS
"""Tokens are forgotten after this time, or up to one bucket earlier."""
MAX_NODES: Final = 1000
IN_STEP_SECONDS: Final = 5.0
"""Clocks that differ by no more than this are in step."""
ISSUED_AT: Final = "iat"
NOT_BEFORE: Final = "nbf"
# Below every bound. JSON has no infinity.
_NO_BOUND: Final = -1e18


class SlowClockRule:
    """When a clock looks behind.

    At least ``TOKENS`` tokens had the same age, within ``IN_STEP_SECONDS``, when they were first
    seen, and no token was younger. That age is at least ``SECONDS``, because a program can need
    some time to start before it uses its token.
    """

    TOKENS: Final = 10
    SECONDS: Final = 30.0


class Bucket(msgspec.Struct, array_like=True):
    """The tokens of a source in one slot of ``BUCKET_SECONDS``.

    ``ahead`` is the largest bound and ``at`` when it was seen; ``tokens`` is how many tokens were
    seen for the first time; ``freshest`` has the bound and the number of the youngest of them, the
    oldest first.
    """

    slot: int
    ahead: float = _NO_BOUND
    at: float = 0.0
    tokens: int = 0
    freshest: list[tuple[float, int]] = []


class Source(msgspec.Struct, array_like=True):
    """A claim of the tokens of an issuer, or of one of its nodes if ``node`` is not empty."""

    issuer: str
    node: str
    claim: str
    buckets: list[Bucket]


class _Issuer:
    __slots__ = ("issued_at", "nodes", "not_before")

    def __init__(self, url: str, slot: int) -> None:
        self.issued_at = Source(url, "", ISSUED_AT, [Bucket(slot)])
        self.not_before = Source(url, "", NOT_BEFORE, [Bucket(slot)])
        self.nodes: dict[str, Source] = {}


class SkewTracker:
    """Tracks the tokens that one worker verifies. Belongs to one event loop.

    Beyond ``max_nodes``, the nodes whose clock is not ahead are dropped first, and of these the
    ones that were not seen for longest. ``changed`` is whether there is news since ``snapshot``.
    """

    def __init__(self, max_nodes: int = MAX_NODES) -> None:
        self.changed = False
        self._max_nodes = max_nodes
        self._node_count = 0
        self._issuers: dict[str, _Issuer] = {}
        self._slot = 0
        self._slot_start = self._slot_end = 0.0

    def see(self, claims: Claims, now: float, token: int | None = None) -> None:
        """Record claims whose signature is valid.

        ``token`` is a number that identifies a token which was not seen before.
        """
        issued_at, not_before = claims.issued_at, claims.not_before
        if issued_at is None:
            return
        if not self._slot_start <= now < self._slot_end:
            self._turn(now)
        issuer = self._issuers.get(claims.issuer)
        if issuer is None:
            issuer = self._issuers[claims.issuer] = _Issuer(claims.issuer, self._slot)
        # Most tokens were seen before and change nothing. The conditions are written out here,
        # because a call for each source would take most of the time.
        slot = self._slot
        ahead = issued_at - now  # Invariant 2: never above the truth.
        last = issuer.issued_at.buckets[-1]
        if token is not None or ahead > last.ahead or last.slot != slot:
            self._note(issuer.issued_at, ahead, now, token)
        if not_before is not None:
            last = issuer.not_before.buckets[-1]
            if token is not None or not_before - now > last.ahead or last.slot != slot:
                self._note(issuer.not_before, not_before - now, now, token)
        if claims.node is not None:
            name = claims.node.name
            node = issuer.nodes.get(name) or self._new_node(issuer, name)
            last = node.buckets[-1]
            if token is not None or ahead > last.ahead or last.slot != slot:
                self._note(node, ahead, now, token)

    def snapshot(self, now: float) -> bytes:
        """Render the state at the time ``now``, for ``estimate``."""
        self._turn(now)
        oldest = self._slot - BUCKETS
        sources = []
        for url, issuer in list(self._issuers.items()):
            for name, source in list(issuer.nodes.items()):
                if source.buckets[-1].slot <= oldest:
                    self._drop_node(issuer, name)
            if issuer.issued_at.buckets[-1].slot <= oldest:
                del self._issuers[url]
            else:
                sources += [issuer.issued_at, issuer.not_before, *issuer.nodes.values()]
        self.changed = False
        return msgspec.json.encode(sources)

    def forget(self) -> None:
        """Forget everything, because this server's own clock was set."""
        self._issuers.clear()
        self._node_count = 0
        self.changed = True

    def _note(self, source: Source, ahead: float, now: float, token: int | None) -> None:
        bucket = source.buckets[-1]
        if bucket.slot != self._slot:
            bucket = _bucket_of(source, self._slot)
        if ahead > bucket.ahead:
            bucket.ahead, bucket.at = ahead, now
            self.changed = True
        if token is None:
            return
        self.changed = True
        bucket.tokens += 1
        freshest = bucket.freshest
        if len(freshest) == SlowClockRule.TOKENS:
            if ahead <= freshest[0][0]:
                return
            del freshest[0]
        insort(freshest, (ahead, token))

    def _turn(self, now: float) -> None:
        self._slot = int(now // BUCKET_SECONDS)
        self._slot_start = float(self._slot * BUCKET_SECONDS)
        self._slot_end = self._slot_start + BUCKET_SECONDS

    def _new_node(self, issuer: _Issuer, name: str) -> Source:
        if self._node_count >= self._max_nodes:  # Invariant 4.
            self._make_room()
        source = Source(issuer.issued_at.issuer, name, ISSUED_AT, [Bucket(self._slot)])
        issuer.nodes[name] = source
        self._node_count += 1
        return source

    def _make_room(self) -> None:
        # A tenth at a time, so that not every token of a new node has to sort all nodes.
        def worth(entry: tuple[_Issuer, str]) -> tuple[bool, int]:
            bucket = entry[0].nodes[entry[1]].buckets[-1]
            return bucket.ahead > IN_STEP_SECONDS, bucket.slot

        nodes = [(issuer, name) for issuer in self._issuers.values() for name in issuer.nodes]
        for issuer, name in sorted(nodes, key=worth)[: max(1, len(nodes) // 10)]:
            self._drop_node(issuer, name)

    def _drop_node(self, issuer: _Issuer, name: str) -> None:
        del issuer.nodes[name]
        self._node_count -= 1


class ClockState(StrEnum):
    """The state of a clock, compared with this server's."""

    AHEAD = "Ahead"
    """By at least the estimate, because no token can come from the future."""
    BEHIND = "Behind"
    """By about the estimate, as it seems."""
    IN_STEP = "InStep"
    UNKNOWN = "Unknown"
    """No new token was seen. It is not behind by more than the estimate."""


class Estimate(msgspec.Struct, frozen=True):
    """How far a clock is ahead, by the tokens of an issuer or of one of its nodes.

    ``at`` is when the decisive token was seen; ``tokens`` is how many were seen for the first time
    in the window, where a token counts once in each worker that has seen it.
    """

    issuer: str
    node: str
    claim: str
    state: ClockState
    ahead: float
    at: float
    tokens: int


def estimate(snapshots: Iterable[bytes], now: float) -> list[Estimate]:
    """Estimate every clock from the snapshots of all workers, sorted by issuer, node and claim.

    Raises msgspec.MsgspecError for bytes that are not a snapshot.
    """
    slot = int(now // BUCKET_SECONDS)
    found: dict[tuple[str, str, str], list[Bucket]] = {}
    for snapshot in snapshots:
        for source in msgspec.json.decode(snapshot, type=list[Source]):
            live = [b for b in source.buckets if _is_live(b, slot)]
            if live:
                found.setdefault((source.issuer, source.node, source.claim), []).extend(live)
    return [_estimate_one(key, found[key]) for key in sorted(found)]


def _estimate_one(key: tuple[str, str, str], buckets: list[Bucket]) -> Estimate:
    best = max(buckets, key=lambda bucket: bucket.ahead)
    if best.ahead > IN_STEP_SECONDS:
        state = ClockState.AHEAD
    elif best.ahead >= -IN_STEP_SECONDS:
        state = ClockState.IN_STEP
    elif best.ahead <= -SlowClockRule.SECONDS and _looks_slow(buckets):
        state = ClockState.BEHIND
    else:
        state = ClockState.UNKNOWN
    return Estimate(*key, state, best.ahead, best.at, sum(bucket.tokens for bucket in buckets))


def _looks_slow(buckets: Iterable[Bucket]) -> bool:
    # Several workers can have seen the same token.
    ahead_of: dict[int, float] = {}
    for bucket in buckets:
        for ahead, token in bucket.freshest:
            ahead_of[token] = max(ahead, ahead_of.get(token, ahead))
    freshest = sorted(ahead_of.values(), reverse=True)[: SlowClockRule.TOKENS]
    return len(freshest) == SlowClockRule.TOKENS and freshest[0] - freshest[-1] <= IN_STEP_SECONDS


def _is_live(bucket: Bucket, slot: int) -> bool:
    # Invariant 3. A bucket without tokens has no bound. One from the future was made before this
    # server's clock was set back.
    return slot - BUCKETS < bucket.slot <= slot and bucket.ahead > _NO_BOUND


def _bucket_of(source: Source, slot: int) -> Bucket:
    """Return the bucket of a slot, and drop those outside the window."""
    source.buckets = [b for b in source.buckets if slot - BUCKETS < b.slot <= slot]
    if not source.buckets or source.buckets[-1].slot != slot:
        source.buckets.append(Bucket(slot))
    return source.buckets[-1]
