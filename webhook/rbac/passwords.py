"""Passwords as bcrypt hashes. Slow on purpose: never call this on an event loop."""

from threading import BoundedSemaphore
from typing import Final

from webhook.rbac.errors import AuthFailedError, InvalidPasswordError
from webhook.rbac.model import cost_of

DEFAULT_COST: Final = 10
MAX_BYTES: Final = 72
# Any digest: nobody can find a password with a given one.
_DIGEST_OF_NOBODY: Final = b"." * 31


class Passwords:
    """Hashes and checks passwords at one cost (bcrypt's logarithmic work factor, 4 to 31).

    At most ``at_once`` at a time: they only compute, so more threads than cores would make none of
    them faster and everything else slower.
    """

    def __init__(self, cost: int = DEFAULT_COST, at_once: int = 1) -> None:
        self._cost = cost
        self._turns = BoundedSemaphore(at_once)

    def hash(self, password: str) -> bytes:
        """Hash a password. Raises InvalidPasswordError for an empty one, or over 72 bytes."""
        data = password.encode("utf-8", "surrogatepass")
        if not data:
            raise InvalidPasswordError("the password is empty; use `--no-password` for none")
        if len(data) > MAX_BYTES:
            raise InvalidPasswordError(
                f"the password has {len(data)} bytes, bcrypt takes {MAX_BYTES}; use a shorter one"
            )
        with self._turns:
            return _hash(data, self._cost)

    def check(self, password: str, password_hash: bytes | None, highest_cost: int = 0) -> None:
        """Check a password against a hash, None if there is no such user or it has no password.

        A refusal takes as much work for every name: one check at the higher of ``highest_cost``,
        that of all stored hashes, and the cost of new ones. Raises AuthFailedError.
        """
        from bcrypt import checkpw

        data = password.encode("utf-8", "surrogatepass")
        fits = 0 < len(data) <= MAX_BYTES
        shown = data if fits else b"-"
        top = max(self._cost, highest_cost)
        with self._turns:
            if password_hash:
                if checkpw(shown, password_hash) and fits:
                    return
                # Each cost doubles the work: with the check above, these take as long as `top`.
                costs = range(cost_of(password_hash), top)
            else:
                costs = range(top, top + 1)
            for cost in costs:
                checkpw(shown, _hash_of_nobody(cost))
        raise AuthFailedError


def _hash_of_nobody(cost: int) -> bytes:
    """Return a hash to check against where only the work counts."""
    from bcrypt import gensalt

    return gensalt(cost) + _DIGEST_OF_NOBODY


def _hash(data: bytes, cost: int) -> bytes:
    # Imported here, so that no start waits for what only log-ins need.
    from bcrypt import gensalt, hashpw

    return hashpw(data, gensalt(cost))
