"""How records lie in etcd: ``PREFIX/v1/KIND/ID``, and a checksum with each value. Pure.

Invariants:

1. ``record_of`` accepts exactly what ``key_of`` and ``value_of`` write: each record has one key and
   one value, and no other bytes are a record.
2. The key of a record starts with ``PREFIX/v1/KIND/`` whatever bytes its id has, and consists of
   printable ASCII after the prefix. ``PREFIX/v1/head`` is the key of no record.
3. The checksum covers the kind, the id and the value: values that were exchanged are noticed.
"""

from hashlib import sha256
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from webhook.rbac.records import Record

FORMAT: Final = 1
"""The version of the layout. Code of an earlier version must not read what it does not know."""
_CHECKSUM_SIZE: Final = 8
_VALUE_START: Final = 1 + _CHECKSUM_SIZE
_IN_KINDS: Final = "!$&'()*+,:;=@"
_IN_IDS: Final = _IN_KINDS + "/"
_UNRESERVED: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_PLAIN_KIND: Final = _UNRESERVED + _IN_KINDS.encode()
_PLAIN_ID: Final = _UNRESERVED + _IN_IDS.encode()


class UnreadableKeyError(Exception):
    """A key or its value is not a record that Leeway wrote."""


class Layout:
    r"""The keys of one prefix.

    >>> layout = Layout("/leeway")
    >>> layout.key_of("user", b"ann/\xff")
    b'/leeway/v1/user/ann/%FF'
    >>> layout.record_of(b"/leeway/v1/role/r", layout.value_of(b"role/r", b"x")[0])[0]
    Record(kind='role', id=b'r', value=b'x')
    """

    def __init__(self, prefix: str) -> None:
        """``prefix`` as in the configuration; a slash at its end is optional."""
        self.all = prefix.rstrip("/").encode() + b"/"
        """Every key of ours starts so, those of later versions too."""
        self.records = self.all + b"v%d/" % FORMAT
        self.head = self.records + b"head"
        self._start = len(self.records)

    def key_of(self, kind: str, record_id: bytes) -> bytes:
        """Return the key of a record."""
        return self.records + name_of(kind, record_id)

    def name_in(self, key: bytes) -> bytes:
        """Return the name of the record with a key that starts with ``records``."""
        return key[self._start :]

    def value_of(self, name: bytes, value: bytes) -> tuple[bytes, bytes]:
        """Return what is stored for a record, and the record's hash (32 bytes)."""
        digest = record_hash(name, value)
        return b"%c%b%b" % (FORMAT, digest[:_CHECKSUM_SIZE], value), digest

    def record_of(self, key: bytes, stored: bytes) -> tuple[Record, bytes]:
        """Return the record with a key, and its hash (32 bytes).

        ``key`` starts with ``records``. Raises UnreadableKeyError if they are not those of a record
        (invariants 1 and 3).
        """
        kind, record_id = self.id_of(key)
        value = stored[_VALUE_START:]
        digest = record_hash(key[self._start :], value)
        if stored[:1] != bytes([FORMAT]):
            raise UnreadableKeyError(f"the value of {shown_key(key)} has no known format")
        if stored[1:_VALUE_START] != digest[:_CHECKSUM_SIZE]:
            raise UnreadableKeyError(f"the checksum of {shown_key(key)} is wrong")
        return Record(kind, record_id, value), digest

    def id_of(self, key: bytes) -> tuple[str, bytes]:
        """Return the kind and the id of the record with a key. Raises UnreadableKeyError."""
        kind, slash, record_id = key[self._start :].partition(b"/")
        if not kind or not slash:
            raise UnreadableKeyError(f"{shown_key(key)} is not the key of a record")
        if record_id.translate(None, _PLAIN_ID):
            record_id = _unquoted(key, record_id, _IN_IDS)
        if kind.translate(None, _PLAIN_KIND):
            kind = _unquoted(key, kind, _IN_KINDS)
        try:
            return kind.decode(), record_id
        except UnicodeDecodeError as error:
            raise UnreadableKeyError(f"{shown_key(key)} is not the key of a record") from error


def name_of(kind: str, record_id: bytes) -> bytes:
    """Return the part of a record's key after the prefix: the record's name (invariant 2)."""
    if not kind:
        raise ValueError("a record has a kind")
    quoted_kind = quote_from_bytes(kind.encode(), _IN_KINDS)
    return f"{quoted_kind}/{quote_from_bytes(record_id, _IN_IDS)}".encode()


def record_hash(name: bytes, value: bytes) -> bytes:
    """Return the SHA-256 of a record. A name contains no zero byte."""
    return sha256(b"%b\0%b" % (name, value)).digest()


def shown_key(key: bytes) -> str:
    """Return a key for a message: printable, and not long."""
    text = quote_from_bytes(key[:200], _IN_IDS)
    return text if len(key) <= 200 else f"{text}…"


def _unquoted(key: bytes, quoted: bytes, safe: str) -> bytes:
    found = unquote_to_bytes(quoted)
    if quote_from_bytes(found, safe).encode() != quoted:  # Invariant 1.
        raise UnreadableKeyError(f"{shown_key(key)} is not the key of a record")
    return found
