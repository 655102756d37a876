"""The keys of all trusted issuers, whether they come from files or URLs."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future

from keys.jwk import first_few
from webhook.token.authenticator import TrustedIssuer

_logger = logging.getLogger("leeway")


class KeySource(ABC):
    """Keeps the keys of one issuer up to date.

    ``report`` is called with the issuer's URL and whether its keys could not be renewed.
    """

    reads_files = False

    def __init__(self, issuer: TrustedIssuer, report: Callable[[str, bool], None]) -> None:
        self.issuer = issuer
        self._report = report
        self._warning = ""
        # Each is a phrase that names a key that is never used here and says why.
        self._skipped: tuple[str, ...] = ()
        self._skipped_logged: tuple[str, ...] = ()

    @abstractmethod
    def start(self) -> None:
        """Start to follow changes, in the background."""

    @abstractmethod
    def close(self) -> None:
        """Stop what runs in the background."""

    def request_refresh(self) -> Future[None] | None:
        """Request a fetch for an unknown ``kid``; None if there is nothing to wait for."""
        return None

    def fetch_now(self) -> None:  # noqa: B027 - keys in files are there
        """Fetch the keys in this thread, if they have to be fetched."""

    def problem(self) -> str:
        """Return why this issuer's tokens cannot be verified yet, empty if they can."""
        return ""

    def warning(self) -> str:
        """Return why keys could not be renewed, empty if they could."""
        return self._warning

    def skipped(self) -> str:
        """Return which keys are never used here and why, empty if there are none."""
        if not self._skipped:
            return ""
        return f"keys of issuer {self.issuer.url} are skipped: {first_few(self._skipped)}"

    def _log_skipped(self) -> None:
        if self._skipped and self._skipped != self._skipped_logged:
            _logger.warning("%s", self.skipped())
        self._skipped_logged = self._skipped


class IssuerKeys:
    """The sources of the keys of all trusted issuers; an issuer may have several.

    >>> IssuerKeys([]).request_refresh("https://issuer.example") is None
    True
    """

    def __init__(self, sources: Iterable[KeySource]) -> None:
        self._sources = tuple(sources)

    @property
    def issuers(self) -> list[TrustedIssuer]:
        """The issuers whose keys are kept here."""
        return [source.issuer for source in self._sources]

    def start(self) -> None:
        """Start to follow changes, in the background; in a server after the fork."""
        for source in self._sources:
            source.start()

    def close(self) -> None:
        """Stop what runs in the background."""
        for source in self._sources:
            source.close()

    def request_refresh(self, issuer: str) -> Future[None] | None:
        """Request the keys of an issuer for an unknown ``kid``.

        Returns a future that is done after the attempt; None if it is too soon for one.
        """
        requested = [source.request_refresh() for source in self._of(issuer)]
        pending = [future for future in requested if future is not None]
        return all_done(pending) if pending else None

    def fetch_now(self, issuer: str) -> None:
        """Fetch the keys of an issuer in this thread, if they have to be fetched."""
        for source in self._of(issuer):
            source.fetch_now()

    def problem(self) -> str:
        """Return which issuers' keys have never been fetched and why, empty if none."""
        return "; ".join(filter(None, [source.problem() for source in self._sources]))

    def warning(self) -> str:
        """Return which issuers' keys could not be renewed and why, empty if none."""
        return "; ".join(filter(None, [source.warning() for source in self._sources]))

    def broken_files(self) -> str:
        """Return which issuers' changed files are not in use and why, empty if all are."""
        readers = [source for source in self._sources if source.reads_files]
        return "; ".join(filter(None, [source.warning() for source in readers]))

    def skipped(self) -> list[str]:
        """Return which issuers' keys are never used here and why, a sentence for each source."""
        return [text for source in self._sources if (text := source.skipped())]

    def _of(self, issuer: str) -> Iterator[KeySource]:
        return (source for source in self._sources if source.issuer.url == issuer)


def all_done(pending: Sequence[Future[None]]) -> Future[None]:
    """Return a future that is done once all of them are, whatever their results."""
    first, *others = pending
    if not others:
        return first
    done: Future[None] = Future()

    def finish(_: Future[None]) -> None:
        done.set_result(None)

    first.add_done_callback(lambda _: all_done(others).add_done_callback(finish))
    return done
