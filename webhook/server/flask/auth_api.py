"""``POST /v3/auth/...``: etcd's auth API over JSON.

Who may call what is decided as in etcd ``server/etcdserver/apply/apply_auth.go`` (the admin
permission) and ``AuthUserGet``/``AuthRoleGet`` there (one's own user and roles).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from webhook.errors import LeewayError
from webhook.etcd import auth_json as wire
from webhook.rbac import changes
from webhook.rbac.access import require_admin, roles_of
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.auth_tokens import TokenProvider
from webhook.rbac.errors import (
    AuthFailedError,
    AuthNotEnabledError,
    PermissionDeniedError,
    PermissionNotGivenError,
)
from webhook.rbac.model import ROOT
from webhook.rbac.passwords import Passwords
from webhook.rbac.permissions import RoleSet
from webhook.server.request.caller import Caller
from webhook.telemetry.audit import DENIED, DONE, FAILED, Audit


@dataclass(frozen=True, slots=True)
class AuthAPI:
    """The calls of the API. Each takes the caller (NOBODY for none) and a request body."""

    store: AuthStore
    passwords: Passwords
    tokens: TokenProvider
    clock: Callable[[], float]

    def call(self, name: str, caller: Caller, body: bytes, audit: Audit) -> bytes | None:
        """Make a call (``user/add``) and return its answer, or None where there is no such call.

        A change, one that is refused too, and a log-in get a line of ``audit``. Raises AuthError,
        InvalidReviewError, InvalidPasswordError or StoreUnavailableError.
        """
        found = _CALLS.get(name)
        if found is None:
            return None
        request = wire.parse_request(body, found.request)
        try:
            if found.admin:
                self._require_admin(caller)
            fields = found.run(self, caller, request) or {}
        except LeewayError as error:
            if found.action:
                outcome = DENIED if isinstance(error, _DENIALS) else FAILED
                audit(found.action, outcome, {**request.on_what(), "reason": str(error)})
            raise
        if found.action:
            # A log-in changes nothing that has a revision.
            revision = {"revision": self.store.own_revision} if found.admin else {}
            audit(found.action, DONE, request.on_what() | revision)
        return wire.render(self.store.revision, **fields)

    def enable(self, _caller: Caller, _request: wire.Request) -> None:
        """AuthEnable."""
        self.store.change(changes.enable)

    def disable(self, _caller: Caller, _request: wire.Request) -> None:
        """AuthDisable."""
        self.store.change(changes.disable)

    def status(self, _caller: Caller, _request: wire.Request) -> dict[str, Any]:
        """AuthStatus."""
        return {"enabled": self.store.enabled, "authRevision": str(self.store.revision)}

    def authenticate(self, _caller: Caller, request: wire.AuthenticateRequest) -> dict[str, Any]:
        """Authenticate: check the password, and make a token."""
        if not self.store.enabled:
            raise AuthNotEnabledError
        state = self.store.state
        user = state.users.get(request.name)
        password_hash = user.password_hash if user else None
        self.passwords.check(request.password, password_hash, state.highest_password_cost)
        if user is None:
            raise AuthFailedError
        return {"token": self.tokens.assign(user, self.clock())}

    def user_add(self, _caller: Caller, request: wire.UserAddRequest) -> None:
        """AuthUserAdd."""
        without = request.options is not None and request.options.no_password
        password_hash = b"" if without or not request.name else self._hash(request.password)
        self.store.change(changes.add_user, request.name, password_hash)

    def user_get(self, caller: Caller, request: wire.NameRequest) -> dict[str, Any]:
        """AuthUserGet: root, or the user itself."""
        if request.name != caller.username or not caller.username:
            self._require_admin(caller)
        return {"roles": self.store.user(request.name).roles}

    def user_list(self, _caller: Caller, _request: wire.Request) -> dict[str, Any]:
        """AuthUserList."""
        return {"users": self.store.user_names()}

    def user_delete(self, _caller: Caller, request: wire.NameRequest) -> None:
        """AuthUserDelete."""
        self.store.change(changes.delete_user, request.name)

    def user_change_password(self, _caller: Caller, request: wire.AuthenticateRequest) -> None:
        """AuthUserChangePassword."""
        self.store.user(request.name)
        self.store.change(changes.change_password, request.name, self._hash(request.password))

    def user_grant_role(self, _caller: Caller, request: wire.UserGrantRoleRequest) -> None:
        """AuthUserGrantRole."""
        self.store.change(changes.grant_role, request.user, request.role)

    def user_revoke_role(self, _caller: Caller, request: wire.UserRevokeRoleRequest) -> None:
        """AuthUserRevokeRole."""
        self.store.change(changes.revoke_role, request.name, request.role)

    def role_add(self, _caller: Caller, request: wire.RoleAddRequest) -> None:
        """AuthRoleAdd."""
        self.store.change(changes.add_role, request.name)

    def role_get(self, caller: Caller, request: wire.RoleRequest) -> dict[str, Any]:
        """AuthRoleGet: root, or a user that has the role."""
        if request.role not in self._roles_of(caller):
            self._require_admin(caller)
        return {"perm": wire.render_permissions(self.store.role(request.role).permissions)}

    def role_list(self, _caller: Caller, _request: wire.Request) -> dict[str, Any]:
        """AuthRoleList."""
        return {"roles": self.store.role_names()}

    def role_delete(self, _caller: Caller, request: wire.RoleRequest) -> None:
        """AuthRoleDelete."""
        self.store.change(changes.delete_role, request.role)

    def role_grant_permission(
        self, _caller: Caller, request: wire.RoleGrantPermissionRequest
    ) -> None:
        """AuthRoleGrantPermission."""
        if request.perm is None:
            raise PermissionNotGivenError
        self.store.change(changes.grant_permission, request.name, wire.permission_of(request.perm))

    def role_revoke_permission(
        self, _caller: Caller, request: wire.RoleRevokePermissionRequest
    ) -> None:
        """AuthRoleRevokePermission."""
        self.store.change(changes.revoke_permission, request.role, request.key, request.range_end)

    def _require_admin(self, caller: Caller) -> None:
        require_admin(self.store, caller.username, caller.groups)
        # Auth may have been disabled since the token was looked at: then only certificates count.
        if caller.by_token and ROOT not in self._roles_of(caller):
            raise PermissionDeniedError

    def _roles_of(self, caller: Caller) -> RoleSet:
        return roles_of(self.store.state, caller.username, caller.groups)

    def _hash(self, password: str) -> bytes:
        return self.passwords.hash(password)


@dataclass(frozen=True, slots=True)
class _Call:
    """``action`` is what audit lines call it, empty for a call that changes nothing."""

    request: type[wire.Request]
    run: Callable[[AuthAPI, Caller, Any], dict[str, Any] | None]
    action: str = ""
    admin: bool = True


def call_names() -> tuple[str, ...]:
    """Return the names of all calls."""
    return tuple(_CALLS)


_DENIALS: Final = (PermissionDeniedError, AuthFailedError)
_CALLS: Final = {
    "enable": _Call(wire.Request, AuthAPI.enable, "auth.enable"),
    "disable": _Call(wire.Request, AuthAPI.disable, "auth.disable"),
    "status": _Call(wire.Request, AuthAPI.status),
    "authenticate": _Call(
        wire.AuthenticateRequest, AuthAPI.authenticate, "user.authenticate", admin=False
    ),
    "user/add": _Call(wire.UserAddRequest, AuthAPI.user_add, "user.add"),
    "user/get": _Call(wire.NameRequest, AuthAPI.user_get, admin=False),
    "user/list": _Call(wire.Request, AuthAPI.user_list),
    "user/delete": _Call(wire.NameRequest, AuthAPI.user_delete, "user.delete"),
    "user/changepw": _Call(wire.AuthenticateRequest, AuthAPI.user_change_password, "user.passwd"),
    "user/grant": _Call(wire.UserGrantRoleRequest, AuthAPI.user_grant_role, "user.grant-role"),
    "user/revoke": _Call(wire.UserRevokeRoleRequest, AuthAPI.user_revoke_role, "user.revoke-role"),
    "role/add": _Call(wire.RoleAddRequest, AuthAPI.role_add, "role.add"),
    "role/get": _Call(wire.RoleRequest, AuthAPI.role_get, admin=False),
    "role/list": _Call(wire.Request, AuthAPI.role_list),
    "role/delete": _Call(wire.RoleRequest, AuthAPI.role_delete, "role.delete"),
    "role/grant": _Call(
        wire.RoleGrantPermissionRequest, AuthAPI.role_grant_permission, "role.grant-permission"
    ),
    "role/revoke": _Call(
        wire.RoleRevokePermissionRequest, AuthAPI.role_revoke_permission, "role.revoke-permission"
    ),
}
