"""Two tables: from an error to a status, and from a status to the response.

Source: kubernetes ``apimachinery/pkg/api/errors``.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from keys.errors import KeysError, NotSigningError
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

# For each status, the reason of a ``Status`` and the closest gRPC code.
STATUSES: Final = {
    400: ("BadRequest", 3),
    401: ("Unauthorized", 16),
    403: ("Forbidden", 7),
    404: ("NotFound", 5),
    405: ("MethodNotAllowed", 12),
    409: ("Conflict", 13),
    413: ("RequestEntityTooLarge", 3),
    415: ("UnsupportedMediaType", 3),
    422: ("Invalid", 13),
    500: ("InternalError", 13),
    503: ("ServiceUnavailable", 14),
}
# For each error, the gRPC code in etcd ``api/v3rpc/rpctypes/error.go`` and the status that
# grpc-gateway gives it.
_ERRORS: Final[dict[type[Exception], tuple[int, int]]] = {
    InvalidReviewError: (3, 400),
    InvalidObjectError: (3, 422),
    ObjectNotFoundError: (5, 404),
    ObjectConflictError: (10, 409),
    LookupUnavailableError: (14, 503),
    rbac.InvalidPasswordError: (3, 400),
    rbac.UserEmptyError: (3, 400),
    rbac.RoleEmptyError: (3, 400),
    rbac.AuthFailedError: (3, 400),
    rbac.PermissionNotGivenError: (3, 400),
    rbac.InvalidAuthManagementError: (3, 400),
    rbac.PermissionDeniedError: (7, 403),
    rbac.RootUserNotExistError: (9, 400),
    rbac.RootRoleNotExistError: (9, 400),
    rbac.UserAlreadyExistsError: (9, 400),
    rbac.UserNotFoundError: (9, 400),
    rbac.RoleAlreadyExistsError: (9, 400),
    rbac.RoleNotFoundError: (9, 400),
    rbac.RoleNotGrantedError: (9, 400),
    rbac.PermissionNotGrantedError: (9, 400),
    rbac.AuthNotEnabledError: (9, 400),
    rbac.InvalidAuthTokenError: (16, 401),
    rbac.UnknownAuthKeyError: (16, 401),
    rbac.ForeignPositionError: (3, 400),
    rbac.TooLargeError: (3, 400),
    rbac.NotInitialisedError: (14, 503),
    rbac.OutcomeUnknownError: (14, 503),
    rbac.StoreError: (14, 503),
    rbac.StoreLockedError: (14, 503),
    rbac.StoreStaleError: (14, 503),
    rbac.StoreUnavailableError: (14, 503),
    rbac.TooManyRequestsError: (14, 503),
    NotSigningError: (14, 503),
}
# An answer to these does not invite to repeat the request.
_NOT_REPEATABLE: Final = frozenset((rbac.OutcomeUnknownError,))
_EXPECTED: Final = (OSError, LeewayError, KeysError)
ETCD_PREFIX: Final = "/v3/"
"""The paths under which errors have the form of etcd's JSON gateway."""


def request_error_of(error: Exception) -> RequestError:
    """Return the error to answer with: 500, without its text, for an unexpected one."""
    if isinstance(error, RequestError):
        return error
    if type(error) not in _ERRORS:
        return RequestError(500, INTERNAL_ERROR)
    grpc, code = _ERRORS[type(error)]
    is_repeatable = code == 503 and type(error) not in _NOT_REPEATABLE
    headers: Fields = ((b"retry-after", b"1"),) if is_repeatable else ()
    return RequestError(code, str(error), headers, details_of(error), grpc)


def error_response(request: Request, error: RequestError) -> Response:
    """Render an error in the form of the routes at its path: etcd's, or a ``Status``."""
    code, message = error.code, str(error)
    reason, grpc = STATUSES[code]
    if request.path.startswith(ETCD_PREFIX):
        body: dict[str, object] = {"code": error.grpc or grpc, "message": message}
    else:
        body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            **({"details": error.details} if error.details else {}),
            "code": code,
        }
    headers = (*error.headers, (REQUEST_ID, request.id.encode("ascii")))
    return Response(code, msgspec.json.encode(body), headers=headers)


def details_of(error: Exception) -> Mapping[str, object] | None:
    """Return the ``details`` of the ``Status`` of an error, without empty members."""
    if isinstance(error, ObjectNotFoundError):
        return {"name": error.name, "kind": error.resource}
    if not isinstance(error, InvalidObjectError | ObjectConflictError):
        return None
    named = {"name": error.name, "group": error.group, "kind": error.kind}
    details: dict[str, object] = {key: value for key, value in named.items() if value}
    if isinstance(error, InvalidObjectError):
        details["causes"] = [cause._asdict() for cause in error.causes]
    return details


def describe_error(error: Exception) -> str:
    """Return the text of an error, without that of an unexpected one, which may be anything."""
    if isinstance(error, OSError):
        return describe_os_error(error)
    if isinstance(error, _EXPECTED):
        return str(error)
    return f"an internal error occurred ({type(error).__name__}); it is in the log"


def traceback_of(error: Exception) -> Exception | None:
    """Return the ``exc_info`` of a log record; an expected error needs no traceback."""
    return None if isinstance(error, _EXPECTED) else error
