"""Creates the components of a data directory, for ``server``, ``cli`` and ``doctor``."""

import os
from collections.abc import Callable
from math import ceil, inf
from pathlib import Path
from socket import gethostname
from threading import Lock
from typing import TYPE_CHECKING

from keys.errors import UnusableKeyError
from keys.folder import load_keyring
from keys.keyring import Keyring
from keys.pem import ALGORITHMS
from keys.rotation import RotationPolicy
from webhook.backends.sqlite import SQLiteBackend
from webhook.config.model import (
    SIGNER_ALGORITHMS,
    Configuration,
    IssuerKeysSection,
    LeewaySection,
)
from webhook.config.paths import KEYS_FOLDER
from webhook.config.store import EtcdSection, SQLiteSection
from webhook.errors import ConfigurationError
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreError
from webhook.rbac.revocations import Lifetimes, allowance
from webhook.skew.tracker import SkewTracker
from webhook.token.authenticator import Authenticator, TrustedIssuer
from webhook.token.bound_objects import ObjectSource
from webhook.token.claims import ClockLeeway
from webhook.token.issuer import EXTENDED_SECONDS, MAX_AGE_SECONDS, MAX_REQUEST_SECONDS, TokenPolicy
from webhook.trusted_issuers.issuer_keys import IssuerKeys, KeySource

if TYPE_CHECKING:
    from webhook.backends.etcd import EtcdBackend
    from webhook.backends.etcd_beside import Peers, StoreCounters
    from webhook.etcd.client import EtcdClient
    from webhook.etcd.credentials import EtcdLogin, EtcdTLS


def keyring_of(data_dir: Path) -> Keyring:
    """Load the signing keys. Raises the errors of ``keys.folder``."""
    return load_keyring(data_dir / KEYS_FOLDER)


def authenticator_of(
    data_dir: Path,
    configuration: Configuration,
    keyring: Keyring,
    *,
    objects: ObjectSource | None = None,
    issuer_keys: IssuerKeys | None = None,
    skew: SkewTracker | None = None,
) -> Authenticator:
    """Create the authenticator for our own tokens and those of the trusted issuers.

    Without ``issuer_keys`` their files are read once and nothing is fetched. Raises
    ConfigurationError for a trusted issuer whose keys cannot be used.
    """
    own = TrustedIssuer(configuration.issuer, configuration.audiences, keyring.verification_keys())
    issuer_keys = issuer_keys or issuer_keys_of(data_dir, configuration)
    try:
        return Authenticator(
            [own, *issuer_keys.issuers],
            clock_leeway_of(configuration),
            objects=objects,
            skew=skew,
        )
    except UnusableKeyError as error:
        raise ConfigurationError(f"the trustedIssuers cannot be used together: {error}") from error


def source_of(data_dir: Path, configuration: Configuration) -> ObjectSource | None:
    """Create the source of bound objects; None if bound objects are not checked.

    Nothing runs before its ``start``. Raises ConfigurationError if the file of objects or the
    kubeconfig cannot be used.
    """
    section = configuration.objects
    # Imported here, since importing the client of Kubernetes takes long.
    if section.source == "file":
        from webhook.objects.file import FileObjects

        return FileObjects(data_dir / section.file.path)
    if section.source == "kubernetes":
        from webhook.objects.kubernetes import KubernetesObjects

        name, context = section.kubernetes.kubeconfig, section.kubernetes.context
        path = data_dir / name if name else None
        return KubernetesObjects(path, context, section.kubernetes.max_silence)
    return None


def issuer_keys_of(
    data_dir: Path,
    configuration: Configuration,
    report: Callable[[str, bool], None] = lambda _issuer, _failing: None,
) -> IssuerKeys:
    """Create the trusted issuers and their sources of keys; nothing is fetched before ``start``.

    ``report`` is called with an issuer and whether its keys could not be renewed. Raises
    ConfigurationError for files that cannot be used.
    """
    sources = []
    reports = _Reports(report)
    for place, section in enumerate(configuration.trusted_issuers):
        issuer = TrustedIssuer(
            section.url,
            section.audiences or configuration.audiences,
            (),
            legacy=section.legacy,
            leeway=_clock_leeway(section.leeway.over(configuration.leeway)),
            is_foreign=True,
        )
        sources.append(_key_source_of(data_dir, section.keys, issuer, reports.of(place)))
    return IssuerKeys(sources)


def _key_source_of(
    data_dir: Path,
    section: IssuerKeysSection,
    issuer: TrustedIssuer,
    report: Callable[[str, bool], None],
) -> KeySource:
    # Imported here: most servers trust no other issuer.
    url = section.jwks_url or section.discovery_url
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


class _Reports:
    """Reports an issuer as failing while any of its entries is."""

    def __init__(self, report: Callable[[str, bool], None]) -> None:
        self._report = report
        self._failing: set[tuple[str, int]] = set()
        self._lock = Lock()

    def of(self, place: int) -> Callable[[str, bool], None]:
        """Return the report function for the entry at a place in the configuration."""

        def report(issuer: str, failing: bool) -> None:
            with self._lock:
                (self._failing.add if failing else self._failing.discard)((issuer, place))
                self._report(issuer, any(url == issuer for url, _ in self._failing))

        return report


def clock_leeway_of(configuration: Configuration) -> ClockLeeway:
    """Return the leeway for issuers without one of their own."""
    return _clock_leeway(configuration.leeway)


def _clock_leeway(leeway: LeewaySection) -> ClockLeeway:
    return ClockLeeway(leeway.not_before, leeway.issued_at_seconds, leeway.expiry)


def policy_of(configuration: Configuration) -> TokenPolicy:
    """Return which tokens are issued, and how long they live."""
    tokens = configuration.tokens
    return TokenPolicy(
        issuer=configuration.issuer,
        audiences=configuration.audiences,
        default_seconds=int(tokens.default_expiration),
        min_seconds=int(tokens.min_expiration),
        max_seconds=int(tokens.max_expiration),
        extend=tokens.extend,
    )


def lifetimes_of(configuration: Configuration) -> Lifetimes:
    """Return how long accepted tokens live at most, and the allowance for the clocks of signers.

    For trusted issuers this is Kubernetes' own limit; legacy tokens never expire.
    """
    policy = policy_of(configuration)
    own = max(policy.max_seconds, EXTENDED_SECONDS if policy.extend else 0)
    others = configuration.trusted_issuers
    foreign = float(MAX_REQUEST_SECONDS) if others else 0.0
    etcd = configuration.store.etcd
    leeways = [section.leeway.over(configuration.leeway) for section in others]
    return Lifetimes(
        own,
        inf if any(section.legacy for section in others) else foreign,
        allowance(
            max(leeway.issued_at_seconds for leeway in (configuration.leeway, *leeways)),
            etcd.max_staleness if etcd else None,
        ),
    )


def rotation_policy_of(configuration: Configuration) -> RotationPolicy:
    """Return how the signing keys rotate.

    A key is kept for the longest lifetime of the tokens it signs, including the auth tokens of
    provider ``jwt``. A token of the signer lives for ``tokens.maxExpiration`` at most. The signer
    counts as in use while there is a section for it, even when it is not running.
    """
    auth, signer = configuration.auth, configuration.signer
    auth_seconds = auth.auth_token_ttl if auth.token_provider == "jwt" else 0.0
    return RotationPolicy(
        jwks_max_age=MAX_AGE_SECONDS,
        token_seconds=ceil(max(lifetimes_of(configuration).own, auth_seconds)),
        rotate_every=int(configuration.keys.rotate_every),
        algorithm=configuration.keys.algorithm,
        refresh_hint=ceil(signer.refresh_hint) if signer else 0,
        algorithms=SIGNER_ALGORITHMS if signer else ALGORITHMS,
        refused=frozenset(configuration.keys.refused),
    )


def store_of(
    data_dir: Path,
    configuration: Configuration,
    *,
    create: bool = False,
    read_only: bool = False,
    follow: bool = False,
    peers: "Peers | None" = None,
) -> AuthStore:
    """Open the store of users and roles, and load it.

    Without ``create`` a store that is missing or was never written to is an error, since auth would
    be disabled in it. With ``read_only`` nothing in a file is changed. With ``follow`` a store in
    etcd is a server's: it is not loaded yet, and follows what others change once it is. ``peers``
    are the other workers of the server.

    Raises StoreError if it is corrupt, StoreUnavailableError if it cannot be opened.
    """
    section = configuration.store.etcd
    if section is not None:
        return _etcd_store_of(data_dir, section, follow, peers)
    path = data_dir / (configuration.store.sqlite or SQLiteSection()).path
    store = AuthStore.loaded(SQLiteBackend(path, create=create, read_only=read_only))
    if not (create or store.state.revision):
        store.close()
        raise StoreError(
            f"nothing was ever written to {path}; fill it with `leeway init`, or restore it from a "
            "backup"
        )
    return store


def _etcd_store_of(
    data_dir: Path, section: EtcdSection, follow: bool, peers: "Peers | None"
) -> AuthStore:
    from webhook.backends.etcd import boottime

    backend = etcd_backend_of(data_dir, section, follow=follow, peers=peers)
    return AuthStore(backend, boottime) if follow else AuthStore.loaded(backend, boottime)


def etcd_backend_of(
    data_dir: Path, section: EtcdSection, *, follow: bool = False, peers: "Peers | None" = None
) -> "EtcdBackend":
    """Create the backend of a store in etcd; nothing is sent before it is used."""
    from webhook.backends.etcd import EtcdBackend

    return EtcdBackend(
        etcd_client_of(data_dir, section),
        section.prefix,
        follow=follow,
        writer=f"{gethostname()}:{os.getpid()}",
        max_staleness=section.max_staleness,
        peers=peers,
    )


def counters_of(store: AuthStore) -> "StoreCounters | None":
    """Return what a store in etcd has counted since the start, None for another."""
    backend = store.backend
    if isinstance(backend, SQLiteBackend):
        return None
    from webhook.backends.etcd import EtcdBackend

    return backend.counters if isinstance(backend, EtcdBackend) else None


def etcd_client_of(data_dir: Path, section: EtcdSection) -> "EtcdClient":
    """Create a client of etcd; nothing is sent and no file is read before it is used.

    This imports gRPC, which must not be in use when a process forks.
    """
    # It writes lines of its own to stderr otherwise.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from webhook.etcd.client import EtcdClient

    return EtcdClient(section.endpoints, *_credentials_of(data_dir, section))


def check_etcd_files(data_dir: Path, section: EtcdSection) -> None:
    """Raise CredentialFileError if a file for etcd cannot be used. Imports no gRPC."""
    from webhook.etcd.credentials import read_material

    tls, login = _credentials_of(data_dir, section)
    if tls is not None:
        read_material(tls)
    if login is not None:
        login.read_password()


def _credentials_of(
    data_dir: Path, section: EtcdSection
) -> tuple["EtcdTLS | None", "EtcdLogin | None"]:
    from webhook.etcd.credentials import EtcdLogin, EtcdTLS

    def path(name: str) -> str:
        return str((data_dir / name).absolute()) if name else ""

    files = map(path, (section.ca_file, section.cert_file, section.key_file))
    return (
        EtcdTLS(*files) if section.is_encrypted else None,
        EtcdLogin(section.username, path(section.password_file)) if section.username else None,
    )
