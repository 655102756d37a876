"""Passwords as bcrypt hashes. Slow on purpose: never call this on an event loop."""

import secrets
from typing import Final

import bcrypt

from webhook.rbac.errors import AuthFailedError, InvalidPasswordError

DEFAULT_COST: Final = 10
MAX_BYTES: Final = 72


class Passwords:
    """Hashes and checks passwords at one cost (bcrypt's logarithmic work factor, 4 to 31)."""

    def __init__(self, cost: int = DEFAULT_COST) -> None:
        self._cost = cost
        # Checked against where there is no hash, so that the answer takes as long.
        self._nobody = bcrypt.hashpw(
            secrets.token_bytes(32).hex()[:MAX_BYTES].encode(), self._salt()
        )

    def hash(self, password: str) -> bytes:
        """Hash a password. Raises InvalidPasswordError for an empty one, or over 72 bytes."""
        data = password.encode("utf-8", "surrogatepass")
        if not data:
            raise InvalidPasswordError("the password is empty; use `--no-password` for none")
        if len(data) > MAX_BYTES:
            raise InvalidPasswordError(
                f"the password has {len(data)} bytes, bcrypt takes {MAX_BYTES}; use a shorter one"
            )
        return bcrypt.hashpw(data, self._salt())

    def check(self, password: str, password_hash: bytes | None) -> None:
        """Check a password against a hash; None where there is no user or no password.

        Takes the same time for all of them. Raises AuthFailedError.
        """
        data = password.encode("utf-8", "surrogatepass")
        fits = 0 < len(data) <= MAX_BYTES
        matches = bcrypt.checkpw(data if fits else b"-", password_hash or self._nobody)
        if not (matches and fits and password_hash):
            raise AuthFailedError

    def _salt(self) -> bytes:
        return bcrypt.gensalt(self._cost)
