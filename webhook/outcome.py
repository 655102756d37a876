"""What the authenticator says of a token."""

from dataclasses import dataclass, field

from webhook.claims import VerifiedClaims
from webhook.errors import TokenRefusedError


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token speaks for, as in the ``user`` of a TokenReview."""

    username: str
    uid: str
    groups: tuple[str, ...]
    extra: dict[str, list[str]] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Authenticated:
    """A token that is accepted.

    ``leeway_claims`` are the claims that only pass thanks to the leeway; ``stale_seconds`` is
    the time since ``warnafter``, None where that has not come.
    """

    identity: Identity
    audiences: tuple[str, ...]
    claims: VerifiedClaims
    leeway_claims: tuple[str, ...] = ()
    stale_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A token that is refused, and why."""

    error: TokenRefusedError


Outcome = Authenticated | Refused
