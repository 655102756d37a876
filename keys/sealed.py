"""Private signing keys as they are stored: sealed with AES-256-GCM.

What is in a store is not trusted: whoever can write to it can change or swap records.

Invariants:

1. Each record has its own key: HKDF(encryption key, "leeway signing key", store, kid). A nonce that
   is drawn twice, by a cloned machine for instance, does harm only if it is for the same signing
   key.
2. A record opens only where it belongs: the format, the store, the kid and the thumbprint of the
   public key are authenticated. The version of the schedule is not, since it changes every ten
   minutes, and a rollback would restore both.
3. The record names its encryption key, and only that one is tried.
4. A key that was opened is used only if its public half is the key that the schedule lists.
5. One sequence of bytes is accepted for each record, and reading takes linear time.

>>> from keys.encryption import EncryptionKeys, new_encryption_key, parse_encryption_key
>>> from keys.pem import generate_signing_key
>>> keys = EncryptionKeys((parse_encryption_key(new_encryption_key(), "a.key"),))
>>> key = generate_signing_key("ES256")
>>> record = seal(key, "store", keys.first)
>>> unseal(record, key.verification_key, "store", keys).verification_key.algorithm
'ES256'
"""

import secrets
from hashlib import sha256
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys.encryption import EncryptionKey, EncryptionKeys, is_key_id, joined
from keys.errors import InvalidKeyError, SealedRecordError
from keys.jwk import PublicKey, VerificationKey
from keys.jws import SigningKey
from keys.pem import parse_private_key, private_key_pem

FORMAT: Final = 1
MAX_RECORD_BYTES: Final = 16 * 1024
"""More than a key for RSA with 8,192 bits needs."""
_NONCE_BYTES: Final = 12
_PURPOSE: Final = "leeway signing key"


class _Record(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    format: int
    encryption_key: str
    nonce: bytes
    sealed: bytes


def seal(key: SigningKey, store: str, encryption_key: EncryptionKey) -> bytes:
    """Return the record of a private key in a store, by the store's id."""
    public = key.verification_key
    nonce = secrets.token_bytes(_NONCE_BYTES)
    cipher = AESGCM(_record_key(encryption_key, store, public.kid))
    text = private_key_pem(key.private_key)
    sealed = cipher.encrypt(nonce, text, _associated_data(store, public))
    return msgspec.msgpack.encode(_Record(FORMAT, encryption_key.id, nonce, sealed))


def unseal(
    record: bytes, public: VerificationKey, store: str, encryption_keys: EncryptionKeys
) -> SigningKey:
    """Return the private key of a record, which is that of ``public``.

    Raises MissingEncryptionKeyError, and SealedRecordError for any other record.
    """
    name = f"the stored private key {public.kid}"
    found = _read(record, name)
    encryption_key = encryption_keys.key(found.encryption_key, name)  # Invariant 3.
    cipher = AESGCM(_record_key(encryption_key, store, public.kid))  # Invariant 1.
    try:
        text = cipher.decrypt(found.nonce, found.sealed, _associated_data(store, public))
    except InvalidTag as error:  # Invariant 2.
        raise SealedRecordError(
            f"{name} cannot be decrypted: it was changed, or belongs to another key or another "
            "store; restore the store from a backup, or let another key take over"
        ) from error
    try:
        key = parse_private_key(text, name)
    except InvalidKeyError as error:
        raise SealedRecordError(f"{name} is not usable: {error}") from error
    if public_der(key.verification_key.public_key) != public_der(public.public_key):
        raise SealedRecordError(f"{name} is another key than the schedule lists")  # Invariant 4.
    return key


def encryption_key_id(record: bytes, kid: str) -> str:
    """Return the id of the encryption key that a record names. Raises SealedRecordError."""
    return _read(record, f"the stored private key {kid}").encryption_key


def public_der(public_key: PublicKey) -> bytes:
    """Return a public key as SubjectPublicKeyInfo in DER."""
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _read(record: bytes, name: str) -> _Record:
    # Invariant 5.
    wrong = f"{name} is damaged; restore the store from a backup, or let another key take over"
    if len(record) > MAX_RECORD_BYTES:
        raise SealedRecordError(wrong)
    try:
        found = msgspec.msgpack.decode(record, type=_Record)
    except (msgspec.DecodeError, RecursionError) as error:
        raise SealedRecordError(wrong) from error
    if found.format != FORMAT and msgspec.msgpack.encode(found) == record:
        raise SealedRecordError(
            f"{name} has format {found.format}, and only {FORMAT} is known; update Leeway"
        )
    is_read = is_key_id(found.encryption_key) and len(found.nonce) == _NONCE_BYTES
    if not is_read or msgspec.msgpack.encode(found) != record:
        raise SealedRecordError(wrong)
    return found


def _record_key(encryption_key: EncryptionKey, store: str, kid: str) -> bytes:
    return encryption_key.derived(_PURPOSE, store.encode(), kid.encode())


def _associated_data(store: str, public: VerificationKey) -> bytes:
    thumbprint = sha256(public_der(public.public_key)).digest()
    return joined(b"%d" % FORMAT, store.encode(), public.kid.encode(), thumbprint)
