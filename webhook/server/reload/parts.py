"""Makes what serves one configuration and one keyring, and keeps of it what does not change.

Invariant: a request that began before a change, and asks an authenticator or a provider of auth
tokens that is no longer in use, is answered with the keys of now too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from time import monotonic, sleep
from typing import Final, Protocol
from weakref import WeakKeyDictionary, WeakSet

from keys.keyring import Keyring
from webhook.assembly import authenticator_of, issuer_keys_of, source_of
from webhook.config.model import Configuration
from webhook.errors import ConfigurationError
from webhook.rbac.auth_tokens import JWTTokens, TokenProvider
from webhook.server.reload.composition import Lasting, Parts, token_provider
from webhook.token.authenticator import Authenticator
from webhook.token.bound_objects import ObjectSource
from webhook.trusted_issuers.issuer_keys import IssuerKeys

READY_SECONDS: Final = 10.0
"""How long a new source of objects or of keys may take until it is used."""
_POLL_SECONDS: Final = 0.1
_AT_RESTART: Final = {
    "server.bind": "server.bind",
    "server.workers": "server.workers",
    "server.log_format": "server.logFormat",
    "server.log_level": "server.logLevel",
    "store.sqlite": "store.sqlite",
}


class Background(Protocol):
    """A part that does something by itself."""

    def start(self) -> None:
        """Begin."""

    def close(self) -> None:
        """End."""

    def problem(self) -> str:
        """Return why it is not ready, empty where it is."""


class PartsMaker:
    """Makes parts from a data directory and what stays through every reload."""

    def __init__(self, data_dir: Path, lasting: Lasting) -> None:
        self._data_dir = data_dir
        self._lasting = lasting
        # Each that a request may still be asking, and our issuer in its configuration.
        self._authenticators: WeakKeyDictionary[Authenticator, str] = WeakKeyDictionary()
        self._jwt_tokens: WeakSet[JWTTokens] = WeakSet()

    def make(self, configuration: Configuration, keyring: Keyring) -> Parts:
        """Make all of them."""
        objects = source_of(self._data_dir, configuration)
        issuer_keys = self._issuer_keys(configuration)
        authenticator = self._authenticator(configuration, keyring, objects, issuer_keys)
        tokens = self._tokens(configuration, keyring)
        return Parts(configuration, keyring, objects, issuer_keys, authenticator, tokens)

    def remake(self, old: Parts, configuration: Configuration, keyring: Keyring) -> Parts:
        """Make those that another configuration changes; ``use_keys`` is for another keyring."""
        same = {
            name
            for name in configuration.__struct_fields__
            if getattr(old.configuration, name) == getattr(configuration, name)
        }
        objects, issuer_keys = old.objects, old.issuer_keys
        authenticator, tokens = old.authenticator, old.tokens
        if "objects" not in same:
            objects = source_of(self._data_dir, configuration)
        if not {"trusted_issuers", "audiences", "leeway"} <= same:
            issuer_keys = self._issuer_keys(configuration)
        if not {"issuer", "objects", "trusted_issuers", "audiences", "leeway"} <= same:
            authenticator = self._authenticator(configuration, keyring, objects, issuer_keys)
        if not {"issuer", "auth"} <= same:
            tokens = self._tokens(configuration, keyring)
        return Parts(configuration, keyring, objects, issuer_keys, authenticator, tokens)

    def use_keys(self, keyring: Keyring) -> None:
        """Have all that is in use, or still asked, verify with the keys of a keyring."""
        for authenticator, issuer in list(self._authenticators.items()):
            authenticator.replace_keys(issuer, keyring.verification_keys())
        for tokens in list(self._jwt_tokens):
            tokens.use_keyring(keyring)

    def _tokens(self, configuration: Configuration, keyring: Keyring) -> TokenProvider:
        made = token_provider(configuration, self._lasting.store, keyring, self._lasting.uses)
        if isinstance(made, JWTTokens):
            self._jwt_tokens.add(made)
        return made

    def _issuer_keys(self, configuration: Configuration) -> IssuerKeys:
        report = self._lasting.metrics.report_issuer_keys
        return issuer_keys_of(self._data_dir, configuration, report)

    def _authenticator(
        self,
        configuration: Configuration,
        keyring: Keyring,
        objects: ObjectSource | None,
        issuer_keys: IssuerKeys,
    ) -> Authenticator:
        made = authenticator_of(
            self._data_dir,
            configuration,
            keyring,
            objects=objects,
            issuer_keys=issuer_keys,
            revocations=self._lasting.store,
            skew=self._lasting.skew.tracker,
        )
        self._authenticators[made] = configuration.issuer
        return made


def differences(old: Parts, new: Parts) -> list[tuple[Background | None, Background | None]]:
    """Return the parts with a life of their own that differ, the old and the new one each."""
    pairs: list[tuple[Background | None, Background | None]] = [
        (old.objects, new.objects),
        (old.issuer_keys, new.issuer_keys),
    ]
    return [(stale, fresh) for stale, fresh in pairs if stale is not fresh]


def waiting_for_restart(running: Configuration, wanted: Configuration) -> str:
    """Return what of a configuration only a restart brings into use; empty where nothing is."""
    waiting = [
        name
        for path, name in _AT_RESTART.items()
        if attrgetter(path)(running) != attrgetter(path)(wanted)
    ]
    return f"{' and '.join(waiting)} will change with a restart" if waiting else ""


@contextmanager
def started(parts: list[Background]) -> Iterator[None]:
    """Start parts and wait until they are ready; close them all where that, or what follows, fails.

    Raises ConfigurationError where they are not ready in time.
    """
    try:
        for part in parts:
            part.start()
        deadline = monotonic() + READY_SECONDS
        while problems := [problem for part in parts if (problem := part.problem())]:
            if monotonic() > deadline:
                raise ConfigurationError(
                    f"not ready within {READY_SECONDS:g}s: {'; '.join(problems)}"
                )
            sleep(_POLL_SECONDS)
        yield
    except BaseException:
        for part in parts:
            part.close()
        raise
