"""What the engine refuses. The messages are etcd's (``api/v3rpc/rpctypes/error.go``)."""

from typing import ClassVar

from webhook.errors import LeewayError


class AuthError(LeewayError):
    """Base of the refusals; never raised itself."""

    text: ClassVar[str]

    def __init__(self, detail: str = "") -> None:
        super().__init__(f"etcdserver: {self.text}" + (f": {detail}" if detail else ""))


class RootUserNotExistError(AuthError):
    text = "root user does not exist"


class RootRoleNotExistError(AuthError):
    text = "root user does not have root role"


class UserAlreadyExistsError(AuthError):
    text = "user name already exists"


class UserEmptyError(AuthError):
    text = "user name is empty"


class UserNotFoundError(AuthError):
    text = "user name not found"


class RoleAlreadyExistsError(AuthError):
    text = "role name already exists"


class RoleNotFoundError(AuthError):
    text = "role name not found"


class RoleEmptyError(AuthError):
    text = "role name is empty"


class AuthFailedError(AuthError):
    text = "authentication failed, invalid user ID or password"


class PermissionNotGivenError(AuthError):
    text = "permission not given"


class PermissionDeniedError(AuthError):
    text = "permission denied"


class RoleNotGrantedError(AuthError):
    text = "role is not granted to the user"


class PermissionNotGrantedError(AuthError):
    text = "permission is not granted to the role"


class AuthNotEnabledError(AuthError):
    text = "authentication is not enabled"


class InvalidAuthTokenError(AuthError):
    text = "invalid auth token"


class UnknownAuthKeyError(InvalidAuthTokenError):
    """The same of a token that names a signing key which is not known here, or not yet."""


class TooManyRequestsError(AuthError):
    text = "too many requests"


class InvalidAuthManagementError(AuthError):
    text = "invalid auth management"


class InvalidPasswordError(LeewayError):
    """A password that is not accepted: empty, or longer than bcrypt looks at."""


class StoreError(LeewayError):
    """Stored data that is damaged, or of a version that is not known."""


class StoreUnavailableError(LeewayError):
    """The store cannot be written now; try again."""
