"""``POST /v3/auth/...``: etcd's auth API over JSON.

Who may call what is decided as in etcd ``server/etcdserver/apply/apply_auth.go`` (the admin
permission) and ``AuthUserGet``/``AuthRoleGet`` there (one's own user and roles).
"""

from collections.abc import Callable, Iterable
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
)
from webhook.rbac.model import ROOT
from webhook.rbac.passwords import Passwords
from webhook.rbac.permissions import RoleSet
from webhook.rbac.records import Record
from webhook.server.request.message import Caller
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
                audit(found.action, outcome, {**request.audited(), "reason": str(error)})
            raise
        if found.action:
            # A log-in changes nothing that has a revision.
            revision = {"revision": self.store.own_revision} if found.admin else {}
            audit(found.action, DONE, request.audited() | revision)
        return wire.render(self.store.revision, **fields)

    def status(self, _caller: Caller, _request: wire.AuthRequest) -> dict[str, Any]:
        """AuthStatus."""
        return {"enabled": self.store.enabled, "authRevision": str(self.store.revision)}

    def authenticate(self, _caller: Caller, request: wire.PasswordRequest) -> dict[str, Any]:
        """Authenticate: check the password, and make a token."""
        if not self.store.enabled:
            raise AuthNotEnabledError
        state = self.store.state
        user = state.users.get(request.user)
        password_hash = user.password_hash if user else None
        self.passwords.check(request.password, password_hash, state.highest_password_cost)
        if user is None:
            raise AuthFailedError
        return {"token": self.tokens.assign(user, self.clock())}

    def user_add(self, _caller: Caller, request: wire.UserAddRequest) -> None:
        """AuthUserAdd."""
        without = request.options is not None and request.options.no_password
        password_hash = b"" if without or not request.user else self._hash(request.password)
        self.store.change(changes.add_user, request.user, password_hash)

    def user_get(self, caller: Caller, request: wire.UserRequest) -> dict[str, Any]:
        """AuthUserGet: root, or the user itself."""
        if request.user != caller.username or not caller.username:
            self._require_admin(caller)
        return {"roles": self.store.user(request.user).roles}

    def user_list(self, _caller: Caller, _request: wire.AuthRequest) -> dict[str, Any]:
        """AuthUserList."""
        return {"users": self.store.user_names()}

    def user_change_password(self, _caller: Caller, request: wire.PasswordRequest) -> None:
        """AuthUserChangePassword."""
        self.store.user(request.user)
        self.store.change(changes.change_password, request.user, self._hash(request.password))

    def role_get(self, caller: Caller, request: wire.RoleRequest) -> dict[str, Any]:
        """AuthRoleGet: root, or a user that has the role."""
        if request.role not in self._roles_of(caller):
            self._require_admin(caller)
        return {"perm": wire.render_permissions(self.store.role(request.role).permissions)}

    def role_list(self, _caller: Caller, _request: wire.AuthRequest) -> dict[str, Any]:
        """AuthRoleList."""
        return {"roles": self.store.role_names()}

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

    request: type[wire.AuthRequest]
    run: Callable[[AuthAPI, Caller, Any], dict[str, Any] | None]
    action: str = ""
    admin: bool = True


def _change(
    request: type[wire.AuthRequest], decide: Callable[..., Iterable[Record]], action: str
) -> _Call:
    """Return a call that does nothing but write what ``decide`` decides."""

    def run(api: AuthAPI, _caller: Caller, parsed: wire.AuthRequest) -> None:
        api.store.change(decide, *parsed.arguments())

    return _Call(request, run, action)


def call_names() -> tuple[str, ...]:
    """Return the names of all calls."""
    return tuple(_CALLS)


_DENIALS: Final = (PermissionDeniedError, AuthFailedError)
_CALLS: Final = {
    "enable": _change(wire.AuthRequest, changes.enable, "auth.enable"),
    "disable": _change(wire.AuthRequest, changes.disable, "auth.disable"),
    "status": _Call(wire.AuthRequest, AuthAPI.status),
    "authenticate": _Call(
        wire.PasswordRequest, AuthAPI.authenticate, "user.authenticate", admin=False
    ),
    "user/add": _Call(wire.UserAddRequest, AuthAPI.user_add, "user.add"),
    "user/get": _Call(wire.UserRequest, AuthAPI.user_get, admin=False),
    "user/list": _Call(wire.AuthRequest, AuthAPI.user_list),
    "user/delete": _change(wire.UserRequest, changes.delete_user, "user.delete"),
    "user/changepw": _Call(wire.PasswordRequest, AuthAPI.user_change_password, "user.passwd"),
    "user/grant": _change(wire.UserGrantRoleRequest, changes.grant_role, "user.grant-role"),
    "user/revoke": _change(wire.UserRevokeRoleRequest, changes.revoke_role, "user.revoke-role"),
    "role/add": _change(wire.RoleAddRequest, changes.add_role, "role.add"),
    "role/get": _Call(wire.RoleRequest, AuthAPI.role_get, admin=False),
    "role/list": _Call(wire.AuthRequest, AuthAPI.role_list),
    "role/delete": _change(wire.RoleRequest, changes.delete_role, "role.delete"),
    "role/grant": _change(
        wire.RoleGrantPermissionRequest, changes.grant_permission, "role.grant-permission"
    ),
    "role/revoke": _change(
        wire.RoleRevokePermissionRequest, changes.revoke_permission, "role.revoke-permission"
    ),
}
