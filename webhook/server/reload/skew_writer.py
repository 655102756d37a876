"""Writes down what a worker knows of clocks, and notices when this server's own is set."""

import asyncio
import logging
from time import monotonic, time
from typing import Final

from webhook.skew.snapshots import SkewFiles

INTERVAL_SECONDS: Final = 1.0
# A clock that is slewed moves by less than 1 ms in a second.
_STEP_SECONDS: Final = 1.0
_logger = logging.getLogger("leeway")


async def keep_written(files: SkewFiles) -> None:
    """Write each second what is new, until cancelled."""
    # The time of the loop stands still while a step of it takes long.
    offset = time() - monotonic()
    while True:
        await asyncio.sleep(INTERVAL_SECONDS)
        before, offset = offset, time() - monotonic()
        if abs(offset - before) > _STEP_SECONDS:
            # Every bound was against the clock as it was.
            files.tracker.forget()
        if not files.take_snapshot():
            continue
        try:
            await asyncio.to_thread(files.write)
        except OSError as error:
            files.tracker.changed = True
            _logger.warning("what is known of clocks was not written down: %s", error)
