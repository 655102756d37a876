"""Logs gunicorn's own lines as records like all others."""

import sys
from typing import Any, ClassVar

from gunicorn.glogging import Logger

from webhook.telemetry.logs import LogStream, log_to_stderr


class TextLog(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Leaves it to the root logger to write what gunicorn says."""

    log_format: ClassVar = "text"

    def setup(self, cfg: Any) -> None:
        """Set the level, and let go of gunicorn's own handlers."""
        super().setup(cfg)
        for handler in [h for h in self.error_log.handlers if getattr(h, "_gunicorn", False)]:
            self.error_log.removeHandler(handler)
        self.error_log.propagate = True
        log_to_stderr(self.log_format, cfg.loglevel)


class JSONLog(TextLog):
    """The same in JSON, and what is printed to standard error too."""

    log_format: ClassVar = "json"

    def setup(self, cfg: Any) -> None:
        """Take standard error over. What could not be served has been said before, in a line."""
        super().setup(cfg)
        sys.stderr = LogStream()
