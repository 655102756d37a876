"""What the authenticator says of a token."""

import msgspec

from webhook.claims import Claims
from webhook.errors import TokenRefusedError


class Identity(msgspec.Struct, frozen=True, gc=False):
    """Who a token speaks for, as in the ``user`` of a TokenReview."""

    username: str
    uid: str
    groups: tuple[str, ...]
    extra: dict[str, list[str]]


class Authenticated(msgspec.Struct, frozen=True, gc=False):
    """A token that is accepted.

    ``leeway_claims`` are the claims that only pass thanks to the leeway; ``stale_seconds`` is
    the time since ``warnafter``, None where that has not come.
    """

    identity: Identity
    audiences: tuple[str, ...]
    claims: Claims
    leeway_claims: tuple[str, ...] = ()
    stale_seconds: int | None = None


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A token that is refused, and why."""

    error: TokenRefusedError


Outcome = Authenticated | Refused
