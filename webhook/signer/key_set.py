"""The keys as kube-apiserver sees them: which one signs, and which ones it fetches.

Invariants:

1. A key whose algorithm kube-apiserver does not know neither signs nor is fetched.
2. The order of the keys depends on their kids only, and the timestamp changes exactly when the set
   of keys does: kube-apiserver takes a difference in either for a change of the keys. So the part
   of the timestamp below a second is a digest of the kids. The seconds are those of the last step
   of a key when the set was first seen here; only a start after a key became active, which does not
   change the set, makes a difference where there is none.
"""

from dataclasses import dataclass
from hashlib import sha256

from keys.errors import KeyScheduleError
from keys.jwk import VerificationKey
from keys.jws import SigningKey
from keys.keyring import Keyring
from webhook.config.model import SIGNER_ALGORITHMS


@dataclass(frozen=True, slots=True)
class KeySet:
    """The key that signs, and the keys that are fetched.

    Their set changed at ``changed_at`` (Unix seconds), and ``digest`` is below a billion.
    ``left_out`` are the kids of published keys that kube-apiserver could not use.
    """

    signing_key: SigningKey
    published: tuple[VerificationKey, ...]
    changed_at: int
    digest: int
    left_out: tuple[str, ...] = ()

    @property
    def kid(self) -> str:
        """The name of the key that signs."""
        return self.signing_key.verification_key.kid


def key_set_of(keyring: Keyring, before: KeySet | None = None) -> KeySet:
    """Return the set of a keyring; ``before`` is the one in use.

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
    found = sorted(keyring.published_keys(), key=lambda key: key.kid)
    published = tuple(key for key in found if key.algorithm in SIGNER_ALGORITHMS)
    left_out = tuple(key.kid for key in found if key.algorithm not in SIGNER_ALGORITHMS)
    digest = sha256(" ".join(key.kid for key in published).encode()).digest()
    nanoseconds = int.from_bytes(digest[:8]) % 1_000_000_000
    if before is not None and before.digest == nanoseconds:  # Invariant 2.
        changed_at = before.changed_at
    else:
        changed_at = max(key.since for key in keyring.keys)
    return KeySet(signing_key, published, changed_at, nanoseconds, left_out)
