"""Opens the signing keys of a data directory, in the folder or in the store, as configured."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from keys.encryption import EncryptionKeys, read_encryption_keys
from keys.errors import KeysError
from keys.folder import load_keyring
from keys.folder_changes import advance, generate_key, retire, rotate
from keys.folder_watch import KeyFolderWatcher
from keys.keyring import Keyring, ScheduledKey
from keys.rotation import KeyChange, RotationPolicy, are_times_outdated
from keys.watching import KeyWatcher
from webhook.assembly import rotation_policy_of, store_of
from webhook.config.model import Configuration
from webhook.config.paths import KEYS_FOLDER
from webhook.errors import DataDirectoryError, LeewayError
from webhook.rbac.auth_store import AuthStore
from webhook.store_keys import changes as store_changes
from webhook.store_keys.changes import CLOCK_AHEAD_SECONDS, Caution, KeyStore
from webhook.store_keys.seen import SeenFile
from webhook.store_keys.watcher import StoreKeyWatcher


class SigningKeys(Protocol):
    """The signing keys, for a command. Times are Unix seconds."""

    place: str
    """Where the keys are, for messages."""

    def keyring(self) -> Keyring:
        """Return the keys. Raises InvalidKeyError."""

    def keyring_to_sign(self, now: int) -> Keyring:
        """Return the keys, and record how long the tokens signed with them may live.

        Where nothing can be recorded, keys are not rotated either.
        """

    def generate(self, algorithm: str, now: int, *, force: bool = False) -> ScheduledKey:
        """Make a key; it is active if it is the first one, else pending."""

    def rotate(self, now: int, *, force: bool = False) -> KeyChange:
        """Take one step. Raises UnsafeStepError."""

    def retire(self, kid: str, now: int, *, force: bool = False) -> KeyChange:
        """Retire a key. Raises UnsafeStepError."""


class _FolderKeys:
    def __init__(self, directory: Path, policy: RotationPolicy) -> None:
        self.place = "folder"
        self._directory = directory
        self._policy = policy

    def keyring(self) -> Keyring:
        return load_keyring(self._directory)

    def keyring_to_sign(self, now: int) -> Keyring:
        keyring = self.keyring()
        if not keyring.refusal and are_times_outdated(keyring, self._policy, now):
            with suppress(OSError):
                # Without a rotation, which is not the task of a command that signs.
                advance(self._directory, replace(self._policy, rotate_every=0), now)
        return keyring.without(self._policy.refused)

    def generate(
        self,
        algorithm: str,
        now: int,
        *,
        force: bool = False,  # noqa: ARG002 - a pending key in a folder is always safe
    ) -> ScheduledKey:
        return generate_key(self._directory, algorithm, now)

    def rotate(self, now: int, *, force: bool = False) -> KeyChange:
        return rotate(self._directory, self._policy, now, force=force)

    def retire(self, kid: str, now: int, *, force: bool = False) -> KeyChange:
        return retire(self._directory, kid, self._policy, now, force=force)


class _StoredKeys:
    def __init__(self, keys: KeyStore, policy: RotationPolicy) -> None:
        self.place = "store"
        self._keys = keys
        self._policy = policy

    def keyring(self) -> Keyring:
        return self._keys.present().keyring

    def keyring_to_sign(self, now: int) -> Keyring:
        keyring = self.keyring()
        if not keyring.refusal:
            store_changes.require_kept(keyring, self._policy, now)
            # Only the end of the last token: the clock is that of the servers.
            caution = Caution(lambda _version: CLOCK_AHEAD_SECONDS, None)
            if caution.is_late(keyring, self._policy, now):
                with suppress(LeewayError, KeysError):
                    store_changes.advance(self._keys, self._policy, lambda: now, caution, held=True)
        return keyring.without(self._policy.refused)

    def generate(self, algorithm: str, now: int, *, force: bool = False) -> ScheduledKey:
        return store_changes.generate_key(self._keys, algorithm, self._policy, now, force=force)

    def rotate(self, now: int, *, force: bool = False) -> KeyChange:
        return store_changes.rotate(self._keys, self._policy, now, force=force)

    def retire(self, kid: str, now: int, *, force: bool = False) -> KeyChange:
        return store_changes.retire(self._keys, kid, self._policy, now, force=force)


def encryption_keys_of(data_dir: Path, configuration: Configuration) -> EncryptionKeys:
    """Read the encryption keys. Raises KeyFileError for those that cannot be used."""
    names = configuration.keys.encryption_key_files
    return read_encryption_keys([data_dir / name for name in names])


def key_store_of(data_dir: Path, configuration: Configuration, store: AuthStore) -> KeyStore:
    """Return the signing keys of an open store.

    Raises KeyFileError for encryption keys that cannot be used.
    """
    return KeyStore(store, encryption_keys_of(data_dir, configuration), SeenFile(data_dir))


@contextmanager
def opened_key_store(data_dir: Path, configuration: Configuration) -> Iterator[KeyStore]:
    """Open the store for its signing keys. Raises the errors of ``store_of``."""
    store = store_of(data_dir, configuration)
    try:
        yield key_store_of(data_dir, configuration, store)
    finally:
        store.close()


@contextmanager
def opened_signing_keys(data_dir: Path, configuration: Configuration) -> Iterator[SigningKeys]:
    """Open the signing keys for a command.

    Raises DataDirectoryError without a folder of keys, and the errors of ``opened_key_store``.
    """
    policy = rotation_policy_of(configuration)
    if configuration.keys.store == "folder":
        if not (data_dir / KEYS_FOLDER).is_dir():
            raise DataDirectoryError.none_at(data_dir)
        yield _FolderKeys(data_dir / KEYS_FOLDER, policy)
        return
    with opened_key_store(data_dir, configuration) as keys:
        yield _StoredKeys(keys, policy)


def keyring_for(data_dir: Path, configuration: Configuration) -> Keyring:
    """Return the keys that verify and sign under a configuration.

    Raises InvalidKeyError, and the errors of ``opened_signing_keys``.
    """
    with opened_signing_keys(data_dir, configuration) as keys:
        return keys.keyring().without(configuration.keys.refused)


def key_watcher_of(
    data_dir: Path,
    configuration: Configuration,
    policy: RotationPolicy,
    store: AuthStore | None,
    on_change: Callable[[Keyring], None],
    *,
    refresh: Callable[[], None] = lambda: None,
) -> KeyWatcher:
    """Return what follows the signing keys of a server, where its configuration says they are.

    ``store`` is needed if the keys are in the store; ``refresh`` is that of ``StoreKeyWatcher``.
    Raises the errors of ``keys.folder``, and KeyFileError for encryption keys that cannot be used.
    """
    if configuration.keys.store == "folder" or store is None:
        return KeyFolderWatcher(data_dir / KEYS_FOLDER, policy, on_change)
    keys = key_store_of(data_dir, configuration, store)
    return StoreKeyWatcher(keys, policy, on_change, refresh=refresh)
