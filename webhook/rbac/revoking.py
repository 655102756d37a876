"""What a revocation writes, how long it is kept, and when it is forgotten; decided on one state.

Each function returns the change, or None where nothing changes. Nothing is written here.

Invariants:

1. A revocation is kept until the last token that it concerns has expired, by the longest lifetime
   that was granted before it. Settings that become shorter later do not shorten it, and an issuer
   that is trusted later makes it longer.
2. No revocation takes another one back: of two, the later second and the later end count.
3. A clock that is a year behind when a revocation is written, or a year ahead when others are
   forgotten, or both, makes no token good again once it is right.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil, inf
from typing import Final

from webhook.rbac.errors import UserNotFoundError
from webhook.rbac.model import User
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
from webhook.rbac.state import State

MARGIN_SECONDS: Final = 3600
"""On top of every lifetime: for the leeways of ``iat`` and ``exp``, 300 s each at most, and for
servers with earlier settings that are still draining."""
FORGET_SECONDS: Final = 2 * 366 * 24 * 3600
"""After its end a revocation stays for so long (invariant 3)."""
_LOOKED_AT: Final = 16


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long tokens live at most under the settings in force, in seconds.

    ``own`` is of tokens signed here, ``foreign`` of those of trusted issuers: infinite where
    nothing limits it, 0 without trusted issuers. ``ahead`` is how far the ``iat`` of an accepted
    token may lie ahead, of any issuer.
    """

    own: float
    foreign: float = 0.0
    ahead: float = 0.0


def revoke_jti(state: State, jti: str, lifetimes: Lifetimes, now: float) -> list[Record]:
    """Revoke the token with a ``jti``; ``now`` is in Unix seconds."""
    return [*_revoking(state, REVOKED_JTI, jti, lifetimes, now)]


def revoke_subject(
    state: State, subject: str, lifetimes: Lifetimes, now: float, *, is_account: bool
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
        records += _logging_out(state, replace(user, generation=meta.revision))
        records.append(meta_record(meta))
    return records


def tidy(state: State, lifetimes: Lifetimes, now: float) -> list[Record]:
    """Record how long tokens live from ``now`` (Unix seconds) on, and delete what is over.

    To be called with the settings of a server that starts.
    """
    return [
        *_noted(state, lifetimes, now),
        *_extended(state, lifetimes, now),
        *_forgotten(state, now),
    ]


def _revoking(
    state: State, what: str, name: str, lifetimes: Lifetimes, now: float
) -> Iterator[Record]:
    noted = state.lifetime
    longest = max(lifetimes.own, lifetimes.foreign, noted.seconds)
    revocation = Revocation(int(now), _end(max(now + longest, noted.earlier_until)))
    before = _revoked(state, what).get(name)
    if before is not None:
        revocation = Revocation(
            max(revocation.before, before.before), max(revocation.until, before.until)
        )
    # Of the oldest only: a revocation costs the same however many there are.
    yield from _forgotten(state, now, at_most=_LOOKED_AT)
    # After it: it may have been among those.
    yield revocation_record(what, name, revocation)
    # Only a server's start makes it less: this may be a command with settings of its own.
    if lifetimes.own > noted.seconds:
        yield lifetime_record(Lifetime(lifetimes.own, noted.earlier_until))


def _logging_out(state: State, user: User) -> Iterator[Record]:
    yield user_record(user)
    for digest in state.tokens_of_user.get(user.name, ()):
        yield token_record(digest, None)


def _noted(state: State, lifetimes: Lifetimes, now: float) -> Iterator[Record]:
    noted = state.lifetime
    if lifetimes.own > noted.seconds:
        yield lifetime_record(Lifetime(lifetimes.own, noted.earlier_until))
    elif lifetimes.own < noted.seconds:
        until = max(noted.earlier_until, now + noted.seconds)
        yield lifetime_record(Lifetime(lifetimes.own, until))


def _extended(state: State, lifetimes: Lifetimes, now: float) -> Iterator[Record]:
    for what in (REVOKED_JTI, REVOKED_SUBJECT):
        for name, revocation in _revoked(state, what).items():
            until = _end(revocation.before + lifetimes.foreign)
            if revocation.until < until and not _is_forgotten(revocation, now):
                yield revocation_record(what, name, Revocation(revocation.before, until))


def _forgotten(state: State, now: float, at_most: int | None = None) -> Iterator[Record]:
    for what in (REVOKED_JTI, REVOKED_SUBJECT):
        for name, revocation in islice(_revoked(state, what).items(), at_most):
            if _is_forgotten(revocation, now):
                yield revocation_record(what, name, None)


def _is_forgotten(revocation: Revocation, now: float) -> bool:
    return now > revocation.until + FORGET_SECONDS


def _revoked(state: State, what: str) -> dict[str, Revocation]:
    return state.revoked_jtis if what == REVOKED_JTI else state.revoked_subjects


def _end(seconds: float) -> float:
    return inf if seconds == inf else float(ceil(seconds + MARGIN_SECONDS))
