"""A chunked body (RFC 9112 section 7.1), put together as it arrives.

Limits, with 400 for what is beyond them: 16 digits and 256 bytes for the line before a chunk, an
average of 64 bytes for more than 1,024 chunks, 100 trailer fields of 8,190 bytes in all. Extensions
of a chunk are ignored, and refused with blanks in them, as llhttp does. Trailer fields are checked
and dropped: nothing here uses one, and one that frames a message or identifies a caller is an
attack (RFC 9110 section 6.5.1).
"""

import re
from typing import Final

from webhook.server.connection.read_head import Limits, MessageError, has_bare_lf, read_fields

_MAX_LINE: Final = 256
_MAX_SMALL_CHUNKS: Final = 1024
_SMALL_CHUNK: Final = 64
_TRAILERS: Final = Limits(100, 8190)
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_SIZE_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,16})(?:;%b(?:=(?:%b|\"[^\"\\\x00-\x1f\x7f]*+\"))?)*" % (_TOKEN, _TOKEN)
)
_FORBIDDEN: Final = frozenset(
    b"authorization connection content-length content-type host te trailer transfer-encoding "
    b"upgrade".split()
)
_BAD_CHUNK: Final = "a chunk of the body is malformed"
_BAD_TRAILER: Final = "the trailer section is malformed"


class ChunkedBody:
    """The body of one request, in ``body``, complete once ``is_complete`` is true."""

    __slots__ = ("_chunks", "_is_last", "_left", "body", "is_complete")

    def __init__(self) -> None:
        self.body = bytearray()
        self.is_complete = False
        self._chunks = 0
        # How many bytes of the chunk are missing, including the CRLF after it.
        self._left = 0
        self._is_last = False

    @property
    def length(self) -> int:
        """The bytes that have arrived, and those that the present chunk still has to bring."""
        return len(self.body) + max(self._left - 2, 0)

    def feed(self, data: bytes | bytearray, at: int) -> int:
        """Take what has arrived, from an offset on; return the offset of what is not taken.

        Raises MessageError. The offset of a body that is complete is that of the next request.
        """
        before = -1
        while at != before and not self.is_complete:
            before = at
            if self._left:
                at = self._read_data(data, at)
            elif self._is_last:
                at = self._read_trailers(data, at)
            else:
                at = self._read_size(data, at)
        return at

    def _read_data(self, data: bytes | bytearray, at: int) -> int:
        end = min(at + self._left - 2, len(data))
        if end > at:
            self.body += data[at:end]
            self._left -= end - at
        if self._left > 2 or len(data) < end + 2:
            return end
        if data[end : end + 2] != b"\r\n":
            raise MessageError(400, _BAD_CHUNK)
        self._left = 0
        return end + 2

    def _read_size(self, data: bytes | bytearray, at: int) -> int:
        end = data.find(b"\r\n", at, at + _MAX_LINE + 2)
        if end < 0:
            if len(data) - at > _MAX_LINE + 1 or b"\n" in data[at:]:
                raise MessageError(400, _BAD_CHUNK)
            return at
        line = _SIZE_LINE.fullmatch(data, at, end)
        if line is None:
            raise MessageError(400, _BAD_CHUNK)
        size = int(line[1], 16)
        if size == 0:
            self._is_last = True
            return end + 2
        self._chunks += 1
        self._left = size + 2
        if self._chunks > _MAX_SMALL_CHUNKS and self.length < _SMALL_CHUNK * self._chunks:
            raise MessageError(400, "the body has too many small chunks")
        return end + 2

    def _read_trailers(self, data: bytes | bytearray, at: int) -> int:
        if data.startswith(b"\r\n", at):
            self.is_complete = True
            return at + 2
        section = bytes(data[at : at + _TRAILERS.field_bytes + 4])
        end = section.find(b"\r\n\r\n") + 4
        if end < 4:
            if len(section) > _TRAILERS.field_bytes + 3 or has_bare_lf(section):
                raise MessageError(400, _BAD_TRAILER)
            return at
        fields = read_fields(b"GET / HTTP/1.1\r\n" + section[:end], _TRAILERS)
        if any(name in _FORBIDDEN for name, _ in fields):
            raise MessageError(400, _BAD_TRAILER)
        self.is_complete = True
        return at + end
