"""The keys of an issuer in files, which are read again when they change.

Invariant: the keys in use are those of files that could all be read; broken files change nothing.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from keys.errors import KeyFileError, KeysError
from keys.file_watch import POLL_SECONDS, FileWatch, is_news
from keys.files import read_public_file
from keys.jwk import KeySet, VerificationKey, merge_keys, parse_jwks
from keys.messages import shown_path
from keys.pem import parse_public_keys
from webhook.errors import ConfigurationError, ConfiguredFileError
from webhook.token.authenticator import TrustedIssuer
from webhook.trusted_issuers.issuer_keys import KeySource

_logger = logging.getLogger("leeway")


class FileKeys(KeySource):
    """The keys of ``issuer`` in a file with a key set, or in PEM files.

    Raises ConfigurationError for files that cannot be used.
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
        super().__init__(issuer, report)
        self._jwks_file = jwks_file
        self._paths = (*([jwks_file] if jwks_file else []), *public_key_files)
        self._watch = FileWatch(self._paths, self.reload, "leeway-issuer-files", poll_seconds)
        self._load()

    def start(self) -> None:
        """Start to follow the files."""
        self._log_skipped()
        self._report(self.issuer.url, False)
        self._watch.start()

    def close(self) -> None:
        """Stop following the files."""
        self._watch.close()

    def reload(self) -> bool:
        """Read the files again; return whether they are in use, or else ``warning`` says why."""
        issuer, before = self.issuer, self._warning
        try:
            self._load()
        except ConfigurationError as error:
            self._warning = f"{error}; the {len(issuer.keys)} previous keys stay in use"
            if is_news(self._warning, before):
                _logger.warning("keys were not read again: %s", self._warning)
        else:
            self._warning = ""
            _logger.info("%d keys of issuer %s were read", len(issuer.keys), issuer.url)
            self._log_skipped()
        self._report(issuer.url, bool(self._warning))
        return not self._warning

    def _load(self) -> None:
        """Read the files and use their keys. Raises ConfigurationError, which changes nothing."""
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
        self._skipped = skipped

    def _read(self, path: Path) -> KeySet:
        data = read_public_file(path)
        if path == self._jwks_file:
            return parse_jwks(data)
        return KeySet(parse_public_keys(data, shown_path(path)), ())
