"""Whether the keyring here is the newest one, as far as this server can know."""

from collections.abc import Callable
from math import inf
from typing import Final

from webhook.server.request.message import RequestError

KEYS_SECONDS: Final = 300.0
"""How old the proof may be that a keyring is the newest one: much more than for an answer, because
a key is published long before it signs."""


def requirement_of_keys(
    proof: Callable[[], float], clock: Callable[[], float]
) -> Callable[[], None]:
    """Make a function that raises RequestError 503 where the keyring may not be the newest one.

    ``proof`` returns the time of ``clock`` as of which it was: infinite for keys in a folder, which
    are always the newest, and negative infinite where that was never known.
    """

    def require() -> None:
        proven = proof()
        if proven != inf and not clock() - proven <= KEYS_SECONDS:
            raise RequestError(
                503,
                "the signing keys here may not be the newest ones: the store that holds them could "
                f"not be read for {KEYS_SECONDS:g} s; see /readyz",
                ((b"retry-after", b"1"),),
            )

    return require
