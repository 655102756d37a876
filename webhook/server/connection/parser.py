"""gunicorn's HTTP parser, faster for the header fields that nearly every request has.

Fields that are plain (a token, a colon, printable ASCII, CRLF) are taken by one regular expression;
whatever is not goes the whole way through gunicorn's own checks, field by field. What the fields
mean together (lengths, codings, fields that appear twice) is judged by gunicorn either way.
"""

import re
from typing import Any, Final

from gunicorn.asgi.parser import PythonProtocol

# RFC 9110 section 5.1 and 5.5, without obs-text. The first blanks are possessive: if both runs
# could share the blanks of an empty value, a block of such lines would take exponential time.
PLAIN_FIELD: Final = rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*+([!-~](?:[ -~]*[!-~])?|)[ \t]*\r\n"
FIELDS: Final = re.compile(PLAIN_FIELD)
_PLAIN_BLOCK = re.compile(rb"(?:" + PLAIN_FIELD + rb")*")


class LeewayParser(PythonProtocol):  # type: ignore[misc]  # gunicorn has no types
    """The parser of one connection. Without slots of its own, a parser can become one."""

    __slots__ = ()

    def _parse_headers(self: Any) -> bool:
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n")
        if self._header_count == 0 and 0 <= end <= self._limit_request_field_size:
            block = bytes(buffer[: end + 2])
            if _PLAIN_BLOCK.fullmatch(block):
                fields = FIELDS.findall(block)
                if len(fields) <= self._limit_request_fields:
                    del buffer[: end + 4]
                    # Where gunicorn stopped looking for the end of a line that had come in part.
                    self._scan_from = 0
                    self._headers_list = [(name.lower(), value) for name, value in fields]
                    self._header_count = len(fields)
                    self._finalize_headers()
                    return True
        parsed: bool = PythonProtocol._parse_headers(self)
        return parsed
