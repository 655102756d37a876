"""What this client shows to etcd: a certificate, or a user name with a password, from files.

Invariants:

1. Files are followed: they are looked at again at most ``_POLL_SECONDS`` after a change.
2. What is in use is a certificate with its own key, and authorities that can be read. While the
   files are anything else, as in the middle of a replacement, what was read before stays in use.
3. Nothing of a key, password or file is in a repr or an error.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from keys.errors import KeyFileError
from keys.files import read_credential_file, read_public_file
from keys.messages import shown_path
from webhook.etcd.errors import CredentialFileError

_POLL_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class EtcdTLS:
    """Files in PEM; an empty name means none.

    Without ``ca_file`` the authorities that come with gRPC are trusted. A certificate of a client
    has both ``cert_file`` and ``key_file``; the key is private (see ``keys.files``).
    """

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    def __post_init__(self) -> None:
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("a client certificate needs both cert_file and key_file")


@dataclass(frozen=True, slots=True)
class EtcdLogin:
    """A user of etcd's own auth, and a private file whose text is the password.

    A line end at the end of the file is not part of the password.
    """

    username: str
    password_file: str

    def read_password(self) -> str:
        """Read the password. Raises CredentialFileError."""
        data = _read(read_credential_file, self.password_file)
        try:
            password = data.decode("utf-8")
        except UnicodeDecodeError:
            raise CredentialFileError(
                f"{shown_path(self.password_file)} is not UTF-8; write the password of the etcd "
                "user into it"
            ) from None  # Invariant 3: the cause contains the bytes.
        return password.removesuffix("\n").removesuffix("\r")


@dataclass(frozen=True, slots=True, repr=False)  # Invariant 3.
class TLSMaterial:
    """The content of the files, None where there is none."""

    authorities: bytes | None
    private_key: bytes | None
    certificate: bytes | None


class TLSFiles:
    """The newest content of the files that is usable. ``clock`` returns seconds."""

    def __init__(self, tls: EtcdTLS, clock: Callable[[], float] = monotonic) -> None:
        self._tls = tls
        self._clock = clock
        self._lock = Lock()
        self._poll_at = -1.0
        self._stamps: list[tuple[int, int, int] | None] = []
        self._material: TLSMaterial | None = None
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why the present content of the files is not in use; empty if it is."""
        return self._problem

    def poll_soon(self) -> None:
        """Look at the files at the next call of ``material``: a connection was refused."""
        self._poll_at = -1.0

    def material(self) -> TLSMaterial:
        """Return what to use. Raises CredentialFileError if nothing could ever be read."""
        now = self._clock()
        material = self._material
        if material is not None and now < self._poll_at:
            return material
        with self._lock:
            material = self._material
            if material is None or now >= self._poll_at:
                self._poll_at = now + _POLL_SECONDS  # Invariant 1.
                material = self._poll(material)
            return material

    def _poll(self, material: TLSMaterial | None) -> TLSMaterial:
        stamps = [
            _stamp(name) for name in (self._tls.ca_file, self._tls.cert_file, self._tls.key_file)
        ]
        if material is not None and stamps == self._stamps and not self._problem:
            return material
        try:
            new = read_material(self._tls)
        except CredentialFileError as error:
            if material is None:
                raise
            self._problem = f"{error}; what was read before stays in use"  # Invariant 2.
            return material
        self._stamps, self._problem = stamps, ""
        if new != material:
            self._material = material = new
        return material


def read_material(tls: EtcdTLS) -> TLSMaterial:
    """Read the files. Raises CredentialFileError unless they fit together (invariant 2)."""
    authorities = certificate = key = None
    if tls.ca_file:
        authorities = _read(read_public_file, tls.ca_file)
        _certificates(authorities, tls.ca_file)
    if tls.cert_file:
        certificate = _read(read_public_file, tls.cert_file)
        key = _read(read_credential_file, tls.key_file)
        leaf = _certificates(certificate, tls.cert_file)[0]
        try:
            public = load_pem_private_key(key, None).public_key()
            form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            is_pair = public.public_bytes(*form) == leaf.public_key().public_bytes(*form)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise CredentialFileError(
                f"{shown_path(tls.key_file)} is not a private key in PEM without a password"
            ) from None  # Invariant 3.
        if not is_pair:
            raise CredentialFileError(
                f"{shown_path(tls.key_file)} is not the key of the certificate in "
                f"{shown_path(tls.cert_file)}"
            )
    return TLSMaterial(authorities, key, certificate)


def _certificates(pem: bytes, name: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise CredentialFileError(
            f"{shown_path(name)} is not a certificate in PEM"
        ) from None  # Invariant 3.


def _read(read: Callable[[Path], bytes], name: str) -> bytes:
    try:
        return read(Path(name))
    except KeyFileError as error:
        raise CredentialFileError(str(error)) from error


def _stamp(name: str) -> tuple[int, int, int] | None:
    try:
        status = Path(name).stat()
    except OSError:
        return None
    return status.st_ctime_ns, status.st_ino, status.st_size
