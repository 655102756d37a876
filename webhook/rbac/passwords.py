"""Passwords as bcrypt hashes. Slow on purpose: never call this on an event loop."""

import secrets
from functools import lru_cache
from threading import BoundedSemaphore
from typing import Final

from webhook.rbac.errors import AuthFailedError, InvalidPasswordError

DEFAULT_COST: Final = 10
MAX_BYTES: Final = 72


class Passwords:
    """Hashes and checks passwords at one cost (bcrypt's logarithmic work factor, 4 to 31).

    ``at_once`` of them, for they have nothing to wait for: with more threads at it than there are
    cores it takes as long, and whoever answers something else gets a smaller part of the machine.
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

    def check(self, password: str, password_hash: bytes | None) -> None:
        """Check a password against a hash; None where there is no user or no password.

        Takes the same time for all of them. Raises AuthFailedError.
        """
        from bcrypt import checkpw

        data = password.encode("utf-8", "surrogatepass")
        fits = 0 < len(data) <= MAX_BYTES
        # Made at the first check, whoever it is of: or that one check would tell.
        nobody = _hash_of_nobody(self._cost)
        with self._turns:
            matches = checkpw(data if fits else b"-", password_hash or nobody)
        if not (matches and fits and password_hash):
            raise AuthFailedError


@lru_cache(maxsize=16)
def _hash_of_nobody(cost: int) -> bytes:
    """Return what is checked against where there is no hash, so that the answer takes as long."""
    return _hash(secrets.token_bytes(32).hex()[:MAX_BYTES].encode(), cost)


def _hash(data: bytes, cost: int) -> bytes:
    # Imported here, so that no start waits for what a log-in needs.
    from bcrypt import gensalt, hashpw

    return hashpw(data, gensalt(cost))
