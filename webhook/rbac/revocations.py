"""Revocations of tokens: what writes one, and how long it is kept.

``revoke_jti``, ``revoke_subject`` and ``tidy`` return the records to write, for
``AuthStore.change``; ``AuthStore.find_revocation`` returns the one that concerns a token.

Invariants:

1. A revocation is kept until the last token that it concerns has expired, by the longest lifetime
   that was granted before it. Settings that become shorter later do not shorten it, and an issuer
   that is trusted later extends it.
2. No revocation undoes another one: of two, the later second and the later end count.
3. A clock that is a year behind when a revocation is written, a year ahead when others are
   deleted, or both, makes no revoked token valid once it is right.
4. A revocation of a subject covers the tokens of every signer whose clock is ahead of that of the
   revoker by less than the allowance. Until its own clock is past that, a signer issues no token
   to the subject, since that would be revoked already.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from math import ceil, inf
from typing import Final

from webhook.rbac import changes
from webhook.rbac.batches import Batches, batch
from webhook.rbac.errors import UserNotFoundError
from webhook.rbac.records import (
    REVOKED_JTI,
    REVOKED_SUBJECT,
    Lifetime,
    Record,
    Revocation,
    lifetime_record,
    meta_record,
    revocation_record,
    user_record,
)
from webhook.rbac.state import AuthState

MARGIN_SECONDS: Final = 3600
"""Added to every lifetime: for the leeways of ``iat`` and ``exp``, at most 300 s each, and for
servers that still drain with earlier settings."""
FORGET_SECONDS: Final = 2 * 366 * 24 * 3600
"""How long a revocation is kept after its ``until`` (invariant 3)."""
CLOCK_SECONDS: Final = 5.0
"""By how much the clocks of replicas may differ."""
_TIDIED_PER_CHANGE: Final = 16


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """The longest lifetimes of tokens under the present settings, in seconds.

    ``own`` is for tokens signed here, ``foreign`` for those of trusted issuers: infinite where
    nothing limits it, 0 without trusted issuers. ``ahead`` is how far in the future the ``iat`` of
    an accepted token of any issuer may be.
    """

    own: float
    foreign: float = 0.0
    ahead: float = 0.0


def revoke_jti(state: AuthState, jti: str, lifetimes: Lifetimes, now: float) -> list[Record]:
    """Revoke the token with a ``jti``; ``now`` is in Unix seconds."""
    return [*_revoking(state, REVOKED_JTI, jti, lifetimes, now)]


def revoke_subject(
    state: AuthState, subject: str, lifetimes: Lifetimes, now: float, *, is_account: bool
) -> list[Record]:
    """Revoke every token of a subject that was issued up to ``now`` (Unix seconds).

    With ``is_account`` those of the service account with that user name, by a signer whose clock
    may be ahead by ``lifetimes.ahead`` (invariant 4); and the auth tokens of the user of that name.
    For auth tokens no revocation is stored: the simple ones are deleted, and the user's next
    generation makes the others stale. Raises UserNotFoundError where there is neither.
    """
    user = state.users.get(subject)
    if user is None and not is_account:
        raise UserNotFoundError
    records: list[Record] = []
    if is_account:
        # Tokens of a signer whose clock is ahead are in use already.
        records += _revoking(
            state, REVOKED_SUBJECT, subject, lifetimes, ceil(now + lifetimes.ahead)
        )
    if user is None:
        return records
    meta = state.meta.bumped()
    records += [user_record(replace(user, generation=meta.revision)), meta_record(meta)]
    return changes.without_tokens(state, subject, records)


def blocked_until(state: AuthState, subject: str, now: float) -> float:
    """Return when (Unix seconds) a token of a subject will not be revoked as soon as it is issued.

    It is 0.0 if one that is issued ``now`` is not. Invariant 4.
    """
    revocation = state.revoked_subjects.get(subject)
    # The `iat` of a token is a whole second.
    return revocation.before + 1.0 if revocation and int(now) <= revocation.before else 0.0


def allowance(leeway: float, max_staleness: float | None = None) -> float:
    """Return the allowance of invariant 4 in seconds: the leeway of ``iat``, at least.

    With a store that replicas share, whose clocks may differ by CLOCK_SECONDS, a signer may also
    not know of the revocation for ``max_staleness``.
    """
    return leeway if max_staleness is None else max(leeway, max_staleness + CLOCK_SECONDS)


def tidy(state: AuthState, lifetimes: Lifetimes, now: float) -> list[Record]:
    """Record how long tokens live from ``now`` (Unix seconds) on, and delete what is over.

    To be called with the settings of a server that starts.
    """
    cleaned = chain(
        _noted(state, lifetimes, now), _extended(state, lifetimes, now), _forgotten(state, now)
    )
    return Batches(None, batch(cleaned))


def _revoking(
    state: AuthState, what: str, name: str, lifetimes: Lifetimes, now: float
) -> Iterator[Record]:
    noted = state.lifetime
    # Invariant 1: the longest lifetime of any token that may exist.
    longest = max(lifetimes.own, lifetimes.foreign, noted.seconds)
    revocation = Revocation(int(now), _end(max(now + longest, noted.earlier_until)))
    before = _revoked(state, what).get(name)
    if before is not None:
        # Invariant 2.
        revocation = Revocation(
            max(revocation.before, before.before), max(revocation.until, before.until)
        )
    yield revocation_record(what, name, revocation)
    # Only among the oldest, so that the cost does not grow with the number of revocations.
    yield from _forgotten(state, now, at_most=_TIDIED_PER_CHANGE, but=(what, name))
    # Only `tidy` makes it shorter: this may be a command with other settings than the server's.
    if lifetimes.own > noted.seconds:
        yield lifetime_record(Lifetime(lifetimes.own, noted.earlier_until))


def _noted(state: AuthState, lifetimes: Lifetimes, now: float) -> Iterator[Record]:
    noted = state.lifetime
    if lifetimes.own > noted.seconds:
        yield lifetime_record(Lifetime(lifetimes.own, noted.earlier_until))
    elif lifetimes.own < noted.seconds:
        # Invariant 1: tokens with the longer lifetime exist until then.
        until = max(noted.earlier_until, now + noted.seconds)
        yield lifetime_record(Lifetime(lifetimes.own, until))


def _extended(state: AuthState, lifetimes: Lifetimes, now: float) -> Iterator[Record]:
    for what in (REVOKED_JTI, REVOKED_SUBJECT):
        for name, revocation in _revoked(state, what).items():
            until = _end(revocation.before + lifetimes.foreign)
            if revocation.until < until and not _is_forgotten(revocation, now):
                yield revocation_record(what, name, Revocation(revocation.before, until))


def _forgotten(
    state: AuthState,
    now: float,
    at_most: int | None = None,
    but: tuple[str, str] | None = None,
) -> Iterator[Record]:
    for what in (REVOKED_JTI, REVOKED_SUBJECT):
        for name, revocation in islice(_revoked(state, what).items(), at_most):
            if _is_forgotten(revocation, now) and (what, name) != but:
                yield revocation_record(what, name, None)


def _is_forgotten(revocation: Revocation, now: float) -> bool:
    # Invariant 3.
    return now > revocation.until + FORGET_SECONDS


def _revoked(state: AuthState, what: str) -> dict[str, Revocation]:
    return state.revoked_jtis if what == REVOKED_JTI else state.revoked_subjects


def _end(seconds: float) -> float:
    return inf if seconds == inf else float(ceil(seconds + MARGIN_SECONDS))
