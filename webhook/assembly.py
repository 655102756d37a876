"""Puts the parts together from a data directory: what ``server`` and ``cli`` both begin with."""

from pathlib import Path

from keys.errors import KeysError
from keys.files import read_public_file
from keys.jwk import VerificationKey, parse_jwks
from keys.key_files import load_keyring
from keys.keyring import Keyring
from keys.pem import parse_public_keys
from webhook.authenticator import Authenticator, TrustedIssuer
from webhook.backends.sqlite import SQLiteBackend
from webhook.claims import ClockLeeway
from webhook.config import Configuration, TrustedIssuerSection
from webhook.data_dir import KEYS_FOLDER
from webhook.errors import ConfigurationError
from webhook.issuer import TokenPolicy
from webhook.rbac.auth_store import AuthStore


def keyring_of(data_dir: Path) -> Keyring:
    """Load the signing keys. Raises the errors of ``keys.key_files``."""
    return load_keyring(data_dir / KEYS_FOLDER)


def authenticator_of(
    data_dir: Path, configuration: Configuration, keyring: Keyring
) -> Authenticator:
    """Make the authenticator of our own tokens and those of the trusted issuers.

    Raises ConfigurationError for a trusted issuer whose keys cannot be used.
    """
    own = TrustedIssuer(configuration.issuer, configuration.audiences, keyring.verification_keys())
    others = [
        TrustedIssuer(
            section.url,
            section.audiences or configuration.audiences,
            _keys_of(data_dir, section),
            legacy=section.legacy,
        )
        for section in configuration.trusted_issuers
    ]
    return Authenticator([own, *others], clock_leeway_of(configuration))


def clock_leeway_of(configuration: Configuration) -> ClockLeeway:
    """Say how far each claim may be on the wrong side of the clock."""
    leeway = configuration.leeway
    return ClockLeeway(leeway.not_before, leeway.issued_at_seconds, leeway.expiry)


def policy_of(configuration: Configuration) -> TokenPolicy:
    """Say what tokens are issued, and how long they live."""
    tokens = configuration.tokens
    return TokenPolicy(
        issuer=configuration.issuer,
        audiences=configuration.audiences,
        default_seconds=int(tokens.default_expiration),
        min_seconds=int(tokens.min_expiration),
        max_seconds=int(tokens.max_expiration),
        extend=tokens.extend,
    )


def store_of(data_dir: Path, configuration: Configuration, *, create: bool = False) -> AuthStore:
    """Open the store of users and roles.

    One that is missing or empty is not made unless ``create`` says so: in an empty store auth is
    disabled. Raises StoreError where it is damaged, StoreUnavailableError where it cannot be
    opened.
    """
    path = data_dir / configuration.store.sqlite.path
    return AuthStore(SQLiteBackend(path, create=create))


def _keys_of(data_dir: Path, section: TrustedIssuerSection) -> tuple[VerificationKey, ...]:
    keys: dict[str, VerificationKey] = {}
    for name in [section.keys.jwks_file, *section.keys.public_key_files]:
        if not name:
            continue
        path = data_dir / name
        try:
            data = read_public_file(path)
            is_jwks = name == section.keys.jwks_file
            found = parse_jwks(data) if is_jwks else parse_public_keys(data, str(path))
        except KeysError as error:
            raise ConfigurationError(
                f"the keys of trusted issuer {section.url} in {path} cannot be used: {error}"
            ) from error
        for key in found:
            if key.kid in keys:
                raise ConfigurationError(
                    f"the keys of trusted issuer {section.url} in {path} cannot be used: another "
                    f"of its files has a key with the kid {key.kid[:64]!r} too; remove one of them"
                )
            keys[key.kid] = key
    return tuple(keys.values())
