"""What the store has about signing keys, checked; and the records that a change of them writes.

The store has one record of the schedule, and one for the private half of each key that signs or
will sign. Both are bytes for the store; ``keys.sealed`` and ``keys.sealed_schedule`` say what is
in them.

Invariants:

1. A public key counts only because the schedule lists it, and the schedule only if it is authentic.
2. The store has the private half of pending and active keys, and of no others: once a change is
   written, what will never sign again is gone.
3. Without the private half of a pending or active key nothing is signed with it, and ``unopened``
   says why.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from keys.encryption import EncryptionKey, EncryptionKeys
from keys.errors import InvalidKeyError, KeyScheduleError, SealedRecordError
from keys.jwk import VerificationKey
from keys.jws import SigningKey
from keys.keyring import Keyring, KeyState, ScheduledKey
from keys.sealed import encryption_key_id, seal, unseal
from keys.sealed_schedule import (
    SealedEntry,
    SealedSchedule,
    public_key_of,
    seal_schedule,
    sealed_entry,
    unseal_schedule,
)
from webhook.rbac.records import KEY, SCHEDULE, Record

Sealed = Mapping[tuple[str, bytes], bytes]
"""Kind and id of records, and their values: ``AuthState.sealed``."""

SCHEDULE_ID: Final = b"signing"
_SIGNING: Final = (KeyState.PENDING, KeyState.ACTIVE)


@dataclass(frozen=True, slots=True)
class Vault:
    """The id of the store, and the encryption keys for what it has."""

    store_id: str
    encryption: EncryptionKeys


@dataclass(frozen=True, slots=True)
class StoredKeys:
    """The keys of a store.

    ``record`` is the schedule as it is stored, and ``key_id`` names the encryption key that
    authenticates it. ``unopened`` has the errors of private halves that cannot be used, by kid, and
    ``strangers`` the kids of stored private halves that the schedule does not list. ``moved_to`` is
    where the keys are now, empty if they are here.
    """

    keyring: Keyring
    version: int
    moved_to: str
    record: bytes
    key_id: str
    unopened: Mapping[str, InvalidKeyError] = field(default_factory=dict)
    strangers: tuple[str, ...] = ()


def read_keys(sealed: Sealed, vault: Vault) -> StoredKeys | None:
    """Read and check the keys of a store; None if it has no schedule.

    Raises MissingEncryptionKeyError or SealedRecordError for a schedule that cannot be used.
    """
    record = sealed.get((SCHEDULE, SCHEDULE_ID))
    if record is None:
        return None
    schedule, key_id = unseal_schedule(record, vault.store_id, vault.encryption)  # Invariant 1.
    unopened: dict[str, InvalidKeyError] = {}
    keys = tuple(_scheduled(entry, sealed, vault, unopened) for entry in schedule.keys)
    listed = {key.kid for key in keys}
    stored = sorted(record_id for kind, record_id in sealed if kind == KEY)
    names = (record_id.decode("ascii", "replace") for record_id in stored)
    strangers = tuple(name for name in names if name not in listed)
    try:
        keyring = Keyring(keys, schedule.clock, _refusal(keys, schedule.moved_to, unopened))
    except KeyScheduleError as error:
        raise SealedRecordError(f"the stored schedule of the signing keys: {error}") from error
    return StoredKeys(
        keyring, schedule.version, schedule.moved_to, record, key_id, unopened, strangers
    )


def _scheduled(
    entry: SealedEntry, sealed: Sealed, vault: Vault, unopened: dict[str, InvalidKeyError]
) -> ScheduledKey:
    public = public_key_of(entry)
    private = None
    if entry.state in _SIGNING:
        try:
            private = _opened(public, sealed, vault)
        except InvalidKeyError as error:  # Invariant 3.
            unopened[public.kid] = error
    return ScheduledKey(public, private, entry.state, entry.since, entry.until, entry.published)


def _opened(public: VerificationKey, sealed: Sealed, vault: Vault) -> SigningKey:
    record = sealed.get((KEY, _key_id(public.kid)))
    if record is None:
        raise SealedRecordError(
            f"the private key {public.kid} is missing in the store, although the schedule lists "
            "it; restore the store from a backup, or let another key take over"
        )
    return unseal(record, public, vault.store_id, vault.encryption)


def _refusal(
    keys: Iterable[ScheduledKey], moved_to: str, unopened: Mapping[str, InvalidKeyError]
) -> str:
    if moved_to:
        return (
            f"the signing keys have moved from the store to the {moved_to}, so nothing is signed "
            f"with those of the store; set `keys.store: {moved_to}` in leeway.yaml and restart, or "
            "bring the keys back with `leeway keys move --to etcd`"
        )
    active = next((key for key in keys if key.state is KeyState.ACTIVE), None)
    wrong = None if active is None else unopened.get(active.kid)
    return "" if wrong is None else f"nothing is signed: {wrong}"


def changed_records(
    keyring: Keyring,
    before: StoredKeys | None,
    sealed: Sealed,
    vault: Vault,
    *,
    version: int = 0,
    moved_to: str = "",
    reencrypt: bool = False,
    keep_private: bool = True,
) -> list[Record]:
    """Return the records that make ``keyring`` that of the store.

    The version of the schedule is the next one, or ``version`` if that is later. The schedule keeps
    its encryption key, because a replica without the first of ours has to read it; with
    ``reencrypt`` everything gets the first. Without ``keep_private`` every private half goes.
    """
    first = vault.encryption.first
    number = max(version, before.version + 1 if before else 1)
    entries = tuple(sealed_entry(key) for key in keyring.keys)
    schedule = SealedSchedule(vault.store_id, number, keyring.clock, entries, moved_to)
    authenticating = first if before is None or reencrypt else _key_of(before.key_id, vault)
    records = [Record(SCHEDULE, SCHEDULE_ID, seal_schedule(schedule, authenticating))]
    kept = set()
    for key in keyring.keys:
        if key.state not in _SIGNING or not keep_private:
            continue
        record_id = _key_id(key.kid)
        kept.add(record_id)
        if key.signing_key is not None and (reencrypt or (KEY, record_id) not in sealed):
            records.append(Record(KEY, record_id, seal(key.signing_key, vault.store_id, first)))
    # Invariant 2.
    gone = sorted(i for kind, i in sealed if kind == KEY and i not in kept)
    return [*records, *(Record(KEY, record_id, None) for record_id in gone)]


def encryption_keys_in_use(stored: StoredKeys, sealed: Sealed) -> dict[str, str]:
    """Return the id of the encryption key of each stored private half, by kid.

    Raises SealedRecordError for a damaged record.
    """
    return {
        key.kid: encryption_key_id(record, key.kid)
        for key in stored.keyring.keys
        if (record := sealed.get((KEY, _key_id(key.kid)))) is not None
    }


def _key_of(key_id: str, vault: Vault) -> EncryptionKey:
    return vault.encryption.key(key_id, "the stored schedule of the signing keys")


def _key_id(kid: str) -> bytes:
    return kid.encode("ascii")
