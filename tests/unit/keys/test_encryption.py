"""Encryption keys: their files, their names, and the keys derived from them."""

import base64
from pathlib import Path

import pytest

from keys.encryption import (
    EncryptionKeys,
    create_encryption_key_file,
    joined,
    new_encryption_key,
    parse_encryption_key,
    read_encryption_keys,
)
from keys.errors import KeyFileError, MissingEncryptionKeyError

SECRET = bytes(range(32))
TEXT = base64.b64encode(SECRET)


def write(path: Path, text: bytes = TEXT, mode: int = 0o600) -> Path:
    path.write_bytes(text)
    path.chmod(mode)
    return path


def test_a_file_is_created_once_and_only_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "store.key"
    made = create_encryption_key_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_encryption_keys([path]).first == made
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match="exists and is not replaced"):
        create_encryption_key_file(path)
    assert path.read_bytes() == before


def test_what_is_derived() -> None:
    """The values of RFC 5869 over this module's inputs, computed with another implementation."""
    key = parse_encryption_key(TEXT, "a.key")
    assert key.id == hkdf(joined(b"leeway encryption key id"), 8).hex()
    assert key.derived("purpose", b"a") == hkdf(joined(b"purpose", b"a"), 32)
    assert len({key.derived("p", b"ab", b"c"), key.derived("p", b"a", b"bc")}) == 2
    assert key.id not in TEXT.decode()


def hkdf(info: bytes, length: int) -> bytes:
    import hmac

    extracted = hmac.digest(bytes(32), SECRET, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")[:length]


def test_a_key_is_never_shown() -> None:
    key = parse_encryption_key(TEXT, "a.key")
    for text in (repr(key), str(key), repr(EncryptionKeys((key,)))):
        assert TEXT.decode()[:16] not in text
        assert repr(SECRET)[2:10] not in text


@pytest.mark.bad_input(70)
@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(TEXT[:-4], "44 characters", id="short"),
        pytest.param(TEXT * 2, "44 characters", id="two-keys"),
        pytest.param(TEXT[:-1] + b"!", "44 characters", id="other-alphabet"),
        pytest.param(base64.b64encode(bytes(31))[:43] + b"=", "44 characters", id="31-bytes"),
        pytest.param(b"-----BEGIN PRIVATE KEY-----", "44 characters", id="a-signing-key"),
        pytest.param(base64.b64encode(bytes(32)), "not random", id="zeros"),
        pytest.param(b"a" * (1 << 20), "44 characters", id="large"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: bytes, why: str) -> None:
    path = write(tmp_path / "a.key", text)
    with pytest.raises(KeyFileError, match=why) as raised:
        read_encryption_keys([path])
    assert "a.key" in str(raised.value)
    assert not text or text.decode("ascii")[:20] not in str(raised.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_read(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "a.key", mode=mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        read_encryption_keys([path])


def test_files_that_are_missing_or_the_same(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="leeway keys encryption-key"):
        read_encryption_keys([])
    with pytest.raises(KeyFileError, match="is missing"):
        read_encryption_keys([tmp_path / "a.key"])
    both = [write(tmp_path / "a.key"), write(tmp_path / "b.key", TEXT + b"\n")]
    with pytest.raises(KeyFileError, match=r"a\.key and .*b\.key are the same"):
        read_encryption_keys(both)


@pytest.mark.bad_input(70)
def test_a_key_that_is_not_there_is_named() -> None:
    keys = EncryptionKeys((parse_encryption_key(new_encryption_key(), "a.key"),))
    with pytest.raises(MissingEncryptionKeyError) as raised:
        keys.key("0123456789abcdef", "the record")
    assert "the record needs the encryption key 0123456789abcdef" in str(raised.value)
    assert keys.first.id in str(raised.value)
