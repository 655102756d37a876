"""Passwords as bcrypt hashes. Slow on purpose: never call this on an event loop."""

from threading import BoundedSemaphore
from typing import Final

from webhook.rbac.errors import AuthFailedError, InvalidPasswordError
from webhook.rbac.model import cost_of

DEFAULT_COST: Final = 10
MAX_BYTES: Final = 72
# Any will do: what has it as its hash is not to be found.
_DIGEST_OF_NOBODY: Final = b"." * 31


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

    def check(self, password: str, password_hash: bytes | None, highest_cost: int = 0) -> None:
        """Check a password against a hash; None where there is no user or no password.

        ``highest_cost`` is that of all hashes there are. A refusal takes as much work as one check
        at it, or at the cost of new hashes where that is higher, whoever it is of. Raises
        AuthFailedError.
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
                # Each step up is twice the work, so with the check before these are one at the top.
                costs = range(cost_of(password_hash), top)
            else:
                costs = range(top, top + 1)
            for cost in costs:
                checkpw(shown, _hash_of_nobody(cost))
        raise AuthFailedError


def _hash_of_nobody(cost: int) -> bytes:
    """Return what is checked against where only the work of it counts."""
    from bcrypt import gensalt

    return gensalt(cost) + _DIGEST_OF_NOBODY


def _hash(data: bytes, cost: int) -> bytes:
    # Imported here, so that no start waits for what a log-in needs.
    from bcrypt import gensalt, hashpw

    return hashpw(data, gensalt(cost))
