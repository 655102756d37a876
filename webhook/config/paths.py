"""The files and folders of a data directory, and checks of their modes.

The directory has mode 0700, and private files in it 0600.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keys.files import (
    check_credential_file,
    check_private_file,
    read_private_file,
    read_public_file,
)
from keys.pki import CertifiedKey, read_certificate
from webhook.config.model import Configuration
from webhook.errors import DataDirectoryError

KEYS_FOLDER: Final = "keys"
TLS_FOLDER: Final = "tls"
KUBECONFIG_FOLDER: Final = "kubeconfig"
PRIVATE_FOLDERS: Final = (KEYS_FOLDER, TLS_FOLDER, KUBECONFIG_FOLDER)
DEFAULT_HOSTS: Final = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """The TLS files of the server; ``client_crl`` is None if there is none."""

    certificate: Path
    private_key: Path
    client_ca: Path
    client_crl: Path | None


def tls_files(data_dir: Path) -> TLSFiles:
    """Return the server's TLS files. Raises KeyFileError if one is missing or has a wrong mode."""
    folder = data_dir / TLS_FOLDER
    ca = folder / "ca.crt"
    files = TLSFiles(folder / "server.crt", folder / "server.key", ca, crl_beside(ca))
    check_tls_files(files)
    return files


def check_tls_files(files: TLSFiles) -> None:
    """Raise KeyFileError if a file is missing or empty, or readable by others."""
    read_private_file(files.private_key)
    read_public_file(files.certificate)
    read_public_file(files.client_ca)
    if files.client_crl is not None:
        read_public_file(files.client_crl)


def check_private_files(data_dir: Path, configuration: Configuration) -> None:
    """Raise KeyFileError if group or others can read a private key or a credential.

    The files need not exist. Those that a server uses are checked again when they are read.
    """
    keys = (data_dir / TLS_FOLDER).glob("*.key")
    for path in sorted([*keys, *(data_dir / KUBECONFIG_FOLDER).glob("*.yaml")]):
        check_private_file(path)
    for path in credential_files(data_dir, configuration):
        if path.exists():
            check_credential_file(path)


def credential_files(data_dir: Path, configuration: Configuration) -> list[Path]:
    """Return the private files that a configuration names, in its order."""
    names = [issuer.keys.token_file for issuer in configuration.trusted_issuers]
    if configuration.store.etcd is not None:
        names += [configuration.store.etcd.key_file, configuration.store.etcd.password_file]
    names += configuration.keys.encryption_key_files
    if configuration.objects.source == "kubernetes":
        names.append(configuration.objects.kubernetes.kubeconfig)
    return [data_dir / name for name in names if name]


def sqlite_file(data_dir: Path, configuration: Configuration) -> Path | None:
    """Return the file of the store; None for a store in etcd."""
    section = configuration.store.sqlite
    return None if section is None else data_dir / section.path


def check_folders(data_dir: Path) -> None:
    """Raise DataDirectoryError if group or others can create files in a data directory."""
    for folder in (data_dir, *(data_dir / name for name in PRIVATE_FOLDERS)):
        mode = stat.S_IMODE(folder.stat().st_mode) if folder.is_dir() else 0
        if mode & 0o022:
            raise DataDirectoryError(
                f"group or others can write in {folder} (mode {mode:04o}, 0700 is right); run "
                f"`chmod 700 {folder}`, or for a mounted volume use a folder below the "
                "mount"
            )


def crl_beside(client_ca: Path) -> Path | None:
    """Return the file of revoked client certificates, None if there is none.

    A dangling link is returned too, and cannot be read: its loss must not readmit anyone.
    """
    path = client_ca.with_suffix(".crl")
    return path if os.path.lexists(path) else None


def server_url(data_dir: Path, configuration: Configuration, hosts: Sequence[str] = ()) -> str:
    """Return the URL of the server for clients.

    Its host is the first of ``hosts``, else of the server's certificate. Raises KeyFileError.
    """
    path = data_dir / TLS_FOLDER / "server.crt"
    known = hosts or read_certificate(read_public_file(path), str(path)).hosts
    host = next((host for host in known if not host.startswith("*.")), DEFAULT_HOSTS[0])
    port = configuration.server.bind.rpartition(":")[2]
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def read_pair(folder: Path, name: str) -> CertifiedKey:
    """Read a certificate and its private key."""
    certificate = read_public_file(folder / f"{name}.crt")
    return CertifiedKey(certificate, read_private_file(folder / f"{name}.key"))
