"""Creates, renews, revokes and lists the certificates of a data directory, for ``leeway cert``.

Invariants:

1. Files that belong together are all written before the first is renamed into place.
2. Before a client certificate is replaced it is copied to ``tls/issued/``: it stays valid until it
   expires, so it has to be found when its user is revoked.
3. Every change is made under the lock of ``tls/``, so that no concurrent revocation is lost.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote

from keys.crl import (
    LIST_LIFETIME,
    RevocationLists,
    check_revocation_lists,
    list_is_due,
    renewed_list,
    revoked_serials,
)
from keys.files import create_file, make_folder, read_public_file, replace_file, replace_files
from keys.pki import (
    CertificateFacts,
    CertifiedKey,
    is_issued_by,
    make_client_certificate,
    make_server_certificate,
    read_certificate,
)
from webhook.config.paths import DEFAULT_HOSTS, KUBECONFIG_FOLDER, TLS_FOLDER, read_pair
from webhook.errors import CertificateError, DataDirectoryError
from webhook.setup.first_records import API_SERVER_USER, ROOT_USER
from webhook.setup.init import SERVER_NAME
from webhook.setup.kubeconfig import kubeconfig, with_certificate

CA: Final = "ca"
SERVER: Final = "server"
REVOCATION_LIST: Final = "ca.crl"
ISSUED_FOLDER: Final = "issued"
_MAX_FILE_NAME: Final = 200


@dataclass(frozen=True, slots=True)
class CertificateEntry:
    """A certificate of the directory: ``kind`` is ca, server or client.

    ``state`` is valid, due (less than a third of its lifetime is left), expired or revoked;
    ``path`` is None for one that was replaced and has not expired yet.
    """

    name: str
    kind: str
    state: str
    facts: CertificateFacts
    path: Path | None

    @property
    def serial(self) -> str:
        """The serial number, as openssl prints it."""
        return serial_text(self.facts.serial)

    @property
    def is_due(self) -> bool:
        """Whether it should be renewed now."""
        return self.state != "valid"


@dataclass(frozen=True, slots=True)
class Renewed:
    """A renewed certificate or list: its name, its end, and the files written."""

    name: str
    not_after: datetime
    paths: tuple[Path, ...]


def list_certificates(data_dir: Path, now: datetime) -> list[CertificateEntry]:
    """Return every certificate of a data directory, those in use first.

    Raises KeyFileError and DataDirectoryError.
    """
    folder = data_dir / TLS_FOLDER
    if not folder.is_dir():
        raise DataDirectoryError.none_at(data_dir)
    revoked = _revoked(folder)
    order = {CA: 0, SERVER: 1, API_SERVER_USER: 2, ROOT_USER: 3}
    paths = sorted(folder.glob("*.crt"), key=lambda p: (order.get(p.stem, 9), p.name))
    entries = [_entry(path, _facts(path), revoked, now) for path in paths]
    known = {entry.facts.serial for entry in entries}
    for path in sorted((folder / ISSUED_FOLDER).glob("*.crt")):
        facts = _facts(path)
        if facts.serial not in known and now <= facts.not_after:
            known.add(facts.serial)
            name, state = facts.common_name, _state(facts, revoked, now)
            entries.append(CertificateEntry(name, "client", state, facts, None))
    return entries


def revocation_list(data_dir: Path, now: datetime) -> RevocationLists | None:
    """Return the list of revoked certificates, None if there is none.

    Raises the errors of ``keys.crl``.
    """
    path = data_dir / TLS_FOLDER / REVOCATION_LIST
    if not path.exists():
        return None
    ca = read_public_file(data_dir / TLS_FOLDER / "ca.crt")
    return check_revocation_lists(read_public_file(path), ca, now, str(path))


def create_client(
    data_dir: Path, name: str, lifetime: timedelta, now: datetime, server: str
) -> Renewed:
    """Make a certificate, a key and a kubeconfig for the user ``name``.

    ``server`` is the URL in the kubeconfig. Raises CertificateError if a file of that name exists,
    and the errors of ``keys``.
    """
    folder, stem = data_dir / TLS_FOLDER, file_stem(name)
    with _locked(folder):
        pair = make_client_certificate(read_pair(folder, CA), name, now, lifetime)
        document = kubeconfig(server, read_public_file(folder / "ca.crt"), name, pair)
        files = {
            folder / f"{stem}.crt": pair.certificate,
            folder / f"{stem}.key": pair.private_key,
            data_dir / KUBECONFIG_FOLDER / f"{stem}.yaml": document,
        }
        for path in files:
            if os.path.lexists(path):
                raise CertificateError(
                    f"{path} exists already; `leeway cert renew {name}` makes another certificate "
                    "of the same user"
                )
        _record(folder, pair.certificate, now)
        replace_files(files)  # invariant 1
    return Renewed(name, read_certificate(pair.certificate, name).not_after, tuple(files))


def renew(
    data_dir: Path,
    names: Sequence[str],
    now: datetime,
    lifetime: timedelta | None = None,
    hosts: Sequence[str] = (),
    *,
    only_due: bool = False,
) -> list[Renewed]:
    """Replace certificates by new ones with the same name, hosts and lifetime, and a new key.

    Without ``names`` these are all that the CA has signed and that are not revoked, and the list of
    revoked ones. ``hosts`` replace the server's hosts. Kubeconfigs that contain a certificate get
    the new one. Raises CertificateError, DataDirectoryError and the errors of ``keys``.
    """
    folder = data_dir / TLS_FOLDER
    with _locked(folder):
        ca = read_pair(folder, CA)
        entries: dict[str, CertificateEntry] = {}
        for entry in list_certificates(data_dir, now):
            if entry.path is not None:
                entries.setdefault(entry.name, entry)
        wanted = names or [
            *(e.name for e in entries.values() if _is_renewed_unnamed(e, ca)),
            *([REVOCATION_LIST] if (folder / REVOCATION_LIST).exists() else []),
        ]
        done = []
        for name in dict.fromkeys(wanted):
            if name == REVOCATION_LIST:
                if not only_due or _list_is_due(folder, now):
                    done.append(_write_list(folder, ca, (), now, lifetime or LIST_LIFETIME))
                continue
            if name not in entries:
                raise CertificateError(
                    f"{folder} has no certificate of {name!a}; `leeway cert list` shows "
                    "what there is, and `leeway cert create` makes one"
                )
            if not only_due or entries[name].is_due:
                done.append(_renew_one(data_dir, entries[name], ca, now, lifetime, hosts))
        return done


def revoke(
    data_dir: Path, name: str, serials: Iterable[int], now: datetime, lifetime: timedelta
) -> tuple[list[int], Renewed]:
    """Add every unexpired certificate of a user, and ``serials``, to the list of revoked ones.

    Returns the serial numbers that are new on the list, and the list. Raises CertificateError if
    the user has no certificate, and the errors of ``keys``.
    """
    folder = data_dir / TLS_FOLDER
    if name in (CA, SERVER):
        raise CertificateError(
            f"{name!r} is not a client, and only client certificates can be revoked; "
            "`leeway cert renew server` replaces the server's"
        )
    with _locked(folder):
        found = set(serials)
        if name:
            entries = [e for e in list_certificates(data_dir, now) if e.kind == "client"]
            own = [e.facts.serial for e in entries if e.facts.common_name == name]
            if not own:
                raise CertificateError(
                    f"{folder} has no certificate of {name!a}; give its number with --serial, as "
                    "`openssl x509 -noout -serial -in FILE` prints it"
                )
            found.update(own)
        new = sorted(found - _revoked(folder))
        return new, _write_list(folder, read_pair(folder, CA), new, now, lifetime)


def serial_text(serial: int) -> str:
    """Return a serial number as hexadecimal bytes, as openssl prints it.

    >>> serial_text(0xABC)
    '0ABC'
    """
    digits = f"{serial:X}"
    return digits.zfill(len(digits) + len(digits) % 2)


def file_stem(name: str) -> str:
    """Return the stem of a user's file names. Raises CertificateError for a bad name."""
    stem = quote(name, safe=":@+=, ")
    stem = f"%2E{stem[1:]}" if stem.startswith(".") else stem
    is_taken = stem in (CA, SERVER, REVOCATION_LIST)
    if is_taken or len(stem) > _MAX_FILE_NAME:
        why = "is the name of other files" if is_taken else "is too long for the name of a file"
        raise CertificateError(f"{name[:64]!a} {why}; choose another NAME for the user")
    return stem


def _facts(path: Path) -> CertificateFacts:
    return read_certificate(read_public_file(path), str(path))


def _entry(
    path: Path, facts: CertificateFacts, revoked: frozenset[int], now: datetime
) -> CertificateEntry:
    if path.stem == CA:
        return CertificateEntry(CA, CA, _state(facts, frozenset(), now), facts, path)
    kind = SERVER if path.stem == SERVER else "client"
    name = SERVER if kind == SERVER else facts.common_name
    return CertificateEntry(name, kind, _state(facts, revoked, now), facts, path)


def _state(facts: CertificateFacts, revoked: frozenset[int], now: datetime) -> str:
    if facts.serial in revoked:
        return "revoked"
    if now > facts.not_after:
        return "expired"
    return "due" if facts.not_after - now < facts.lifetime / 3 else "valid"


def _is_renewed_unnamed(entry: CertificateEntry, ca: CertifiedKey) -> bool:
    # A revoked user gets a new certificate only on request.
    if entry.path is None or entry.kind == CA or entry.state == "revoked":
        return False
    return is_issued_by(entry.path.read_bytes(), ca.certificate)


def _renew_one(
    data_dir: Path,
    entry: CertificateEntry,
    ca: CertifiedKey,
    now: datetime,
    lifetime: timedelta | None,
    hosts: Sequence[str],
) -> Renewed:
    folder, path, facts = data_dir / TLS_FOLDER, entry.path, entry.facts
    if path is None or entry.kind == CA:
        raise CertificateError(
            f"the CA is not renewed, since every client trusts tls/ca.crt; it is good until "
            f"{facts.not_after:%Y-%m-%d}"
        )
    old = read_public_file(path)
    if not is_issued_by(old, ca.certificate):
        raise CertificateError(f"{path} was not signed by tls/ca.crt; renew it where it comes from")
    lifetime = lifetime or facts.lifetime
    files: dict[Path, bytes] = {}
    if entry.kind == SERVER:
        names = [*hosts, *DEFAULT_HOSTS] if hosts else facts.hosts
        pair = make_server_certificate(ca, facts.common_name or SERVER_NAME, names, now, lifetime)
    else:
        pair = make_client_certificate(ca, facts.common_name, now, lifetime)
        _record(folder, old, now)  # invariant 2
        _record(folder, pair.certificate, now)
        for config in sorted((data_dir / KUBECONFIG_FOLDER).glob("*.yaml")):
            text = with_certificate(config.read_bytes(), str(config), entry.name, pair)
            if text is not None:
                files[config] = text
    files = {path.with_suffix(".key"): pair.private_key, path: pair.certificate} | files
    replace_files(files)
    not_after = read_certificate(pair.certificate, str(path)).not_after
    return Renewed(entry.name, not_after, tuple(sorted(files)))


def _record(folder: Path, certificate: bytes, now: datetime) -> None:
    """Store a copy of a certificate, and delete the copies of expired ones."""
    issued = folder / ISSUED_FOLDER
    make_folder(issued)
    for path in issued.glob("*.crt"):
        if _facts(path).not_after < now:
            path.unlink()
    serial = read_certificate(certificate, "a certificate").serial
    create_file(issued / f"{serial:x}.crt", certificate)


def _revoked(folder: Path) -> frozenset[int]:
    path = folder / REVOCATION_LIST
    return revoked_serials(read_public_file(path), str(path)) if path.exists() else frozenset()


def _list_is_due(folder: Path, now: datetime) -> bool:
    path = folder / REVOCATION_LIST
    return list_is_due(read_public_file(path), now, str(path))


def _write_list(
    folder: Path, ca: CertifiedKey, serials: Iterable[int], now: datetime, lifetime: timedelta
) -> Renewed:
    path = folder / REVOCATION_LIST
    before = read_public_file(path) if os.path.lexists(path) else b""
    replace_file(path, renewed_list(ca, before, serials, now, str(path), lifetime))
    return Renewed(REVOCATION_LIST, now + lifetime, (path,))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise DataDirectoryError(
            f"{folder} cannot be opened: {error.strerror}; name the data directory with "
            "--data-dir, or make one with `leeway init`"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # invariant 3
        yield
    except OSError as error:
        raise DataDirectoryError(f"{error.filename or folder}: {error.strerror}") from error
    finally:
        os.close(descriptor)
