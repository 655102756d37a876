"""One table: what goes wrong, and the response to it.

Source: kubernetes ``apimachinery/pkg/api/errors``.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from keys.errors import KeysError
from keys.messages import describe_os_error
from webhook.errors import (
    InvalidObjectError,
    InvalidReviewError,
    LeewayError,
    LookupUnavailableError,
    ObjectConflictError,
    ObjectNotFoundError,
)
from webhook.rbac import errors as rbac
from webhook.server.request.message import REQUEST_ID, Fields, Request, RequestError, Response

INTERNAL_ERROR: Final = "an internal error occurred; it is in the server's log"
NOT_FOUND: Final = "the server could not find the requested resource"

REASONS: Final = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    500: "InternalError",
    503: "ServiceUnavailable",
}
# gRPC's codes, and the HTTP status that grpc-gateway gives each.
_INVALID_ARGUMENT: Final = (3, 400)
_PERMISSION_DENIED: Final = (7, 403)
_FAILED_PRECONDITION: Final = (9, 400)
_UNAVAILABLE: Final = (14, 503)
_UNAUTHENTICATED: Final = (16, 401)

# etcd ``api/v3rpc/rpctypes/error.go``.
_GRPC: Final[dict[type[LeewayError], tuple[int, int]]] = {
    InvalidReviewError: _INVALID_ARGUMENT,
    InvalidObjectError: (3, 422),
    ObjectNotFoundError: (5, 404),
    ObjectConflictError: (10, 409),
    LookupUnavailableError: _UNAVAILABLE,
    rbac.InvalidPasswordError: _INVALID_ARGUMENT,
    rbac.UserEmptyError: _INVALID_ARGUMENT,
    rbac.RoleEmptyError: _INVALID_ARGUMENT,
    rbac.AuthFailedError: _INVALID_ARGUMENT,
    rbac.PermissionNotGivenError: _INVALID_ARGUMENT,
    rbac.InvalidAuthManagementError: _INVALID_ARGUMENT,
    rbac.PermissionDeniedError: _PERMISSION_DENIED,
    rbac.RootUserNotExistError: _FAILED_PRECONDITION,
    rbac.RootRoleNotExistError: _FAILED_PRECONDITION,
    rbac.UserAlreadyExistsError: _FAILED_PRECONDITION,
    rbac.UserNotFoundError: _FAILED_PRECONDITION,
    rbac.RoleAlreadyExistsError: _FAILED_PRECONDITION,
    rbac.RoleNotFoundError: _FAILED_PRECONDITION,
    rbac.RoleNotGrantedError: _FAILED_PRECONDITION,
    rbac.PermissionNotGrantedError: _FAILED_PRECONDITION,
    rbac.AuthNotEnabledError: _FAILED_PRECONDITION,
    rbac.InvalidAuthTokenError: _UNAUTHENTICATED,
    rbac.UnknownAuthKeyError: _UNAUTHENTICATED,
    rbac.StoreError: _UNAVAILABLE,
    rbac.StoreLockedError: _UNAVAILABLE,
    rbac.StoreUnavailableError: _UNAVAILABLE,
    rbac.TooManyRequestsError: _UNAVAILABLE,
}
_INTERNAL: Final = (13, 500)
# For answers to requests that no call has seen: a status, and the code closest to it.
_GRPC_CODES: Final = {
    400: 3,
    401: 16,
    403: 7,
    404: 5,
    405: 12,
    413: 3,
    415: 3,
    503: 14,
}
_EXPECTED: Final = (OSError, LeewayError, KeysError)
ETCD_PREFIX: Final = "/v3/"
"""The paths under which errors have the form of etcd's JSON gateway."""


def request_error_of(error: Exception) -> RequestError:
    """Return what an error is answered with; 500 for one that is not expected, without its text."""
    if isinstance(error, RequestError):
        return error
    grpc, code = _GRPC.get(type(error), _INTERNAL) if isinstance(error, LeewayError) else _INTERNAL
    if code == 500:
        return RequestError(code, INTERNAL_ERROR)
    headers: Fields = ((b"retry-after", b"1"),) if code == 503 else ()
    return RequestError(code, str(error), headers, details_of(error), grpc)


def error_response(request: Request, error: RequestError) -> Response:
    """Render an error in the form of the routes around a path: etcd's, or a ``Status``."""
    code, message = error.code, str(error)
    if request.path.startswith(ETCD_PREFIX):
        grpc = _GRPC_CODES.get(code, _INTERNAL[0]) if error.grpc is None else error.grpc
        body: dict[str, object] = {"code": grpc, "message": message}
    else:
        body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": REASONS[code],
            **({"details": error.details} if error.details else {}),
            "code": code,
        }
    headers = (*error.headers, (REQUEST_ID, request.id.encode("ascii")))
    return Response(code, msgspec.json.encode(body), headers=headers)


def details_of(error: Exception) -> Mapping[str, object] | None:
    """Return the ``details`` of the ``Status`` of an error; members that are empty are left out."""
    if isinstance(error, ObjectNotFoundError):
        return {"name": error.name, "kind": error.resource}
    if not isinstance(error, InvalidObjectError | ObjectConflictError):
        return None
    named = {"name": error.name, "group": error.group, "kind": error.kind}
    details: dict[str, object] = {key: value for key, value in named.items() if value}
    if isinstance(error, InvalidObjectError):
        details["causes"] = [cause._asdict() for cause in error.causes]
    return details


def in_words(error: Exception) -> str:
    """Return what is wrong. What nobody expected may say anything, so it is left to the log."""
    if isinstance(error, OSError):
        return describe_os_error(error)
    if isinstance(error, _EXPECTED):
        return str(error)
    return f"an internal error occurred ({type(error).__name__}); it is in the log"


def traceback_of(error: Exception) -> Exception | None:
    """Return what a log record gets as ``exc_info``: what is expected needs no traceback."""
    return None if isinstance(error, _EXPECTED) else error
