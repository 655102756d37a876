"""The schedule of signing keys as it is stored: authenticated with HMAC-SHA-256.

What makes a token valid is a public key, and public keys are not secret. Without authentication,
whoever can write to the store could list a key of their own, and sign for every verifier.

Invariants:

1. Nothing of a schedule is decoded before its MAC was checked, except the id of the encryption key
   that it names; only that key is tried.
2. The MAC is over all of it: the format, the encryption key, the store, the version, the clock, and
   every entry with its public key.
3. A schedule is used only in the store that it was made for.
4. One sequence of bytes is accepted for each schedule, and reading takes linear time.
"""

import hmac
from functools import lru_cache
from typing import Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from keys.encryption import EncryptionKey, EncryptionKeys, is_key_id
from keys.errors import InvalidKeyError, SealedRecordError
from keys.folder import UnixSeconds
from keys.jwk import VerificationKey, verification_key
from keys.keyring import KeyState, ScheduledKey
from keys.sealed import public_der

FORMAT: Final = 1
MAX_SCHEDULE_BYTES: Final = 512 * 1024
"""More than a new key each hour for a year."""
_NAME: Final = "the stored schedule of the signing keys"
_PURPOSE: Final = "leeway key schedule"
_RESTORE: Final = "restore the store from a backup"


class SealedEntry(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """One key, its public half as SubjectPublicKeyInfo; the rest is that of ``ScheduledKey``."""

    public_key: bytes
    state: KeyState
    since: UnixSeconds
    until: UnixSeconds | None
    published: UnixSeconds | None


class SealedSchedule(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """A schedule.

    ``store`` is the id of the store. ``version`` grows with each write, so that an old schedule can
    be recognised. ``clock`` is that of ``Keyring``. ``moved_to`` is where the
    keys are now if they are no longer here, else empty.
    """

    store: str
    version: int
    clock: UnixSeconds
    keys: tuple[SealedEntry, ...]
    moved_to: str = ""


class _Record(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    format: int
    encryption_key: str
    payload: bytes
    mac: bytes


def seal_schedule(schedule: SealedSchedule, encryption_key: EncryptionKey) -> bytes:
    """Return the record of a schedule."""
    payload = msgspec.msgpack.encode(schedule)
    mac = _mac(encryption_key, FORMAT, payload)
    return msgspec.msgpack.encode(_Record(FORMAT, encryption_key.id, payload, mac))


def unseal_schedule(
    record: bytes, store: str, encryption_keys: EncryptionKeys
) -> tuple[SealedSchedule, str]:
    """Return the schedule of a record, and the id of the encryption key that authenticates it.

    Raises MissingEncryptionKeyError, and SealedRecordError for any other record.
    """
    found = _read(record)
    encryption_key = encryption_keys.key(found.encryption_key, _NAME)
    if not hmac.compare_digest(_mac(encryption_key, found.format, found.payload), found.mac):
        raise SealedRecordError(
            f"{_NAME} is not authentic: it was changed, or written without the encryption key "
            f"{encryption_key.id}; {_RESTORE}"
        )
    try:
        schedule = msgspec.msgpack.decode(found.payload, type=SealedSchedule)
    except (msgspec.DecodeError, RecursionError) as error:
        # It is authentic, so a program that knows the key has written it.
        raise SealedRecordError(f"{_NAME} is of another version of Leeway; update it") from error
    if schedule.store != store:  # Invariant 3.
        raise SealedRecordError(
            f"{_NAME} was written for store {schedule.store[:64]!r}, and this is store "
            f"{store[:64]!r}; {_RESTORE}"
        )
    return schedule, encryption_key.id


def _read(record: bytes) -> _Record:
    # Invariant 4.
    damaged = f"{_NAME} is damaged; {_RESTORE}"
    if len(record) > MAX_SCHEDULE_BYTES:
        raise SealedRecordError(damaged)
    try:
        found = msgspec.msgpack.decode(record, type=_Record)
    except (msgspec.DecodeError, RecursionError) as error:
        raise SealedRecordError(damaged) from error
    if not is_key_id(found.encryption_key) or msgspec.msgpack.encode(found) != record:
        raise SealedRecordError(damaged)
    if found.format != FORMAT:
        raise SealedRecordError(
            f"{_NAME} has format {found.format}, and only {FORMAT} is known; update Leeway"
        )
    return found


def _mac(encryption_key: EncryptionKey, number: int, payload: bytes) -> bytes:
    # Invariant 2.
    return encryption_key.mac(_PURPOSE, b"%d" % number, encryption_key.id.encode(), payload)


def sealed_entry(key: ScheduledKey) -> SealedEntry:
    """Return the entry of a key."""
    der = public_der(key.verification_key.public_key)
    return SealedEntry(der, key.state, key.since, key.until, key.published)


def public_key_of(entry: SealedEntry) -> VerificationKey:
    """Return the public key of an entry. Raises SealedRecordError."""
    return _public_key(entry.public_key)


# The schedule is read again every ten minutes, with the same keys.
@lru_cache(maxsize=256)
def _public_key(der: bytes) -> VerificationKey:
    try:
        return verification_key(load_der_public_key(der))
    except (ValueError, UnsupportedAlgorithm, InvalidKeyError) as error:
        raise SealedRecordError(f"{_NAME} has a key that is not usable: {error}") from error
