"""Says once which keys of an issuer's key set are never used here."""

import logging

from keys.jwk import first_few

_logger = logging.getLogger("leeway")


class SkippedKeys:
    """The keys of one issuer that are skipped, each as a phrase that names it and says why."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer
        self._logged: tuple[str, ...] = ()
        self.phrases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"keys of issuer {self._issuer} are skipped: {first_few(self.phrases)}"

    def log(self) -> None:
        """Log them where they have changed."""
        if self.phrases and self.phrases != self._logged:
            _logger.warning("%s", self)
        self._logged = self.phrases
