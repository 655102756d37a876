"""Sealed private keys and their schedule: what opens, and what is refused and named."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.encryption import EncryptionKey, EncryptionKeys, new_encryption_key, parse_encryption_key
from keys.errors import InvalidKeyError, MissingEncryptionKeyError, SealedRecordError
from keys.jws import parse, sign, verify
from keys.keyring import KeyState, ScheduledKey
from keys.pem import ALGORITHMS
from keys.sealed import MAX_RECORD_BYTES, encryption_key_id, public_der, seal, unseal
from keys.sealed_schedule import (
    MAX_SCHEDULE_BYTES,
    SealedEntry,
    SealedSchedule,
    public_key_of,
    seal_schedule,
    sealed_entry,
    unseal_schedule,
)
from tests.support import signing_key

STORE = "5d1e"
T = 1_800_000_000


def new_key() -> EncryptionKey:
    return parse_encryption_key(new_encryption_key(), "a.key")


A, B = new_key(), new_key()
ONLY_A, ONLY_B, BOTH = EncryptionKeys((A,)), EncryptionKeys((B,)), EncryptionKeys((B, A))
OWN, OTHER = signing_key("ES256"), signing_key("ES256", "other")
RECORD = seal(OWN, STORE, A)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_that_was_sealed_signs(algorithm: str) -> None:
    key = signing_key(algorithm)
    record = seal(key, STORE, A)
    opened = unseal(record, key.verification_key, STORE, BOTH)
    assert verify(parse(sign(b"{}", opened)), key.verification_key)
    assert encryption_key_id(record, key.verification_key.kid) == A.id
    assert len(record) < MAX_RECORD_BYTES
    # Neither twice the same, nor with the key in it.
    assert seal(key, STORE, A) != record


def rewritten(**changes: object) -> bytes:
    names = ("format", "encryption_key", "nonce", "sealed")
    fields = dict(zip(names, msgspec.msgpack.decode(RECORD), strict=True)) | changes
    return msgspec.msgpack.encode([fields[name] for name in names])


@pytest.mark.bad_input(70)
@pytest.mark.parametrize(
    ("record", "public", "store", "keys", "why"),
    [
        pytest.param(seal(OTHER, STORE, A), OWN, STORE, ONLY_A, "another key", id="swapped"),
        pytest.param(RECORD, OTHER, STORE, ONLY_A, "another key", id="swapped-back"),
        pytest.param(RECORD, OWN, "beef", ONLY_A, "another store", id="of-another-store"),
        pytest.param(RECORD, OWN, STORE, ONLY_B, f"needs the encryption key {A.id}", id="missing"),
        pytest.param(rewritten(encryption_key=B.id), OWN, STORE, BOTH, "changed", id="renamed"),
        pytest.param(rewritten(format=2), OWN, STORE, ONLY_A, "update Leeway", id="format"),
        pytest.param(rewritten(nonce=bytes(12)), OWN, STORE, ONLY_A, "changed", id="nonce"),
        pytest.param(rewritten(nonce=b""), OWN, STORE, ONLY_A, "damaged", id="no-nonce"),
        pytest.param(rewritten(sealed=b""), OWN, STORE, ONLY_A, "changed", id="nothing-sealed"),
        pytest.param(b"", OWN, STORE, ONLY_A, "damaged", id="empty"),
        pytest.param(RECORD[:-1], OWN, STORE, ONLY_A, "damaged", id="cut"),
        pytest.param(RECORD + b"\0", OWN, STORE, ONLY_A, "damaged", id="longer"),
        pytest.param(b"\x91" * 100_000, OWN, STORE, ONLY_A, "damaged", id="deep"),
        pytest.param(RECORD + bytes(1 << 20), OWN, STORE, ONLY_A, "damaged", id="large"),
    ],
)
def test_records_that_are_refused(
    record: bytes, public: object, store: str, keys: EncryptionKeys, why: str
) -> None:
    assert isinstance(public, type(OWN))
    key = public.verification_key
    with pytest.raises((SealedRecordError, MissingEncryptionKeyError), match=why) as raised:
        unseal(record, key, store, keys)
    assert key.kid in str(raised.value)


@pytest.mark.bad_input(70)
def test_a_sealed_key_that_is_not_the_public_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody with the encryption key can write this, for instance a program with a bug."""
    named_like_own = replace(OTHER, verification_key=OWN.verification_key)
    record = seal(named_like_own, STORE, A)
    with pytest.raises(SealedRecordError, match="another key than the schedule lists"):
        unseal(record, OWN.verification_key, STORE, ONLY_A)


SCHEDULE = SealedSchedule(
    STORE,
    7,
    T,
    (
        sealed_entry(ScheduledKey(OWN.verification_key, OWN, KeyState.ACTIVE, T, T + 90000)),
        sealed_entry(ScheduledKey(OTHER.verification_key, None, KeyState.VERIFY_ONLY, T, T)),
    ),
)
SCHEDULE_RECORD = seal_schedule(SCHEDULE, A)


def test_a_schedule_that_was_sealed() -> None:
    schedule, key_id = unseal_schedule(SCHEDULE_RECORD, STORE, BOTH)
    assert (schedule, key_id) == (SCHEDULE, A.id)
    assert [public_key_of(entry).kid for entry in schedule.keys] == [
        OWN.verification_key.kid,
        OTHER.verification_key.kid,
    ]


def forged(
    change: Callable[[SealedSchedule], SealedSchedule], key: EncryptionKey | None = None
) -> bytes:
    """Change a schedule without the encryption key, or with another one."""
    number, key_id, payload, mac = msgspec.msgpack.decode(SCHEDULE_RECORD)
    schedule = change(msgspec.msgpack.decode(payload, type=SealedSchedule))
    if key is not None:
        return seal_schedule(schedule, key)
    return msgspec.msgpack.encode([number, key_id, msgspec.msgpack.encode(schedule), mac])


def with_foreign_key(schedule: SealedSchedule) -> SealedSchedule:
    foreign = signing_key("ES256", "foreign").verification_key
    entry = SealedEntry(public_der(foreign.public_key), KeyState.VERIFY_ONLY, T, None, None)
    return msgspec.structs.replace(schedule, keys=(*schedule.keys, entry))


def revived(schedule: SealedSchedule) -> SealedSchedule:
    first, second = schedule.keys
    changed = msgspec.structs.replace(second, state=KeyState.PENDING)
    return msgspec.structs.replace(schedule, keys=(first, changed))


@pytest.mark.bad_input(70)
@pytest.mark.parametrize(
    ("record", "store", "keys", "why"),
    [
        pytest.param(forged(with_foreign_key), STORE, ONLY_A, "not authentic", id="foreign-entry"),
        pytest.param(
            forged(with_foreign_key, B), STORE, ONLY_A, f"encryption key {B.id}", id="foreign-mac"
        ),
        pytest.param(forged(revived), STORE, ONLY_A, "not authentic", id="state"),
        pytest.param(
            forged(lambda s: msgspec.structs.replace(s, version=8)),
            STORE,
            ONLY_A,
            "not authentic",
            id="version",
        ),
        pytest.param(SCHEDULE_RECORD, "beef", ONLY_A, "for store '5d1e'", id="another-store"),
        pytest.param(SCHEDULE_RECORD, STORE, ONLY_B, f"encryption key {A.id}", id="missing-key"),
        pytest.param(b"", STORE, ONLY_A, "damaged", id="empty"),
        pytest.param(SCHEDULE_RECORD[:-1], STORE, ONLY_A, "damaged", id="cut"),
        pytest.param(SCHEDULE_RECORD + b"\0", STORE, ONLY_A, "damaged", id="longer"),
        pytest.param(bytes(MAX_SCHEDULE_BYTES + 1), STORE, ONLY_A, "damaged", id="large"),
        pytest.param(b"\x91" * 100_000, STORE, ONLY_A, "damaged", id="deep"),
    ],
)
def test_schedules_that_are_refused(
    record: bytes, store: str, keys: EncryptionKeys, why: str
) -> None:
    with pytest.raises((SealedRecordError, MissingEncryptionKeyError), match=why) as raised:
        unseal_schedule(record, store, keys)
    assert "the stored schedule" in str(raised.value)


@pytest.mark.bad_input(70)
def test_no_bit_can_be_flipped() -> None:
    """Each one is refused: in a record of a key, and in the schedule."""
    for record, read in (
        (RECORD, lambda data: unseal(data, OWN.verification_key, STORE, BOTH)),
        (SCHEDULE_RECORD, lambda data: unseal_schedule(data, STORE, BOTH)),
    ):
        for place in range(len(record)):
            for bit in range(8):
                flipped = bytearray(record)
                flipped[place] ^= 1 << bit
                with pytest.raises((SealedRecordError, MissingEncryptionKeyError)) as raised:
                    read(bytes(flipped))
                assert str(raised.value).isprintable()


@given(st.binary(max_size=400))
def test_no_bytes_are_taken_for_a_record(data: bytes) -> None:
    with pytest.raises(InvalidKeyError):
        unseal(data, OWN.verification_key, STORE, ONLY_A)
    with pytest.raises(InvalidKeyError):
        unseal_schedule(data, STORE, ONLY_A)


@pytest.mark.parametrize(
    "der",
    [b"", b"\x30", public_der(OWN.verification_key.public_key)[:-1]],
    ids=["empty", "start", "cut"],
)
def test_a_public_key_that_is_not_usable(der: bytes) -> None:
    entry = SealedEntry(der, KeyState.ACTIVE, T, None, None)
    with pytest.raises(SealedRecordError, match="not usable"):
        public_key_of(entry)
