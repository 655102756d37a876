"""One table: what goes wrong, and the ``Status`` it is answered with.

Source: kubernetes ``apimachinery/pkg/api/errors``.
"""

from typing import Final

import msgspec

from webhook.errors import InvalidReviewError, LeewayError

JSON: Final = b"application/json"

REASONS: Final = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    500: "InternalError",
    503: "ServiceUnavailable",
}
_CODES: Final[dict[type[LeewayError], int]] = {InvalidReviewError: 400}


def code_of(error: LeewayError) -> int:
    """Return the HTTP status of an error; 500 for one that no request should cause."""
    return _CODES.get(type(error), 500)


def status_body(code: int, message: str) -> bytes:
    """Render a ``Status`` of failure."""
    return msgspec.json.encode(
        {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": REASONS[code],
            "code": code,
        }
    )
