"""The sections of the store and of the signing keys."""

from ipaddress import IPv6Address, ip_address
from string import ascii_letters, digits
from typing import Final, Literal

import msgspec

from keys.messages import shown
from webhook.config.section import Duration, Section, require_path, require_range
from webhook.etcd.endpoint import parse_endpoint

MAX_ENDPOINTS: Final = 16
_MAX_PREFIX_BYTES: Final = 256
# The kid of a key made here is the SHA-256 of its public key in base64url.
_KID: Final = frozenset(ascii_letters + digits + "-_")
_KID_LENGTH: Final = 43


class KeysSection(Section, frozen=True):
    """Where the signing keys are, and their automatic rotation; ``rotateEvery`` 0 turns it off.

    An empty ``algorithm`` means that of the previous key. With ``store: etcd`` the keys are in the
    store, encrypted with the first of ``encryptionKeyFiles``; all of these decrypt. A key whose kid
    is ``refused`` verifies and signs nothing here. Paths are relative to the data directory.
    """

    rotate_every: Duration = Duration(0)
    algorithm: Literal["", "RS256", "ES256", "ES384", "ES512", "EdDSA"] = ""
    # After ``encryption_key_files``, so that the environment can set both.
    encryption_key_files: tuple[str, ...] = ()
    store: Literal["folder", "etcd"] = "folder"
    refused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # A day at least, since a new key is published for hours before it signs.
        if self.rotate_every:
            require_range("rotateEvery", self.rotate_every, 86400, 3650 * 86400)
        _require_different("encryptionKeyFiles", self.encryption_key_files)
        for path in self.encryption_key_files:
            if not path:
                raise ValueError("encryptionKeyFiles has an empty path; paths of files are allowed")
            require_path("encryptionKeyFiles", path)
        if self.store == "etcd" and not self.encryption_key_files:
            raise ValueError(
                "store is etcd, which needs encryptionKeyFiles; create one with `leeway keys "
                "encryption-key FILE`, and give the same file to every replica"
            )
        for kid in self.refused:
            if len(kid) != _KID_LENGTH or not _KID.issuperset(kid):
                raise ValueError(
                    f"refused has {shown(kid)}; the kids that `leeway keys list` shows are "
                    f"allowed, {_KID_LENGTH} letters, digits, - and _"
                )


class SQLiteSection(Section, frozen=True):
    """The SQLite store; the path is relative to the data directory."""

    path: str = "auth.db"

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path is empty; give the file of the store, like auth.db")
        require_path("path", self.path)


class EtcdSection(Section, frozen=True):
    """A store in etcd; paths are relative to the data directory.

    Only keys below ``PREFIX/`` are read and written. The client certificate and the login are those
    of a user of etcd's own auth; either can be left out. Past ``maxStaleness`` without a proof that
    nothing is missing nothing is answered; with ``strict`` each answer waits for such a proof.
    """

    endpoints: tuple[str, ...]
    prefix: str = "/leeway"
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    username: str = ""
    password_file: str = ""
    max_staleness: Duration = Duration(3)
    consistency: Literal["bounded", "strict"] = "bounded"

    def __post_init__(self) -> None:
        self._check_endpoints()
        _require_prefix(self.prefix)
        self._check_files()
        require_range("maxStaleness", self.max_staleness, 0.5, 30.0)

    @property
    def is_encrypted(self) -> bool:
        """Whether the endpoints are https."""
        return self.endpoints[0].startswith("https://")

    def _check_endpoints(self) -> None:
        if not 1 <= len(self.endpoints) <= MAX_ENDPOINTS:
            raise ValueError(
                f"endpoints has {len(self.endpoints)} entries; 1 to {MAX_ENDPOINTS} are allowed"
            )
        for endpoint in self.endpoints:
            _require_endpoint(endpoint)
        _require_different("endpoints", tuple(map(str.lower, self.endpoints)))
        if len({endpoint.partition(":")[0] for endpoint in self.endpoints}) > 1:
            raise ValueError("endpoints has http and https; one of them for all is allowed")

    def _check_files(self) -> None:
        for name in ("ca_file", "cert_file", "key_file", "password_file"):
            require_path(_camel(name), getattr(self, name))
        for one, other in (("cert_file", "key_file"), ("username", "password_file")):
            if bool(getattr(self, one)) != bool(getattr(self, other)):
                given, missing = (one, other) if getattr(self, one) else (other, one)
                raise ValueError(
                    f"{_camel(given)} is given without {_camel(missing)}; both or neither is "
                    "allowed"
                )
        if not self.username.isprintable() or ":" in self.username:
            raise ValueError(
                "username holds a colon or a control character; the name of a user of etcd is "
                "allowed, and its password in passwordFile"
            )
        if self.is_encrypted and not self.ca_file:
            raise ValueError(
                "caFile is missing; https endpoints need the file of the CA that signed the "
                "certificates of etcd"
            )
        if not self.is_encrypted and (self.ca_file or self.cert_file):
            raise ValueError("caFile, certFile and keyFile need https endpoints; leave them out")


class StoreSection(Section, frozen=True):
    """Where users, roles, permissions and revocations are stored.

    Exactly one of the two is None; without either in the file it is SQLite.
    """

    sqlite: SQLiteSection | None = None
    etcd: EtcdSection | None = None

    def __post_init__(self) -> None:
        if self.sqlite is not None and self.etcd is not None:
            raise ValueError("sqlite and etcd are both given; one of them is allowed")
        if self.sqlite is None and self.etcd is None:
            msgspec.structs.force_setattr(self, "sqlite", SQLiteSection())


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.title, others))


def _require_different(name: str, values: tuple[str, ...]) -> None:
    """Raise ValueError for a value that is there twice."""
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ValueError(f"{name} has {shown(value)} twice; each once is allowed")


def _require_prefix(prefix: str) -> None:
    """Raise ValueError for a text that cannot be the prefix of our keys."""
    is_path = prefix.startswith("/") and not prefix.endswith("/") and "//" not in prefix
    is_text = prefix.isprintable() and " " not in prefix
    if not (is_path and is_text and len(prefix.encode("utf-8", "replace")) <= _MAX_PREFIX_BYTES):
        raise ValueError(
            f"prefix is {shown(prefix)}; a text of at most {_MAX_PREFIX_BYTES} bytes that begins "
            "with /, does not end with it and has no // and no spaces is allowed, like /leeway"
        )


def _require_endpoint(endpoint: str) -> None:
    """Raise ValueError for a text that is not ``https://HOST:PORT``, or http to this machine."""
    scheme, _, address = endpoint.partition("://")
    host = address.rpartition(":")[0].strip("[]")
    if not _is_endpoint(endpoint, host):
        raise ValueError(
            f"endpoints has {shown(endpoint)}; https://HOST:PORT is allowed, like "
            "https://10.0.0.11:2379"
        )
    if scheme == "http" and not _is_loopback(host):
        raise ValueError(
            f"endpoints has {shown(endpoint)}; http is allowed for addresses of this machine only "
            "(127.0.0.1, [::1], localhost), https for all others"
        )


def _is_endpoint(endpoint: str, host: str) -> bool:
    try:
        parse_endpoint(endpoint)
        if ":" in host:
            IPv6Address(host)
    except ValueError:
        return False
    return not endpoint.endswith("/")


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
