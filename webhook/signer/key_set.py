"""The keys as kube-apiserver sees them: which one signs, and which ones it fetches.

Invariants:

1. A key whose algorithm kube-apiserver does not know neither signs nor is fetched.
2. The order of the keys and the timestamp depend only on which keys there are, and the timestamp of
   two sets differs: kube-apiserver takes a difference in either for a change of the keys.
"""

from dataclasses import dataclass
from hashlib import sha256

from keys.errors import KeyScheduleError
from keys.jwk import VerificationKey
from keys.jws import SigningKey
from keys.keyring import Keyring, KeyState
from webhook.config.model import SIGNER_ALGORITHMS


@dataclass(frozen=True, slots=True)
class KeySet:
    """The key that signs, and the keys that are fetched, sorted by kid.

    ``timestamp`` is in Unix seconds and nanoseconds. ``left_out`` are the kids of published keys
    that kube-apiserver could not use.
    """

    signing_key: SigningKey
    published: tuple[VerificationKey, ...]
    timestamp: tuple[int, int]
    left_out: tuple[str, ...] = ()

    @property
    def kid(self) -> str:
        """The name of the key that signs."""
        return self.signing_key.verification_key.kid


def key_set_of(keyring: Keyring) -> KeySet:
    """Return the set of a keyring.

    Raises KeyScheduleError if no key is active, or the active one is not for kube-apiserver.
    """
    signing_key = keyring.signing_key()
    active = signing_key.verification_key
    if active.algorithm not in SIGNER_ALGORITHMS:  # Invariant 1.
        raise KeyScheduleError(
            f"the active key {active.kid} is for {active.algorithm}, which kube-apiserver does not "
            f"accept; set keys.algorithm to one of {', '.join(SIGNER_ALGORITHMS)}, and let another "
            "key take over with `leeway keys rotate`"
        )
    found = [key for key in keyring.keys if key.state is not KeyState.RETIRED]
    found.sort(key=lambda key: key.kid)
    used = [key for key in found if key.verification_key.algorithm in SIGNER_ALGORITHMS]
    left_out = tuple(key.kid for key in found if key not in used)
    # Invariant 2. The newest key does not show which one is gone; the nanoseconds do.
    digest = sha256(" ".join(key.kid for key in used).encode()).digest()
    nanoseconds = int.from_bytes(digest[:8]) % 1_000_000_000
    newest = max(key.published_since for key in used)
    published = tuple(key.verification_key for key in used)
    return KeySet(signing_key, published, (newest, nanoseconds), left_out)
