"""What the signer knows of kube-apiserver's clock, and the file that ``leeway serve`` reads.

kube-apiserver calls as soon as it has set ``iat``, so the bound that a call gives is a close one.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from time import monotonic, time
from typing import Final

from webhook.skew.snapshots import write_snapshot
from webhook.skew.tracker import SkewTracker
from webhook.telemetry.logs import LOGGER
from webhook.token.claims import Claims, ObjectReference

NODE: Final = "kube-apiserver"
"""The name of its clock in ``leeway skew``."""
_NODE: Final = ObjectReference(NODE)
_NOWHERE: Final = ObjectReference("")
# A clock that is slewed moves by less than 1 ms in a second.
_STEP_SECONDS: Final = 1.0
_logger = logging.getLogger(LOGGER)


class ClockWatch:
    """Records the clock of kube-apiserver. Safe for threads. ``clock`` returns Unix seconds."""

    def __init__(self, path: Path, clock: Callable[[], float] = time) -> None:
        self._path = path
        self._clock = clock
        self._tracker = SkewTracker()
        self._lock = Lock()
        self._seen = 0
        self._offset = clock() - monotonic()
        self._is_failing = False

    def see(self, claims: Claims, now: float) -> None:
        """Record claims of our issuer that kube-apiserver has just stamped."""
        stamped = Claims(
            claims.issuer, "", (), "", _NOWHERE, issued_at=claims.issued_at, node=_NODE
        )
        with self._lock:
            self._seen += 1
            self._tracker.see(stamped, now, self._seen)

    def write_new(self) -> None:
        """Write what is known, if there is news; a failure is logged once."""
        now = self._clock()
        before, self._offset = self._offset, now - monotonic()
        with self._lock:
            if abs(self._offset - before) > _STEP_SECONDS:
                # Every bound was measured against the old clock.
                self._tracker.forget()
            if not self._tracker.changed:
                return
            snapshot = self._tracker.snapshot(now)
        try:
            write_snapshot(self._path, snapshot)
        except OSError as error:
            if not self._is_failing:
                _logger.warning(
                    "what is known of kube-apiserver's clock is not shared with `leeway skew`: "
                    "%s: %s",
                    self._path,
                    error.strerror,
                )
            self._is_failing = True
            with self._lock:
                self._tracker.changed = True
        else:
            self._is_failing = False
