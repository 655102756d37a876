"""The errors of the range engine, with etcd's messages.

Clients of etcd compare the messages, so the advice for people is separate.

Source: etcd ``api/v3rpc/rpctypes/error.go``.
"""

from typing import ClassVar

from webhook.errors import LeewayError


class AuthError(LeewayError):
    """Base of the errors; never raised itself.

    ``advice`` says what to do, with commands of ``leeway``; empty where that is obvious.
    """

    text: ClassVar[str]
    default_advice: ClassVar[str] = ""

    def __init__(self, advice: str = "") -> None:
        super().__init__(f"etcdserver: {self.text}")
        self.advice = advice or self.default_advice


class RootUserNotExistError(AuthError):
    text = "root user does not exist"
    default_advice = "add it with `leeway user add root --no-password`"


class RootRoleNotExistError(AuthError):
    text = "root user does not have root role"
    default_advice = "grant it with `leeway user grant-role root root`"


class UserAlreadyExistsError(AuthError):
    text = "user name already exists"
    default_advice = "`leeway user passwd` changes its password"


class UserEmptyError(AuthError):
    text = "user name is empty"
    default_advice = "give a name"


class UserNotFoundError(AuthError):
    text = "user name not found"
    default_advice = "`leeway user list` shows the users"


class RoleAlreadyExistsError(AuthError):
    text = "role name already exists"
    default_advice = "`leeway role get` shows its permissions"


class RoleNotFoundError(AuthError):
    text = "role name not found"
    default_advice = "`leeway role list` shows the roles"


class RoleEmptyError(AuthError):
    text = "role name is empty"
    default_advice = "give a name"


class AuthFailedError(AuthError):
    text = "authentication failed, invalid user ID or password"


class PermissionNotGivenError(AuthError):
    text = "permission not given"


class PermissionDeniedError(AuthError):
    text = "permission denied"


class RoleNotGrantedError(AuthError):
    text = "role is not granted to the user"
    default_advice = (
        "`leeway user get` and `leeway group get` show the roles of a user and of a group"
    )


class PermissionNotGrantedError(AuthError):
    text = "permission is not granted to the role"
    default_advice = "`leeway role get` shows what is granted; revoke a range as it was granted"


class AuthNotEnabledError(AuthError):
    text = "authentication is not enabled"


class InvalidAuthTokenError(AuthError):
    text = "invalid auth token"


class UnknownAuthKeyError(InvalidAuthTokenError):
    """The token names a signing key that is not known here, or not yet."""


class TooManyRequestsError(AuthError):
    text = "too many requests"
    default_advice = "too many log-ins are waiting; try again in a second"


class InvalidAuthManagementError(AuthError):
    text = "invalid auth management"


class InvalidPasswordError(LeewayError):
    """The password is empty, or longer than what bcrypt reads."""


class StoreError(LeewayError):
    """The stored data is damaged, or of an unknown version."""


class StoreUnavailableError(LeewayError):
    """The store cannot be written now; try again."""


class StoreLockedError(StoreUnavailableError):
    """Another process holds the store's lock; try again."""


class StoreStaleError(StoreUnavailableError):
    """It cannot be proven that nothing acknowledged is missing from the data that is here."""


class NotInitialisedError(StoreUnavailableError):
    """There is no store here; ``leeway init`` makes one."""


class OutcomeUnknownError(LeewayError):
    """Whether a change was made is not known; look before it is repeated."""


class TooLargeError(LeewayError):
    """A change has more records, or more bytes, than the store takes at once. Nothing was sent."""


class ForeignPositionError(LeewayError):
    """A position of another store, or of a history of this one that is gone."""


class DocumentError(LeewayError):
    """A document of a store that cannot be used; names the field, and shows no secret."""


class StoreChangedError(LeewayError):
    """The store is not what a change was decided on, so that nothing was changed."""
