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
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil, inf
from typing import Final

from webhook.rbac.errors import UserNotFoundError
from webhook.rbac.records import (
    REVOKED_JTI,
    REVOKED_SUBJECT,
    AuthMeta,
    Lifetime,
    Record,
    Revocation,
    lifetime_record,
    meta_record,
    revocation_record,
    token_record,
    user_record,
)
from webhook.rbac.state import AuthState

MARGIN_SECONDS: Final = 3600
"""Added to every lifetime: for the leeways of ``iat`` and ``exp``, at most 300 s each, and for
servers that still drain with earlier settings."""
FORGET_SECONDS: Final = 2 * 366 * 24 * 3600
"""How long a revocation is kept after its ``until`` (invariant 3)."""
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
    may be ahead by ``lifetimes.ahead``; and the auth tokens of the user of that name. For auth
    tokens no revocation is stored: the simple ones are deleted, and the user's next generation
    makes the others stale. Raises UserNotFoundError where there is neither.
    """
    user = state.users.get(subject)
    if user is None and not is_account:
        raise UserNotFoundError
    records: list[Record] = []
    if is_account:
        # Tokens of a signer whose clock is ahead are in use already.
        records += _revoking(state, REVOKED_SUBJECT, subject, lifetimes, now + lifetimes.ahead)
    if user is not None:
        meta = AuthMeta(state.meta.enabled, state.meta.revision + 1)
        records.append(user_record(replace(user, generation=meta.revision)))
        records += [token_record(d, None) for d in state.tokens_of_user.get(subject, ())]
        records.append(meta_record(meta))
    return records


def tidy(state: AuthState, lifetimes: Lifetimes, now: float) -> list[Record]:
    """Record how long tokens live from ``now`` (Unix seconds) on, and delete what is over.

    To be called with the settings of a server that starts.
    """
    return [
        *_noted(state, lifetimes, now),
        *_extended(state, lifetimes, now),
        *_forgotten(state, now),
    ]


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
    # Only among the oldest, so that the cost does not grow with the number of revocations.
    yield from _forgotten(state, now, at_most=_TIDIED_PER_CHANGE)
    # After those, since an earlier one of the same name may be among them.
    yield revocation_record(what, name, revocation)
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


def _forgotten(state: AuthState, now: float, at_most: int | None = None) -> Iterator[Record]:
    for what in (REVOKED_JTI, REVOKED_SUBJECT):
        for name, revocation in islice(_revoked(state, what).items(), at_most):
            if _is_forgotten(revocation, now):
                yield revocation_record(what, name, None)


def _is_forgotten(revocation: Revocation, now: float) -> bool:
    # Invariant 3.
    return now > revocation.until + FORGET_SECONDS


def _revoked(state: AuthState, what: str) -> dict[str, Revocation]:
    return state.revoked_jtis if what == REVOKED_JTI else state.revoked_subjects


def _end(seconds: float) -> float:
    return inf if seconds == inf else float(ceil(seconds + MARGIN_SECONDS))
