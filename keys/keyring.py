"""The keys of one issuer and their states.

Invariants:

1. At most one key of a keyring is active, and only that key signs.
2. A pending key is published, but neither signs nor verifies; a retired key is not used at all.
3. A keyring is immutable; a step of ``keys.rotation`` returns a new one.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum

from keys.errors import KeyScheduleError, NotSigningError
from keys.jwk import VerificationKey
from keys.jws import SigningKey


class KeyState(StrEnum):
    """The use of a key; the values are those of the schedule."""

    PENDING = "pending"
    ACTIVE = "active"
    VERIFY_ONLY = "verify-only"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class ScheduledKey:
    """A key, its state, and since when (Unix seconds) it has that state.

    ``signing_key`` is None if only the public key is there. ``until`` (Unix seconds) is when the
    last token that the key has signed here expires, None if that is unknown. ``published`` (Unix
    seconds) is since when it can be fetched, None if that is ``since``.
    """

    verification_key: VerificationKey
    signing_key: SigningKey | None
    state: KeyState
    since: int
    until: int | None = None
    published: int | None = None

    @property
    def published_since(self) -> int:
        """Since when (Unix seconds) the key can be fetched, as far as that is known."""
        return self.since if self.published is None else self.published

    @property
    def kid(self) -> str:
        """The name of the key."""
        return self.verification_key.kid


@dataclass(frozen=True, slots=True)
class Keyring:
    """The scheduled keys of one issuer, in the order in which they were added.

    ``clock`` is the latest time (Unix seconds) at which the schedule was written. ``refusal`` is
    why nothing is signed, although a key may be active; empty if a key signs.
    """

    keys: tuple[ScheduledKey, ...] = ()
    clock: int = 0
    refusal: str = ""

    def __post_init__(self) -> None:
        kids = [key.kid for key in self.keys]
        if len(set(kids)) != len(kids):
            raise KeyScheduleError("two signing keys have the same kid; remove one of them")
        active = [key for key in self.keys if key.state is KeyState.ACTIVE]
        if len(active) > 1:  # Invariant 1.
            raise KeyScheduleError(
                f"{len(active)} signing keys are active, one is allowed; "
                "make the others verify-only in schedule.json"
            )
        if active and active[0].signing_key is None and not self.refusal:
            raise KeyScheduleError(
                f"the active key {active[0].kid} has no private key to sign with"
            )

    @property
    def active(self) -> ScheduledKey | None:
        """The key that signs."""
        return next((key for key in self.keys if key.state is KeyState.ACTIVE), None)

    def signing_key(self) -> SigningKey:
        """Return the active key. Raises NotSigningError if no key signs."""
        if self.refusal:
            raise NotSigningError(self.refusal)
        active = self.active
        if active is None or active.signing_key is None:
            raise NotSigningError("no signing key is active; make one with `leeway keys generate`")
        return active.signing_key

    def key(self, kid: str) -> ScheduledKey:
        """Return the key with a kid. Raises KeyScheduleError if no key is."""
        for key in self.keys:
            if key.kid == kid:
                return key
        raise KeyScheduleError(f"there is no key {kid[:64]!r}; `leeway keys list` shows all")

    def verification_keys(self) -> tuple[VerificationKey, ...]:
        """Return the keys whose signatures are accepted: the active and the verify-only ones."""
        # Invariant 2.
        states = (KeyState.ACTIVE, KeyState.VERIFY_ONLY)
        return tuple(key.verification_key for key in self.keys if key.state in states)

    def published_keys(self) -> tuple[VerificationKey, ...]:
        """Return the keys of the JWKS: the active one, then the others that are not retired."""
        published = [key for key in self.keys if key.state is not KeyState.RETIRED]
        published.sort(key=lambda key: key.state is not KeyState.ACTIVE)
        return tuple(key.verification_key for key in published)

    def with_new_key(self, key: SigningKey, now: int) -> "Keyring":
        """Return a keyring with a key appended: active if no other key is, else pending."""
        state = KeyState.PENDING if self.active else KeyState.ACTIVE
        moment = max(now, self.clock)
        added = ScheduledKey(key.verification_key, key, state, moment)
        # Invariant 3.
        return replace(self, keys=(*self.keys, added), clock=moment)

    def refusing(self, why: str) -> "Keyring":
        """Return a keyring with the same keys that signs nothing, and says why."""
        return replace(self, refusal=why)

    def without(self, refused: Collection[str]) -> "Keyring":
        """Return a keyring in which the keys with these kids neither sign nor verify."""
        if not any(key.kid in refused for key in self.keys):
            return self
        keys = tuple(
            replace(key, state=KeyState.RETIRED, signing_key=None) if key.kid in refused else key
            for key in self.keys
        )
        active, refusal = self.active, self.refusal
        if active is not None and active.kid in refused:
            refusal = (
                f"key {active.kid} is active, and keys.refused in leeway.yaml names it, so nothing "
                "is signed; let another key take over with `leeway keys rotate`, and then `leeway "
                "keys rotate --force`"
            )
        return Keyring(keys, self.clock, refusal)

    def content(self) -> tuple[object, ...]:
        """Return what two keyrings are compared by: keys themselves are compared by identity."""
        keys = [(key.kid, key.state, key.signing_key is not None) for key in self.keys]
        return (self.refusal, *keys)
