"""The keys of one issuer and what each of them may be used for.

Invariants:

1. Of a keyring's keys at most one is active, and only the active one signs.
2. A pending key is published but neither signs nor verifies; a retired one does nothing.
3. A keyring never changes; a step returns a new one. ``keys.rotation`` knows when it is safe.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from keys.errors import KeyScheduleError
from keys.jwk import VerificationKey
from keys.jws import SigningKey


class KeyState(StrEnum):
    """What a key is used for; the values are those of the schedule file."""

    PENDING = "pending"
    ACTIVE = "active"
    VERIFY_ONLY = "verify-only"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class ScheduledKey:
    """A key, its state, and when (Unix seconds) it entered that state.

    ``signing_key`` is None where only the public key is held, or where it is no longer needed.
    ``until`` (Unix seconds) is when the last token that it has signed here has expired; None where
    nothing tells.
    """

    verification_key: VerificationKey
    signing_key: SigningKey | None
    state: KeyState
    since: int
    until: int | None = None

    @property
    def kid(self) -> str:
        """The name of the key."""
        return self.verification_key.kid


@dataclass(frozen=True, slots=True)
class Keyring:
    """The scheduled keys of one issuer, in the order in which they came.

    ``clock`` is the latest moment (Unix seconds) that somebody who keeps the keys has seen.
    """

    keys: tuple[ScheduledKey, ...] = ()
    clock: int = 0

    def __post_init__(self) -> None:
        kids = [key.kid for key in self.keys]
        if len(set(kids)) != len(kids):
            raise KeyScheduleError("two signing keys have the same kid; remove one of them")
        active = [key for key in self.keys if key.state is KeyState.ACTIVE]
        if len(active) > 1:
            raise KeyScheduleError(
                f"{len(active)} signing keys are active, one is allowed; "
                "make the others verify-only in schedule.json"
            )
        if active and active[0].signing_key is None:
            raise KeyScheduleError(
                f"the active key {active[0].kid} has no private key to sign with"
            )

    @property
    def active(self) -> ScheduledKey | None:
        """The key that signs."""
        return next((key for key in self.keys if key.state is KeyState.ACTIVE), None)

    def signing_key(self) -> SigningKey:
        """Return the active key. Raises KeyScheduleError where there is none."""
        active = self.active
        if active is None or active.signing_key is None:
            raise KeyScheduleError("no signing key is active; make one with `leeway keys generate`")
        return active.signing_key

    def key(self, kid: str) -> ScheduledKey:
        """Return the key of a name. Raises KeyScheduleError where there is none."""
        for key in self.keys:
            if key.kid == kid:
                return key
        raise KeyScheduleError(f"there is no key {kid[:64]!r}; `leeway keys list` shows all")

    def verification_keys(self) -> tuple[VerificationKey, ...]:
        """Return the keys whose signatures count: the active one and those that verify only."""
        states = (KeyState.ACTIVE, KeyState.VERIFY_ONLY)
        return tuple(key.verification_key for key in self.keys if key.state in states)

    def published_keys(self) -> tuple[VerificationKey, ...]:
        """Return the keys of the JWKS: the active one first, then every other not retired."""
        published = [key for key in self.keys if key.state is not KeyState.RETIRED]
        published.sort(key=lambda key: key.state is not KeyState.ACTIVE)
        return tuple(key.verification_key for key in published)

    def with_new_key(self, key: SigningKey, now: int) -> "Keyring":
        """Add a key at its end: active where none is, else pending."""
        state = KeyState.PENDING if self.active else KeyState.ACTIVE
        moment = max(now, self.clock)
        added = ScheduledKey(key.verification_key, key, state, moment)
        return replace(self, keys=(*self.keys, added), clock=moment)
