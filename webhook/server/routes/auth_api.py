"""``POST /v3/auth/...``: etcd's auth API over JSON.

Who may call what is decided as in etcd ``server/etcdserver/apply/apply_auth.go`` (the admin
permission) and ``AuthUserGet``/``AuthRoleGet`` there (one's own user and roles).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from webhook import etcd_wire as wire
from webhook.rbac.access import require_admin
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import (
    AuthFailedError,
    AuthNotEnabledError,
    PermissionNotGivenError,
)
from webhook.rbac.passwords import Passwords
from webhook.rbac.tokens import TokenProvider


@dataclass(frozen=True, slots=True)
class AuthAPI:
    """The calls of the API. Each takes the caller's name (empty for none) and a request body."""

    store: AuthStore
    passwords: Passwords
    tokens: TokenProvider
    clock: Callable[[], float]

    def call(self, name: str, caller: str, body: bytes) -> bytes | None:
        """Make a call (``user/add``) and return its answer, or None where there is no such call.

        Raises AuthError, InvalidReviewError, InvalidPasswordError or StoreUnavailableError.
        """
        found = _CALLS.get(name)
        if found is None:
            return None
        request = wire.parse_request(body, found.request)
        if found.admin:
            require_admin(self.store, caller)
        fields = found.run(self, caller, request) or {}
        return wire.render(self.store.revision, **fields)

    def enable(self, _caller: str, _request: wire.Request) -> None:
        """AuthEnable."""
        self.store.enable()

    def disable(self, _caller: str, _request: wire.Request) -> None:
        """AuthDisable."""
        self.store.disable()

    def status(self, _caller: str, _request: wire.Request) -> dict[str, Any]:
        """AuthStatus."""
        return {"enabled": self.store.enabled, "authRevision": str(self.store.revision)}

    def authenticate(self, _caller: str, request: wire.AuthenticateRequest) -> dict[str, Any]:
        """Authenticate: check the password, and make a token."""
        if not self.store.enabled:
            raise AuthNotEnabledError
        user = self.store.state.users.get(request.name)
        self.passwords.check(request.password, user.password_hash if user else None)
        if user is None:
            raise AuthFailedError
        return {"token": self.tokens.assign(user, self.clock())}

    def user_add(self, _caller: str, request: wire.UserAddRequest) -> None:
        """AuthUserAdd."""
        without = request.options is not None and request.options.no_password
        password_hash = b"" if without or not request.name else self._hash(request.password)
        self.store.add_user(request.name, password_hash)

    def user_get(self, caller: str, request: wire.NameRequest) -> dict[str, Any]:
        """AuthUserGet: root, or the user itself."""
        if request.name != caller or not caller:
            require_admin(self.store, caller)
        return {"roles": self.store.user(request.name).roles}

    def user_list(self, _caller: str, _request: wire.Request) -> dict[str, Any]:
        """AuthUserList."""
        return {"users": self.store.user_names()}

    def user_delete(self, _caller: str, request: wire.NameRequest) -> None:
        """AuthUserDelete."""
        self.store.delete_user(request.name)

    def user_change_password(self, _caller: str, request: wire.AuthenticateRequest) -> None:
        """AuthUserChangePassword."""
        self.store.user(request.name)
        self.store.change_password(request.name, self._hash(request.password))

    def user_grant_role(self, _caller: str, request: wire.UserGrantRoleRequest) -> None:
        """AuthUserGrantRole."""
        self.store.grant_role(request.user, request.role)

    def user_revoke_role(self, _caller: str, request: wire.UserRevokeRoleRequest) -> None:
        """AuthUserRevokeRole."""
        self.store.revoke_role(request.name, request.role)

    def role_add(self, _caller: str, request: wire.NameRequest) -> None:
        """AuthRoleAdd."""
        self.store.add_role(request.name)

    def role_get(self, caller: str, request: wire.RoleRequest) -> dict[str, Any]:
        """AuthRoleGet: root, or a user that has the role."""
        user = self.store.state.users.get(caller)
        if user is None or request.role not in user.roles:
            require_admin(self.store, caller)
        return {"perm": wire.render_permissions(self.store.role(request.role).permissions)}

    def role_list(self, _caller: str, _request: wire.Request) -> dict[str, Any]:
        """AuthRoleList."""
        return {"roles": self.store.role_names()}

    def role_delete(self, _caller: str, request: wire.RoleRequest) -> None:
        """AuthRoleDelete."""
        self.store.delete_role(request.role)

    def role_grant_permission(self, _caller: str, request: wire.RoleGrantPermissionRequest) -> None:
        """AuthRoleGrantPermission."""
        if request.perm is None:
            raise PermissionNotGivenError
        self.store.grant_permission(request.name, wire.permission_of(request.perm))

    def role_revoke_permission(
        self, _caller: str, request: wire.RoleRevokePermissionRequest
    ) -> None:
        """AuthRoleRevokePermission."""
        self.store.revoke_permission(request.role, request.key, request.range_end)

    def _hash(self, password: str) -> bytes:
        return self.passwords.hash(password)


@dataclass(frozen=True, slots=True)
class _Call:
    request: type[wire.Request]
    run: Callable[[AuthAPI, str, Any], dict[str, Any] | None]
    admin: bool = True


_CALLS: Final = {
    "enable": _Call(wire.Request, AuthAPI.enable),
    "disable": _Call(wire.Request, AuthAPI.disable),
    "status": _Call(wire.Request, AuthAPI.status),
    "authenticate": _Call(wire.AuthenticateRequest, AuthAPI.authenticate, admin=False),
    "user/add": _Call(wire.UserAddRequest, AuthAPI.user_add),
    "user/get": _Call(wire.NameRequest, AuthAPI.user_get, admin=False),
    "user/list": _Call(wire.Request, AuthAPI.user_list),
    "user/delete": _Call(wire.NameRequest, AuthAPI.user_delete),
    "user/changepw": _Call(wire.AuthenticateRequest, AuthAPI.user_change_password),
    "user/grant": _Call(wire.UserGrantRoleRequest, AuthAPI.user_grant_role),
    "user/revoke": _Call(wire.UserRevokeRoleRequest, AuthAPI.user_revoke_role),
    "role/add": _Call(wire.NameRequest, AuthAPI.role_add),
    "role/get": _Call(wire.RoleRequest, AuthAPI.role_get, admin=False),
    "role/list": _Call(wire.Request, AuthAPI.role_list),
    "role/delete": _Call(wire.RoleRequest, AuthAPI.role_delete),
    "role/grant": _Call(wire.RoleGrantPermissionRequest, AuthAPI.role_grant_permission),
    "role/revoke": _Call(wire.RoleRevokePermissionRequest, AuthAPI.role_revoke_permission),
}
