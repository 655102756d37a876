"""Has the uses of auth tokens written, all of a second at once."""

import asyncio
import logging
from typing import Final

from webhook.errors import LeewayError
from webhook.rbac.auth_tokens import TokenUses

INTERVAL_SECONDS: Final = 1.0
_logger = logging.getLogger("leeway")


class UseWriter:
    """Writes, and says so where that fails: once, until it works again."""

    def __init__(self, uses: TokenUses) -> None:
        self._uses = uses
        self._is_failing = False

    async def keep(self) -> None:
        """Write each second what is new, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            if self._uses:
                await asyncio.to_thread(self.write)

    def write(self) -> None:
        """Write once; it may wait for the store, so never on the event loop."""
        try:
            self._uses.write()
        except LeewayError as error:
            if not self._is_failing:
                _logger.warning("the use of an auth token was not written down: %s", error)
            self._is_failing = True
        else:
            self._is_failing = False
