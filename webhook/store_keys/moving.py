"""Moves the signing keys from a folder to the store, and back.

Invariants:

1. The only copy of a private half is never removed: it leaves one place after it was read back from
   the other.
2. What the keys leave is marked as moved, and signs nothing from then on. Both places can be marked
   for a moment; then nothing is signed until the move is repeated.
3. A move that was interrupted anywhere is completed by the same command.
4. Keys of two places are never mixed.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

from keys.errors import InvalidKeyError, KeyScheduleError
from keys.folder_changes import KeyFolder, locked_folder
from keys.keyring import Keyring, KeyState
from keys.rotation import RotationPolicy, with_times
from webhook.rbac.records import Record
from webhook.rbac.state import AuthState
from webhook.store_keys.changes import KeyStore, sealed_of
from webhook.store_keys.contents import StoredKeys, changed_records

STORE: Final = "etcd"
FOLDER: Final = "folder"


class _ChangedError(Exception):
    """Another process has taken a step meanwhile."""


def move_to_store(keys: KeyStore, directory: Path, policy: RotationPolicy, now: int) -> bool:
    """Move the keys of a folder to the store; return False if they are there already.

    Raises InvalidKeyError if one of the places has other keys, OSError if the folder cannot be
    written, and the errors of ``AuthStore.change``.
    """
    with locked_folder(directory, now) as folder:
        keyring = folder.keyring
        if keyring.active is None:
            raise KeyScheduleError(
                f"{directory} has no active signing key, so nothing is moved; make one with "
                "`leeway keys generate`"
            )
        found = keys.read(sealed_of(keys.store.state))
        if folder.moved_to and found is not None and not found.moved_to:
            folder.move_away(STORE)  # Invariant 3: it may have been interrupted at the last step
            return False
        folder.require_here()
        # So that a folder that cannot be written stops the move before it begins.
        folder.write(folder.keyring)
        noted = with_times(keyring, policy, now)

        def decide(state: AuthState) -> list[Record]:
            sealed = sealed_of(state)
            stored = keys.read(sealed)
            if stored is not None and not _continues(stored, keyring):  # Invariant 4.
                raise KeyScheduleError(
                    f"the store has signing keys of its own ({_names(stored.keyring)}); with those "
                    f"of {directory} they would be mixed; set `keys.store: etcd` in leeway.yaml to "
                    "use them"
                )
            if stored is not None and not stored.moved_to:
                return []  # Invariant 3.
            return changed_records(noted, stored, sealed, keys.vault())

        keys.store.change(decide)
        _require_opened(keys)  # Invariant 1.
        folder.move_away(STORE)  # Invariant 2.
        return True


def move_to_folder(keys: KeyStore, directory: Path, now: int) -> bool:
    """Move the keys of the store to a folder; return False if they are there already.

    Raises the errors of ``move_to_store``.
    """
    with locked_folder(directory, now) as folder:
        while True:
            stored = keys.present()
            if stored.moved_to:
                return _complete(keys, folder, stored, directory)
            for error in stored.unopened.values():
                raise error
            folder.copy_back(stored.keyring)
            try:
                _mark(keys, stored)
            except _ChangedError:
                continue
            folder.move_back(stored.keyring)
            _drop_private(keys)
            return True


def _mark(keys: KeyStore, copied: StoredKeys) -> None:
    def decide(state: AuthState) -> list[Record]:
        sealed = sealed_of(state)
        stored = keys.read(sealed)
        if stored is None or stored.version != copied.version:
            raise _ChangedError
        return changed_records(stored.keyring, stored, sealed, keys.vault(), moved_to=FOLDER)

    keys.store.change(decide)


def _complete(keys: KeyStore, folder: KeyFolder, stored: StoredKeys, directory: Path) -> bool:
    """Complete a move to this folder that was interrupted (invariant 3)."""
    if not folder.moved_to:
        active = stored.keyring.active
        if active is None or active.kid not in {key.kid for key in folder.keyring.keys}:
            raise KeyScheduleError(
                f"the keys have moved from the store to a folder, which is not {directory}; run "
                "this with the data directory that they moved to"
            )
        _drop_private(keys)
        return False
    private = {key.kid: key.signing_key for key in folder.keyring.keys}
    moved = tuple(
        replace(key, signing_key=key.signing_key or private.get(key.kid))
        for key in stored.keyring.keys
    )
    keyring = Keyring(moved, stored.keyring.clock)  # raises without the active private half
    folder.copy_back(keyring)
    folder.move_back(keyring)
    _drop_private(keys)
    return True


def _drop_private(keys: KeyStore) -> None:
    def decide(state: AuthState) -> list[Record]:
        sealed = sealed_of(state)
        stored = keys.read(sealed)
        if stored is None or not stored.moved_to:
            return []
        records = changed_records(
            stored.keyring,
            stored,
            sealed,
            keys.vault(),
            moved_to=stored.moved_to,
            keep_private=False,
        )
        return records if len(records) > 1 else []

    keys.store.change(decide)


def _continues(stored: StoredKeys, keyring: Keyring) -> bool:
    """Return whether the keys of a folder are those that left the store, or have arrived there."""
    stored_active, active = stored.keyring.active, keyring.active
    kids = {key.kid for key in keyring.keys}
    if stored.moved_to:
        return stored_active is not None and stored_active.kid in kids
    states = {key.kid: key.state for key in stored.keyring.keys}
    return bool(active and states.get(active.kid) is KeyState.ACTIVE and states.keys() == kids)


def _require_opened(keys: KeyStore) -> None:
    stored = keys.present()
    problems: list[InvalidKeyError] = list(stored.unopened.values())
    if problems:
        raise problems[0]
    stored.keyring.signing_key()
    keys.seen.record(keys.vault().store_id, stored)


def _names(keyring: Keyring) -> str:
    return ", ".join(key.kid for key in keyring.keys[:5])
