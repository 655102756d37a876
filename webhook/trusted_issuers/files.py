"""The keys of an issuer in files, which are read again when they change.

Invariant: what is in use is the whole of files that could be read: broken ones change nothing.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from keys.errors import KeyFileError, KeysError
from keys.file_watch import POLL_SECONDS, FileWatch, is_news
from keys.files import read_public_file
from keys.jwk import KeySet, VerificationKey, merge_keys, parse_jwks
from keys.messages import shown_path
from keys.pem import parse_public_keys
from webhook.errors import ConfigurationError, ConfiguredFileError
from webhook.token.authenticator import TrustedIssuer
from webhook.trusted_issuers.skipped import SkippedKeys

_logger = logging.getLogger("leeway")


class FileKeys:
    """The keys of ``issuer`` in a file of a key set, or in files of PEM.

    ``report`` is told at the start and after each reading whether it failed. Raises
    ConfigurationError where the files cannot be used.
    """

    reads_files = True

    def __init__(
        self,
        issuer: TrustedIssuer,
        jwks_file: Path | None,
        public_key_files: tuple[Path, ...],
        report: Callable[[str, bool], None],
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.issuer = issuer
        self._jwks_file = jwks_file
        self._report = report
        self._warning = ""
        self.skipped = SkippedKeys(issuer.url)
        self._paths = (*([jwks_file] if jwks_file else []), *public_key_files)
        self._watch = FileWatch(self._paths, self.reload, "leeway-issuer-files", poll_seconds)
        self._load()

    def start(self) -> None:
        """Begin to follow the files."""
        self.skipped.log()
        self._report(self.issuer.url, False)
        self._watch.start()

    def close(self) -> None:
        """Stop following the files."""
        self._watch.close()

    def ask(self) -> Future[None] | None:
        """Return None: no file has more keys than are known."""
        return None

    def fetch_now(self) -> None:
        """Do nothing: the files have been read."""

    def problem(self) -> str:
        """Return an empty text: without keys there is no start."""
        return ""

    def warning(self) -> str:
        """Return what is wrong with new files, empty where nothing is."""
        return self._warning

    def reload(self) -> bool:
        """Read the files again; returns whether they are in use, ``warning`` says why not."""
        issuer, before = self.issuer, self._warning
        try:
            self._load()
        except ConfigurationError as error:
            self._warning = f"{error}; the {len(issuer.keys)} keys before them stay in use"
            if is_news(self._warning, before):
                _logger.warning("keys were not read again: %s", self._warning)
        else:
            self._warning = ""
            _logger.info("%d keys of issuer %s were read", len(issuer.keys), issuer.url)
            self.skipped.log()
        self._report(issuer.url, bool(self._warning))
        return not self._warning

    def _load(self) -> None:
        """Read the files and take their keys over; ConfigurationError changes nothing."""
        keys: tuple[VerificationKey, ...] = ()
        skipped: tuple[str, ...] = ()
        try:
            for path in self._paths:
                found = self._read(path)
                keys = merge_keys([*keys, *found.keys])
                skipped += found.skipped
            self.issuer.replace_keys(keys)
        except KeysError as error:
            kind = ConfiguredFileError if isinstance(error, KeyFileError) else ConfigurationError
            raise kind(
                f"the keys of trusted issuer {self.issuer.url} in {shown_path(path)} cannot be "
                f"used: {error}"
            ) from error
        self.skipped.phrases = skipped

    def _read(self, path: Path) -> KeySet:
        data = read_public_file(path)
        if path == self._jwks_file:
            return parse_jwks(data)
        return KeySet(parse_public_keys(data, shown_path(path)), ())
