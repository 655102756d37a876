"""The keys of all trusted issuers, wherever they come from."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from webhook.config.model import IssuerKeysSection
from webhook.token.authenticator import TrustedIssuer
from webhook.trusted_issuers.skipped import SkippedKeys


class KeySource(Protocol):
    """Keeps the keys of one issuer as they are to be."""

    issuer: TrustedIssuer
    reads_files: bool
    skipped: SkippedKeys

    def start(self) -> None:
        """Begin to follow changes, in the background."""

    def close(self) -> None:
        """End what runs in the background."""

    def ask(self) -> Future[None] | None:
        """Have keys fetched for an unknown ``kid``; None where that is of no use now."""

    def fetch_now(self) -> None:
        """Fetch the keys here and now, where they have to be fetched."""

    def problem(self) -> str:
        """Return why this issuer's tokens cannot be verified yet, empty where they can."""

    def warning(self) -> str:
        """Return what is wrong although it goes on, empty where nothing is."""


def key_source_of(
    data_dir: Path,
    section: IssuerKeysSection,
    issuer: TrustedIssuer,
    report: Callable[[str, bool], None],
) -> KeySource:
    """Make the source of an issuer's keys; paths count from ``data_dir``.

    Raises ConfigurationError for files that cannot be used.
    """
    url = section.jwks_url or section.discovery_url
    # Imported here: most servers trust no other issuer.
    if not url:
        from webhook.trusted_issuers.files import FileKeys

        jwks_file = data_dir / section.jwks_file if section.jwks_file else None
        pem_files = tuple(data_dir / name for name in section.public_key_files)
        return FileKeys(issuer, jwks_file, pem_files, report)
    from webhook.https_url import parse_https_url
    from webhook.trusted_issuers.fetching import KeyLocation
    from webhook.trusted_issuers.remote import RemoteKeys

    location = KeyLocation(
        issuer.url,
        parse_https_url(url),
        is_discovery=bool(section.discovery_url),
        ca_file=data_dir / section.ca_file if section.ca_file else None,
        token_file=data_dir / section.token_file if section.token_file else None,
    )
    return RemoteKeys(issuer, location.fetch, report)


class IssuerKeys:
    """The sources of the keys of all trusted issuers, as one; an issuer may have several."""

    def __init__(self, sources: Iterable[KeySource]) -> None:
        self._sources = tuple(sources)

    @property
    def issuers(self) -> list[TrustedIssuer]:
        """The issuers whose keys are kept here."""
        return [source.issuer for source in self._sources]

    def start(self) -> None:
        """Begin to follow changes, in the background: to be called in the process that serves."""
        for source in self._sources:
            source.start()

    def close(self) -> None:
        """End what runs in the background."""
        for source in self._sources:
            source.close()

    def ask(self, issuer: str) -> Future[None] | None:
        """Have the keys of an issuer fetched for an unknown ``kid``; None where it is too soon."""
        asked = [source.ask() for source in self._of(issuer)]
        pending = [future for future in asked if future is not None]
        return all_done(pending) if pending else None

    def fetch_now(self, issuer: str) -> None:
        """Fetch the keys of an issuer here and now, where they have to be fetched."""
        for source in self._of(issuer):
            source.fetch_now()

    def problem(self) -> str:
        """Return which issuers' keys have never been here and why, empty where there is none."""
        return "; ".join(filter(None, [source.problem() for source in self._sources]))

    def warning(self) -> str:
        """Return which issuers' keys could not be renewed and why, empty where there is none."""
        return "; ".join(filter(None, [source.warning() for source in self._sources]))

    def broken_files(self) -> str:
        """Return which issuers' changed files are not in use and why, empty where all are."""
        readers = [source for source in self._sources if source.reads_files]
        return "; ".join(filter(None, [source.warning() for source in readers]))

    def skipped(self) -> list[str]:
        """Return which issuers' keys are never used here and why, a sentence for each source."""
        return [str(source.skipped) for source in self._sources if source.skipped.phrases]

    def _of(self, issuer: str) -> Iterator[KeySource]:
        return (source for source in self._sources if source.issuer.url == issuer)


def all_done(pending: Sequence[Future[None]]) -> Future[None]:
    """Return what is done once all of them are, however they went."""
    first, *others = pending
    if not others:
        return first
    done: Future[None] = Future()

    def finish(_: Future[None]) -> None:
        done.set_result(None)

    first.add_done_callback(lambda _: all_done(others).add_done_callback(finish))
    return done
