"""Encryption keys, which protect the signing keys in a store: files of 32 random bytes in base64.

The first file of a configuration encrypts, all of them decrypt.

Invariants:

1. A file's bytes are never used directly: each purpose has a key of its own, derived with HKDF
   (RFC 5869), so what is learned about one says nothing about another.
2. An encryption key is named by an id derived from it, which does not reveal it. No message and no
   ``repr`` contains the key.

>>> key = parse_encryption_key(new_encryption_key(), "a.key")
>>> len(key.id), "secret" in repr(key)
(16, False)
"""

import base64
import binascii
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keys.errors import KeyFileError, MissingEncryptionKeyError
from keys.files import create_file, read_credential_file
from keys.messages import shown_path

KEY_BYTES: Final = 32
_TEXT_LENGTH: Final = 44
# 32 random bytes have fewer than 16 different values once in 10^17 files.
_MIN_DIFFERENT: Final = 16
_ID_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class EncryptionKey:
    """An encryption key; ``id`` is 16 hex digits."""

    id: str
    _secret: bytes = field(repr=False)

    def derived(self, purpose: str, *parts: bytes) -> bytes:
        """Return the 32 bytes of the key for a purpose and its parts (invariant 1)."""
        return _derived(self._secret, KEY_BYTES, purpose, *parts)

    def mac(self, purpose: str, *parts: bytes) -> bytes:
        """Return the HMAC-SHA-256 of the parts, with the key derived for the purpose."""
        return hmac.digest(self.derived(purpose), joined(*parts), "sha256")


@dataclass(frozen=True, slots=True)
class EncryptionKeys:
    """The encryption keys of a configuration; at least one."""

    keys: tuple[EncryptionKey, ...]

    @property
    def first(self) -> EncryptionKey:
        """The key that encrypts."""
        return self.keys[0]

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all keys."""
        return tuple(key.id for key in self.keys)

    def key(self, key_id: str, what: str) -> EncryptionKey:
        """Return the key with an id, which ``what`` needs. Raises MissingEncryptionKeyError."""
        for key in self.keys:
            if key.id == key_id:
                return key
        raise MissingEncryptionKeyError(
            f"{what} needs the encryption key {key_id}, and keys.encryptionKeyFiles has only "
            f"{', '.join(self.ids)}; add its file to keys.encryptionKeyFiles"
        )


def joined(*parts: bytes) -> bytes:
    """Join parts so that different parts never give the same bytes."""
    return b"".join(len(part).to_bytes(8) + part for part in parts)


def is_key_id(text: str) -> bool:
    """Return whether a text that was read in a store can be the id of an encryption key."""
    return len(text) == 2 * _ID_BYTES and all(character in "0123456789abcdef" for character in text)


def new_encryption_key() -> bytes:
    """Return the content of a new file."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n"


def parse_encryption_key(text: bytes, name: str) -> EncryptionKey:
    """Parse the content of a file, which errors call ``name``. Raises KeyFileError."""
    stripped = text.strip()
    secret = b""
    if len(stripped) == _TEXT_LENGTH:
        try:
            secret = base64.b64decode(stripped, validate=True)
        except binascii.Error:
            secret = b""
    if len(secret) != KEY_BYTES or base64.b64encode(secret) != stripped:
        raise KeyFileError(
            f"{name} is not an encryption key, which is {KEY_BYTES} bytes in base64 "
            f"({_TEXT_LENGTH} characters); restore it, or make one with `leeway keys "
            "encryption-key FILE`"
        )
    if len(set(secret)) < _MIN_DIFFERENT:
        raise KeyFileError(
            f"{name} is an encryption key that is not random; make one with `leeway keys "
            "encryption-key FILE`"
        )
    return EncryptionKey(_derived(secret, _ID_BYTES, "leeway encryption key id").hex(), secret)


def read_encryption_keys(paths: Sequence[Path]) -> EncryptionKeys:
    """Read the files of a configuration.

    Raises KeyFileError for a file that is missing, readable by others or not an encryption key,
    and for two with the same key.
    """
    if not paths:
        raise KeyFileError(
            "keys.encryptionKeyFiles is empty; make a file with `leeway keys encryption-key FILE`, "
            "and name it there in every replica's leeway.yaml"
        )
    found: dict[str, Path] = {}
    keys = []
    for path in paths:
        key = parse_encryption_key(read_credential_file(path), shown_path(path))
        other = found.setdefault(key.id, path)
        if other is not path:
            raise KeyFileError(
                f"{shown_path(other)} and {shown_path(path)} are the same encryption key; remove "
                "one of them from keys.encryptionKeyFiles"
            )
        keys.append(key)
    return EncryptionKeys(tuple(keys))


def create_encryption_key_file(path: Path) -> EncryptionKey:
    """Create a file with a new key, mode 0600. Raises KeyFileError if it exists, and OSError."""
    text = new_encryption_key()
    if not create_file(path, text):
        raise KeyFileError(
            f"{shown_path(path)} exists and is not replaced, because what it encrypts would be "
            "lost; give another name"
        )
    return parse_encryption_key(text, shown_path(path))


def _derived(secret: bytes, length: int, purpose: str, *parts: bytes) -> bytes:
    info = joined(purpose.encode("ascii"), *parts)
    return HKDF(SHA256(), length, salt=None, info=info).derive(secret)
