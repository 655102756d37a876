"""The configuration as frozen values.

Each section checks its own limits, so every configuration is in range and no user of it checks it
again. Times are in seconds, whatever their unit in the file.
"""

import re
from typing import Final, Literal

import msgspec

from keys.messages import shown
from webhook.config.section import Duration, Section, is_address, require_path, require_range
from webhook.config.store import KeysSection, StoreSection
from webhook.https_url import parse_https_url
from webhook.token.claims import LEGACY_ISSUER

API_VERSION: Final = "leeway.dev/v1"
KIND: Final = "LeewayConfiguration"
_HTTPS_URL: Final = re.compile(r"https://[^\s/?#@]+(?:/[^\s?#]*)?")
# A server that listens on every address can be reached at this one.
EVERY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104
RESERVED_GROUPS: Final = "system:"
"""The prefix of the groups to which Kubernetes itself grants permissions."""
SIGNER_ALGORITHMS: Final = ("RS256", "ES256", "ES384", "ES512")
"""What kube-apiserver accepts from a signer (``pkg/serviceaccount/externaljwt/plugin``)."""
MAX_REFRESH_HINT_SECONDS: Final = 3600
# ``sun_path`` has 108 bytes on Linux, and ends with a NUL.
_LONGEST_SOCKET_PATH: Final = 107
# Bytes.
_MIB: Final = 1024 * 1024


def _require_https(name: str, value: str, condition: str = ";") -> None:
    """Raise ValueError for a text that is not an https URL without query and fragment."""
    if not _HTTPS_URL.fullmatch(value):
        raise ValueError(
            f"{name} is {shown(value)}{condition} an https URL without query and fragment is "
            "allowed"
        )


def _require_issuer(value: str) -> None:
    """Raise ValueError for a text that cannot be the `iss` of a trusted issuer."""
    if not value or not value.isprintable():
        raise ValueError(
            f"url is {shown(value)}; the `iss` of its tokens is allowed, byte for byte, which is "
            "text that is not empty and has no control characters"
        )


def _require_fetchable(name: str, value: str) -> None:
    """Raise ValueError for a URL that keys cannot be fetched from."""
    try:
        parse_https_url(value)
    except ValueError as error:
        raise ValueError(f"{name} is {error}") from error


def _require_audiences(audiences: tuple[str, ...], *, at_least: int) -> None:
    """Raise ValueError for too few audiences, or one that is not printable ASCII."""
    if len(audiences) < at_least or not all(
        entry and entry.isascii() and entry.isprintable() for entry in audiences
    ):
        raise ValueError(
            f"audiences is {shown(list(audiences))}; entries of printable ASCII are allowed, "
            "none of them empty"
        )


class LeewaySection(Section, frozen=True):
    """How far each claim can be on the wrong side of the clock.

    A signer stamps ``nbf`` and ``iat`` from one clock, so ``issuedAt`` follows a larger
    ``notBefore`` unless it is set itself.
    """

    not_before: Duration = Duration(60)
    issued_at: Duration | None = None
    expiry: Duration = Duration(60)

    def __post_init__(self) -> None:
        require_range("notBefore", self.not_before, 0, 300)
        require_range("issuedAt", self.issued_at_seconds, 0, 300)
        require_range("expiry", self.expiry, 0, 300)

    @property
    def issued_at_seconds(self) -> float:
        """The leeway for ``iat`` in seconds."""
        return max(60.0, self.not_before) if self.issued_at is None else self.issued_at


class TokensSection(Section, frozen=True):
    """How long the tokens issued here live."""

    default_expiration: Duration = Duration(3600)
    min_expiration: Duration = Duration(600)
    max_expiration: Duration = Duration(86400)
    extend: bool = True

    def __post_init__(self) -> None:
        require_range("minExpiration", self.min_expiration, 600, 1 << 32)
        require_range("maxExpiration", self.max_expiration, self.min_expiration, 1 << 32)
        require_range(
            "defaultExpiration", self.default_expiration, self.min_expiration, self.max_expiration
        )


class IssuerKeysSection(Section, frozen=True):
    """Where the keys of a trusted issuer are; paths are relative to the data directory.

    ``caFile`` and ``tokenFile`` are for the requests to a URL.
    """

    jwks_file: str = ""
    public_key_files: tuple[str, ...] = ()
    jwks_url: str = msgspec.field(name="jwksURL", default="")
    discovery_url: str = msgspec.field(name="discoveryURL", default="")
    ca_file: str = ""
    token_file: str = ""

    def __post_init__(self) -> None:
        urls = {"jwksURL": self.jwks_url, "discoveryURL": self.discovery_url}
        given = [self.jwks_file, self.public_key_files, *urls.values()]
        if sum(map(bool, given)) != 1:
            raise ValueError("give one of jwksFile, publicKeyFiles, jwksURL and discoveryURL")
        for name, url in urls.items():
            if url:
                _require_fetchable(name, url)
        paths = {"jwksFile": self.jwks_file, "caFile": self.ca_file, "tokenFile": self.token_file}
        for name, path in paths.items():
            require_path(name, path)
        for path in self.public_key_files:
            require_path("publicKeyFiles", path)
        if (self.ca_file or self.token_file) and not any(urls.values()):
            raise ValueError("caFile and tokenFile need jwksURL or discoveryURL; leave them out")


class IssuerLeewaySection(Section, frozen=True):
    """The leeway for one issuer; what is not set is as for all issuers."""

    not_before: Duration | None = None
    issued_at: Duration | None = None
    expiry: Duration | None = None

    def over(self, general: LeewaySection) -> LeewaySection:
        """Return this over the leeway for all issuers. Raises ValueError if out of range."""
        return LeewaySection(
            not_before=general.not_before if self.not_before is None else self.not_before,
            issued_at=general.issued_at if self.issued_at is None else self.issued_at,
            expiry=general.expiry if self.expiry is None else self.expiry,
        )

    def __post_init__(self) -> None:
        self.over(LeewaySection())


class TrustedIssuerSection(Section, frozen=True):
    """Another issuer whose tokens are accepted."""

    url: str
    keys: IssuerKeysSection
    audiences: tuple[str, ...] = ()
    legacy: bool = False
    leeway: IssuerLeewaySection = IssuerLeewaySection()

    def __post_init__(self) -> None:
        _require_issuer(self.url)
        if self.keys.discovery_url:
            _require_https("url", self.url, "; with keys.discoveryURL")
        elif self.keys.jwks_url and not (self.legacy and self.url == LEGACY_ISSUER):
            _require_https("url", self.url, "; with keys.jwksURL")
        _require_audiences(self.audiences, at_least=0)


class ServerSection(Section, frozen=True):
    """The TLS port, the worker processes and their limits."""

    bind: str = "127.0.0.1:8443"
    workers: int = 2
    max_body_bytes: int = 3145728
    max_worker_bytes: int = 384 * _MIB
    max_anonymous_connections: int = 1000
    log_format: Literal["json", "text"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def __post_init__(self) -> None:
        if not is_address(self.bind):
            raise ValueError(f"bind is {shown(self.bind)}; write it HOST:PORT, like 127.0.0.1:8443")
        require_range("workers", self.workers, 1, 64)
        require_range("maxBodyBytes", self.max_body_bytes, 1024, 64 * _MIB)
        require_range("maxWorkerBytes", self.max_worker_bytes, 128 * _MIB, 65536 * _MIB)
        require_range("maxAnonymousConnections", self.max_anonymous_connections, 10, 100_000)


class AuthSection(Section, frozen=True):
    """How users log in, and which tokens they get."""

    token_provider: Literal["simple", "jwt", "none"] = "simple"
    auth_token_ttl: Duration = msgspec.field(name="authTokenTTL", default=Duration(300))
    bcrypt_cost: int = 10

    def __post_init__(self) -> None:
        require_range("authTokenTTL", self.auth_token_ttl, 1, 86400)
        require_range("bcryptCost", self.bcrypt_cost, 4, 16)


class ObjectsFileSection(Section, frozen=True):
    """A file of objects; the path is relative to the data directory."""

    path: str = ""

    def __post_init__(self) -> None:
        require_path("path", self.path)


class ObjectsKubernetesSection(Section, frozen=True):
    """An API server; the path is relative to the data directory.

    Without ``kubeconfig`` it is the cluster that this Pod runs in, else that of kubectl's
    kubeconfig.
    """

    kubeconfig: str = ""
    context: str = ""
    max_silence: Duration = Duration(300)

    def __post_init__(self) -> None:
        require_path("kubeconfig", self.kubeconfig)
        require_range("maxSilence", self.max_silence, 5, 3600)


class ObjectsSection(Section, frozen=True):
    """Where bound objects are looked up; with ``none`` they are not checked."""

    # ``source`` is last, so that the environment can set it together with a path.
    file: ObjectsFileSection = ObjectsFileSection()
    kubernetes: ObjectsKubernetesSection = ObjectsKubernetesSection()
    source: Literal["none", "file", "kubernetes"] = "none"

    def __post_init__(self) -> None:
        if self.source == "file" and not self.file.path:
            raise ValueError("source is file, which needs file.path: the file with the objects")


class MappingSection(Section, frozen=True):
    """How roles are returned as groups; an empty prefix turns this off."""

    role_group_prefix: str = "leeway:role:"

    def __post_init__(self) -> None:
        prefix = self.role_group_prefix
        # Nor a prefix of it: "sys" and a role "tem:masters" would be system:masters too.
        if prefix and (prefix.startswith(RESERVED_GROUPS) or RESERVED_GROUPS.startswith(prefix)):
            raise ValueError(
                f"roleGroupPrefix is {prefix[:64]!r}, with which a role could become a group of "
                f"Kubernetes' own ({RESERVED_GROUPS}masters); a prefix with which no group begins "
                f"with {RESERVED_GROUPS} is allowed"
            )


class AuthorizerSection(Section, frozen=True):
    """Whether the user ``root`` in a SubjectAccessReview is Leeway's ``root``."""

    allow_root: bool = False


class SignerSection(Section, frozen=True):
    """The socket on which ``leeway signer`` signs for kube-apiserver, and who can connect to it.

    ``refreshHint`` is how often kube-apiserver fetches the keys. Without ``group`` only the user
    that the signer runs as, and root, can connect.
    """

    socket: str = "/run/leeway/signer.sock"
    refresh_hint: Duration = Duration(60)
    group: str = ""

    def __post_init__(self) -> None:
        path = self.socket
        # An abstract socket (`@name`, or a NUL in front) has no mode: anybody could connect to it.
        is_file = path.startswith("/") and not path.endswith("/") and path.isprintable()
        # gRPC reads a path as that of a URL, and would bind to another one.
        is_file = is_file and not any(char in path for char in "%?#")
        if not is_file or len(path.encode("utf-8", "replace")) > _LONGEST_SOCKET_PATH:
            raise ValueError(
                f"socket is {shown(path)}; the absolute path of a socket of at most "
                f"{_LONGEST_SOCKET_PATH} bytes without %, ? and # is allowed, and no abstract "
                "socket"
            )
        require_range("refreshHint", self.refresh_hint, 1, MAX_REFRESH_HINT_SECONDS)
        if not all(char.isascii() and (char.isalnum() or char in "_.-") for char in self.group):
            raise ValueError(
                f"group is {shown(self.group)}; the name or number of a group is allowed"
            )


class Configuration(Section, frozen=True):
    """The content of ``leeway.yaml``.

    With a section ``signer`` the keys are used by ``leeway signer`` too; without it that command
    uses the defaults of the section, ``signer_settings``.
    """

    api_version: str = API_VERSION
    kind: str = KIND
    issuer: str = "https://leeway.default.svc"
    jwks_uri: str = msgspec.field(name="jwksURI", default="")
    audiences: tuple[str, ...] = ("https://kubernetes.default.svc",)
    leeway: LeewaySection = LeewaySection()
    tokens: TokensSection = TokensSection()
    keys: KeysSection = KeysSection()
    trusted_issuers: tuple[TrustedIssuerSection, ...] = ()
    server: ServerSection = ServerSection()
    store: StoreSection = StoreSection()
    auth: AuthSection = AuthSection()
    objects: ObjectsSection = ObjectsSection()
    mapping: MappingSection = MappingSection()
    authorizer: AuthorizerSection = AuthorizerSection()
    signer: SignerSection | None = None

    @property
    def signer_settings(self) -> SignerSection:
        """The section ``signer``, or its defaults."""
        return self.signer or SignerSection()

    def __post_init__(self) -> None:
        for name, value, served in (
            ("apiVersion", self.api_version, API_VERSION),
            ("kind", self.kind, KIND),
        ):
            if value != served:
                raise ValueError(f"{name} is {shown(value)}; {served!r} is served")
        _require_https("issuer", self.issuer)
        if self.jwks_uri:
            _require_https("jwksURI", self.jwks_uri)
        _require_audiences(self.audiences, at_least=1)
        if self.keys.store == "etcd" and self.store.etcd is None:
            raise ValueError(
                "keys.store is etcd, and there is no store.etcd; keys.store: folder is allowed "
                "without it"
            )
        algorithm = self.keys.algorithm
        if self.signer is not None and algorithm and algorithm not in SIGNER_ALGORITHMS:
            raise ValueError(
                f"keys.algorithm is {shown(algorithm)}, and there is a section signer; "
                f"{', '.join(SIGNER_ALGORITHMS)} are allowed, which are all that kube-apiserver "
                "takes from a signer"
            )
