"""One table: what goes wrong, and the ``Status`` it is answered with.

Source: kubernetes ``apimachinery/pkg/api/errors``.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from webhook.errors import InvalidObjectError, InvalidReviewError, LeewayError
from webhook.rbac import errors as rbac

JSON: Final = b"application/json"
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
ETCD_PREFIX: Final = "/v3/"
"""The paths under which errors have the form of etcd's JSON gateway."""


def code_of(error: LeewayError) -> int:
    """Return the HTTP status of an error; 500 for one that no request should cause."""
    return _GRPC.get(type(error), _INTERNAL)[1]


def grpc_body(error: LeewayError) -> bytes:
    """Render an error as etcd's JSON gateway does."""
    code = _GRPC.get(type(error), _INTERNAL)[0]
    return msgspec.json.encode({"code": code, "message": str(error)})


def error_body(
    path: str, code: int, message: str, details: Mapping[str, object] | None = None
) -> bytes:
    """Render an error in the form of the routes around a path: etcd's, or a ``Status``."""
    if path.startswith(ETCD_PREFIX):
        return msgspec.json.encode(
            {"code": _GRPC_CODES.get(code, _INTERNAL[0]), "message": message}
        )
    return status_body(code, message, details)


def status_body(code: int, message: str, details: Mapping[str, object] | None = None) -> bytes:
    """Render a ``Status`` of failure."""
    return msgspec.json.encode(
        {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": REASONS[code],
            **({"details": details} if details else {}),
            "code": code,
        }
    )


def invalid_details(error: InvalidObjectError) -> dict[str, object]:
    """Return the ``details`` of the ``Status`` of a 422; members that are empty are left out."""
    named = {"name": error.name, "group": error.group, "kind": error.kind}
    causes = [cause._asdict() for cause in error.causes]
    return {key: value for key, value in named.items() if value} | {"causes": causes}
