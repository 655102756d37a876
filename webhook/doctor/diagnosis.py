"""All checks of ``leeway doctor`` in their order. They change and create nothing."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from keys.keyring import Keyring
from keys.messages import plain, utc
from webhook.assembly import rotation_policy_of
from webhook.config.load import FILE_NAME, load_configuration
from webhook.config.model import Configuration
from webhook.config.paths import KEYS_FOLDER, credential_files, sqlite_file
from webhook.doctor import api_server_flags, signer_flags
from webhook.doctor.directory import (
    FileFacts,
    check_directory,
    check_modes,
    open_directory,
    private_files,
)
from webhook.doctor.etcd import CLOCK_SOURCE, Cluster, examine_etcd
from webhook.doctor.findings import Examination, MissingError, Prerequisite, Report, Verdict, ok
from webhook.doctor.fixes import Fixes
from webhook.doctor.local import (
    examine_certificates,
    examine_kubeconfigs,
    examine_sources,
    examine_store,
    hosts_of,
)
from webhook.doctor.manifest import CONTROLLER_MANAGER, Manifest, parse_manifest
from webhook.doctor.remote import Targets, examine_clock, examine_server
from webhook.doctor.signer import examine_signer
from webhook.doctor.signing_keys import check_keyring, check_schedule
from webhook.errors import LeewayError
from webhook.signing_keys import keyring_for


def _check_access_cache(manifest: Manifest) -> Verdict:
    # It can be read if doctor runs on the API server's machine.
    authorizers = None
    if path := manifest.host_path(manifest.value(api_server_flags.ACCESS_CONFIG)):
        with suppress(OSError):
            authorizers = Path(path).read_bytes()
    return api_server_flags.check_access_cache(manifest, authorizers)


_MANIFEST_CHECKS: Final[tuple[tuple[str, Callable[[Manifest], Verdict]], ...]] = (
    ("flags once", api_server_flags.check_flags_once),
    ("token flags", api_server_flags.check_token_flags),
    ("token cache", api_server_flags.check_token_cache),
    ("access flags", api_server_flags.check_access_flags),
    ("access cache", _check_access_cache),
    ("webhook files", api_server_flags.check_mounts),
)
# Without a webhook they say nothing of use.
_FOR_REVIEWS: Final = ("token flags", "token cache", "access flags", "access cache")
_SIGNER_CHECKS: Final[tuple[tuple[str, Callable[[Manifest, Configuration], Verdict]], ...]] = (
    ("signer endpoint", signer_flags.check_endpoint),
    ("signer issuer", signer_flags.check_issuer),
    ("signer expiration", signer_flags.check_expiration),
    ("signer reviews", signer_flags.check_reviews),
)


@dataclass(frozen=True, slots=True)
class Options:
    """What to examine.

    ``manifest`` is the file of kube-apiserver's static Pod, ``controller_manifest`` that of
    kube-controller-manager. ``clock_source`` is the file in which Linux names its source of time.
    """

    data_dir: Path
    environment: Mapping[str, str]
    targets: Targets
    manifest: Path | None = None
    controller_manifest: Path | None = None
    clock_source: Path = CLOCK_SOURCE


def examine(options: Options, now: float) -> Report:
    """Make every check. Raises DataDirectoryError if there is no data directory."""
    data_dir = options.data_dir
    directory = open_directory(data_dir)
    exam, fixes = Examination(), Fixes(data_dir, hosts_of(data_dir))
    date = datetime.fromtimestamp(now, UTC)
    exam.check("data directory", lambda: check_directory(directory), f"ls -ld {data_dir}")
    configuration = exam.load(
        "configuration",
        lambda: load_configuration(data_dir, options.environment, {}),
        lambda found: ok(
            f"issuer {found.issuer}, audiences {', '.join(map(plain, found.audiences))}"
        ),
        f"edit {data_dir / FILE_NAME}; docs/configuration.md says what is allowed",
    )
    files = exam.load(
        "private files",
        lambda: private_files(data_dir, *_named_files(data_dir, configuration)),
        lambda found: check_modes(found, directory.owner),
        f"ls -lR {data_dir}",
    )
    # What is in the store has no finding of its own if etcd does not answer.
    cluster = _examine_etcd(exam, data_dir, configuration, options.clock_source)
    keyring = _examine_keys(exam, data_dir, configuration, files, cluster, fixes, int(now))
    ca = examine_certificates(exam, data_dir, fixes, date)
    examine_kubeconfigs(exam, data_dir, configuration, ca, fixes, date)
    examine_store(exam, data_dir, configuration, fixes, cluster)
    examine_sources(exam, data_dir, configuration, keyring)
    examine_signer(exam, data_dir, configuration, keyring, fixes)
    is_webhook = _sends_reviews(options.manifest)
    examine_server(exam, options.targets, configuration, keyring, ca, fixes, is_webhook=is_webhook)
    examine_clock(exam, options.targets, configuration)
    _examine_manifest(exam, options.manifest, configuration)
    _examine_controller(exam, options.controller_manifest)
    return exam.report(str(data_dir), utc(now))


def _named_files(
    data_dir: Path, configuration: Prerequisite[Configuration]
) -> tuple[Path | None, Sequence[Path]]:
    """Return the paths of the store and the credential files that the configuration names."""
    try:
        found = configuration.get()
    except MissingError:
        # The configuration has its own check; the store is then looked for at its usual place.
        found = Configuration()
    return sqlite_file(data_dir, found), credential_files(data_dir, found)


def _examine_keys(
    exam: Examination,
    data_dir: Path,
    configuration: Prerequisite[Configuration],
    files: Prerequisite[list[FileFacts]],
    cluster: Prerequisite[Cluster] | None,
    fixes: Fixes,
    now: int,
) -> Prerequisite[Keyring]:
    def load() -> Keyring:
        files.get()  # a key that others can read is not loaded
        try:
            found = configuration.get()
        except MissingError:
            # It has its own check; the keys are then looked for at their usual place.
            found = Configuration()
        if cluster is not None and found.keys.store == "etcd":
            cluster.get()
        return keyring_for(data_dir, found)

    keyring = exam.load(
        "signing keys",
        load,
        lambda found: check_keyring(found, fixes.leeway("keys", "generate")),
        _fix_of_keys(configuration, fixes),
    )
    rotate = fixes.leeway("keys", "rotate")
    exam.check(
        "key schedule",
        lambda: check_schedule(keyring.get(), rotation_policy_of(configuration.get()), now, rotate),
        rotate,
    )
    return keyring


def _examine_etcd(
    exam: Examination,
    data_dir: Path,
    configuration: Prerequisite[Configuration],
    clock_source: Path,
) -> Prerequisite[Cluster] | None:
    """Check the cluster of a store in etcd; None for another store."""
    with suppress(MissingError):
        section = configuration.get().store.etcd
        if section is not None:
            return examine_etcd(exam, data_dir, section, clock_source)
    return None


def _fix_of_keys(configuration: Prerequisite[Configuration], fixes: Fixes) -> str:
    with suppress(MissingError):
        if configuration.get().keys.store == "etcd":
            return f"{fixes.leeway('keys', 'list')}   # docs/shared-keys.md says what to do"
    return f"{fixes.restore(KEYS_FOLDER)}, or move the file that is named out of it"


def _sends_reviews(path: Path | None) -> bool:
    """Return whether a manifest can be read, and lets an API server ask Leeway."""
    with suppress(LeewayError, OSError):
        if path is not None:
            return api_server_flags.sends_reviews(parse_manifest(path.read_bytes(), str(path)))
    return False


def _examine_manifest(
    exam: Examination, path: Path | None, configuration: Prerequisite[Configuration]
) -> None:
    if path is None:
        exam.skip("API server's flags", "give its manifest with --manifest")
        return
    manifest = exam.load(
        "manifest",
        lambda: parse_manifest(path.read_bytes(), str(path)),
        lambda found: ok(f"{path}, a kube-apiserver with {len(found.flags)} flags"),
        "give the manifest of kube-apiserver's static Pod with --manifest",
    )
    with_signer = False
    with suppress(MissingError):
        with_signer = configuration.get().signer is not None
    for name, check in _MANIFEST_CHECKS:
        if with_signer and name in _FOR_REVIEWS and not _sends_reviews(path):
            exam.skip(name, "the API server sends no reviews, and a signer needs none")
        else:
            exam.check(name, manifest.check_with(check), f"edit {path}")
    exam.check(
        "API audiences",
        lambda: api_server_flags.check_audiences(manifest.get(), configuration.get().audiences),
        f"edit {path}",
    )
    with suppress(MissingError):  # without them it is not known whether a signer signs
        flags, found = manifest.get(), configuration.get()
        if found.signer is None and not flags.value(api_server_flags.SIGNING_ENDPOINT):
            return
        for name, judge in _SIGNER_CHECKS:
            exam.check(name, partial(judge, flags, found), f"edit {path}")


def _examine_controller(exam: Examination, path: Path | None) -> None:
    if path is None:
        return
    exam.check(
        "controller manager",
        lambda: signer_flags.check_controller_key(
            parse_manifest(path.read_bytes(), str(path), CONTROLLER_MANAGER), str(path)
        ),
        "give the manifest of kube-controller-manager's static Pod",
    )
