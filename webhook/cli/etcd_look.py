"""Looks at a store in etcd before a server starts, in a process of its own.

gRPC must not be in use in a process that forks, as that of ``leeway serve`` does. Whatever is found
stops no start: the workers become ready by themselves as soon as the store can be used.
"""

import logging
import signal
from contextlib import closing
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from webhook.assembly import store_of
from webhook.config.model import Configuration
from webhook.errors import LeewayError
from webhook.server.connection.stop_signals import STOP_SIGNALS
from webhook.telemetry.logs import LOGGER

_SECONDS: Final = 5.0
_logger = logging.getLogger(LOGGER)


def look_at_etcd(data_dir: Path, configuration: Configuration, seconds: float = _SECONDS) -> None:
    """Log whether the store can be used, and wait at most so many seconds for it."""
    # Forked, as the workers are later: another way would start Python again.
    arguments = (data_dir, configuration, seconds)
    child = get_context("fork").Process(target=_look, args=arguments)
    child.start()
    child.join(seconds)
    if child.is_alive():
        child.kill()
        child.join()
        _warn(f"etcd did not answer within {seconds:g}s")
    child.close()


def _look(data_dir: Path, configuration: Configuration, seconds: float) -> None:
    for number in STOP_SIGNALS:
        # The handlers of the master remove what is the master's.
        signal.signal(number, signal.SIG_DFL)
    # It ends by itself too, if the master is gone.
    signal.alarm(ceil(seconds) + 1)
    say_what_is_there(data_dir, configuration)


def say_what_is_there(data_dir: Path, configuration: Configuration) -> None:
    """Load the store, and log its revision or why it cannot be used."""
    try:
        with closing(store_of(data_dir, configuration)) as store:
            place, revision = store.backend.place, store.state.revision
            _logger.info("the store at %s is there, at revision %d", place, revision)
    except LeewayError as error:
        _warn(str(error))


def _warn(why: str) -> None:
    _logger.warning(
        "the store cannot be used yet: %s; the server starts, and answers as soon as it can", why
    )
