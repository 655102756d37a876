"""Creates a data directory, with mode 0700 and private files with 0600.

``initialise`` never overwrites a file, and running it twice changes nothing. Of several at once in
one directory, one comes after the other. Wherever it is killed, the store is empty or complete.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from keys.files import (
    create_file,
    lock_folder,
    make_folder,
    read_public_file,
)
from keys.folder import SCHEDULE_FILE, load_keyring
from keys.folder_changes import generate_key, write_schedule
from keys.messages import os_error_with_advice
from keys.pki import (
    CertifiedKey,
    make_ca,
    make_client_certificate,
    make_server_certificate,
)
from webhook.backends.sqlite import SQLiteBackend
from webhook.config.load import FILE_NAME, load_configuration, parse_configuration
from webhook.config.model import Configuration
from webhook.config.paths import (
    DEFAULT_HOSTS,
    KEYS_FOLDER,
    KUBECONFIG_FOLDER,
    PRIVATE_FOLDERS,
    TLS_FOLDER,
    check_private_files,
    read_pair,
    server_url,
    sqlite_file,
)
from webhook.errors import DataDirectoryError
from webhook.kube.access_review import ACCESS_REVIEW_PATH
from webhook.kube.token_review import TOKEN_REVIEW_PATH
from webhook.rbac.auth_store import AuthStore
from webhook.setup.first_records import API_SERVER_USER, ROOT_USER, first_records
from webhook.setup.kubeconfig import kubeconfig

DEFAULT_ALGORITHM: Final = "RS256"
SERVER_NAME: Final = "leeway"
_LOCK_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class InitOptions:
    """The options of ``leeway init``. Empty means the default, RS256 for the algorithm."""

    issuer: str = ""
    audiences: Sequence[str] = ()
    hosts: Sequence[str] = ()
    algorithm: str = ""


def initialise(
    data_dir: Path,
    options: InitOptions,
    now: float,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> list[Path]:
    """Create what is missing in a data directory; return the files created, in order.

    ``environment`` is that of the server, which may set where it listens and the path of its store.
    A store that is not a file in the directory is not filled.

    Raises DataDirectoryError if the directory cannot be created or has a certificate without its
    key, ConfigurationError for an issuer or audience that is not allowed, and the errors of
    ``keys``, also for an existing private file that the server would refuse.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     made = initialise(Path(folder), InitOptions(algorithm="ES256"), 1_800_000_000)
    ...     [path.name for path in made if path.suffix == ".yaml"]
    ['leeway.yaml', 'tokenreview.yaml', 'subjectaccessreview.yaml', 'root.yaml']
    """
    # All options are checked before anything is created.
    text = configuration_text(options)
    if (data_dir / FILE_NAME).exists():
        parse_configuration(text, "leeway init", {}, {})
        configuration = load_configuration(data_dir, environment, {})
    else:
        configuration = parse_configuration(text, "leeway init", environment, {})
    date = _date(now)
    make_server_certificate(make_ca("check", date), SERVER_NAME, options.hosts, date)
    folders = [data_dir / name for name in PRIVATE_FOLDERS]
    if folders[0].is_dir():
        load_keyring(folders[0])
    check_private_files(data_dir, configuration)
    try:
        if data_dir.is_dir() and not any(data_dir.iterdir()):
            # Created for us, by mkdir or as a volume; one with files in it may be used by others.
            data_dir.chmod(0o700)
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(data_dir):
            for folder in folders:
                make_folder(folder)
            return _make_files(data_dir, options, text, now, environment)
    except TimeoutError as error:
        raise DataDirectoryError(str(error)) from error
    except OSError as error:
        raise DataDirectoryError(
            f"{data_dir} cannot be created: {os_error_with_advice(error)}"
        ) from error


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    descriptor = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        lock_folder(descriptor, data_dir, _LOCK_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _make_files(
    data_dir: Path, options: InitOptions, text: str, now: float, environment: Mapping[str, str]
) -> list[Path]:
    made: list[Path] = []
    path = data_dir / FILE_NAME
    if create_file(path, text.encode("utf-8")):
        made.append(path)
    configuration = parse_configuration(path.read_text("utf-8"), str(path), environment, {})
    if configuration.keys.store == "folder":
        algorithm = options.algorithm or DEFAULT_ALGORITHM
        made += _make_signing_key(data_dir / KEYS_FOLDER, algorithm, now)
    made += _make_certificates(data_dir, options.hosts, now)
    made += _make_kubeconfigs(data_dir, options.hosts, configuration)
    database = sqlite_file(data_dir, configuration)
    return made if database is None else made + _make_database(database)


def _make_database(path: Path) -> list[Path]:
    """Create a database with the first records, or fill one that was never written to."""
    is_there = path.exists()
    if is_there and _is_filled(path):
        return []
    # Created under another name, so that an unfinished store is never used.
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with closing(SQLiteBackend(unfinished)) as backend:
        backend.commit(0, first_records())
    if is_there:
        unfinished.replace(path)
    else:
        path.hardlink_to(unfinished)
        unfinished.unlink()
    unfinished.with_name(f"{unfinished.name}-journal").unlink(missing_ok=True)
    return [path]


def _is_filled(path: Path) -> bool:
    with closing(AuthStore.loaded(SQLiteBackend(path, read_only=True))) as store:
        return store.state.revision > 0


def _make_signing_key(folder: Path, algorithm: str, now: float) -> list[Path]:
    before = set(folder.iterdir())
    if load_keyring(folder).active is None:
        generate_key(folder, algorithm, int(now))
    elif not (folder / SCHEDULE_FILE).exists():
        # The schedule distinguishes this key from one that is added later; in a folder that cannot
        # be written no key is added either.
        with suppress(OSError):
            write_schedule(folder, int(now))
    # The key first, also if its name sorts after that of the schedule.
    return sorted(set(folder.iterdir()) - before, key=lambda path: (path.suffix != ".pem", path))


def _make_certificates(data_dir: Path, hosts: Sequence[str], now: float) -> list[Path]:
    folder = data_dir / TLS_FOLDER
    date = _date(now)
    made: list[Path] = []
    if not _has_pair(folder, "ca"):
        made += _write_pair(folder, "ca", make_ca(f"{SERVER_NAME} CA", date))
    ca = read_pair(folder, "ca")
    if not _has_pair(folder, "server"):
        names = [*hosts, *DEFAULT_HOSTS]
        made += _write_pair(folder, "server", make_server_certificate(ca, SERVER_NAME, names, date))
    for user in (API_SERVER_USER, ROOT_USER):
        if not _has_pair(folder, user):
            made += _write_pair(folder, user, make_client_certificate(ca, user, date))
    return made


def _make_kubeconfigs(
    data_dir: Path, hosts: Sequence[str], configuration: Configuration
) -> list[Path]:
    server = server_url(data_dir, configuration, hosts)
    made = []
    for name, path, user in (
        ("tokenreview", TOKEN_REVIEW_PATH, API_SERVER_USER),
        ("subjectaccessreview", ACCESS_REVIEW_PATH, API_SERVER_USER),
        ("root", "", ROOT_USER),
    ):
        file = data_dir / KUBECONFIG_FOLDER / f"{name}.yaml"
        folder = data_dir / TLS_FOLDER
        ca = read_public_file(folder / "ca.crt")
        document = kubeconfig(server + path, ca, user, read_pair(folder, user))
        if create_file(file, document):
            made.append(file)
    return made


def _has_pair(folder: Path, name: str) -> bool:
    certificate, private_key = folder / f"{name}.crt", folder / f"{name}.key"
    if certificate.exists() != private_key.exists():
        there, missing = (
            (certificate, private_key) if certificate.exists() else (private_key, certificate)
        )
        raise DataDirectoryError(
            f"{missing} is missing, but {there} is there; restore it from a backup, or after an "
            f"interrupted `leeway init` remove {there} and run `leeway init` again"
        )
    return certificate.exists()


def _write_pair(folder: Path, name: str, pair: CertifiedKey) -> list[Path]:
    private_key, certificate = folder / f"{name}.key", folder / f"{name}.crt"
    create_file(private_key, pair.private_key)
    create_file(certificate, pair.certificate, 0o644)
    return [certificate, private_key]


def _date(now: float) -> datetime:
    return datetime.fromtimestamp(int(now), UTC)


def configuration_text(options: InitOptions) -> str:
    """Render the ``leeway.yaml`` that ``init`` writes."""
    default = Configuration()
    issuer = _quote(options.issuer or default.issuer)
    audiences = ", ".join(_quote(entry) for entry in options.audiences or default.audiences)
    return f"""\
apiVersion: leeway.dev/v1
kind: LeewayConfiguration
# The `iss` of the tokens signed here.
issuer: {issuer}
# The audiences of your API server, used for requests that name none.
audiences: [{audiences}]
# How far each claim can be on the wrong side of this server's clock: 0s to 300s. issuedAt is 60s,
# or notBefore if that is larger, unless it is set too.
leeway: {{notBefore: 60s, expiry: 60s}}
tokens:
  defaultExpiration: 1h
  minExpiration: 10m
  maxExpiration: 24h
  extend: true
# Other issuers whose tokens are accepted too. Paths are relative to this directory.
# trustedIssuers:
# - url: https://kubernetes.default.svc.cluster.local
#   keys: {{jwksFile: cluster-jwks.json}}
server: {{bind: "127.0.0.1:8443", workers: 2, maxBodyBytes: 3145728}}
"""


def _quote(text: str) -> str:
    # A JSON string is a YAML string.
    return msgspec.json.encode(text).decode("utf-8")
