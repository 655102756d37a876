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
    OutcomeUnknownError,
    PermissionDeniedError,
)
from webhook.rbac.model import ROOT, ROOT_PERMISSION
from webhook.rbac.passwords import Passwords
from webhook.rbac.permissions import RoleSet
from webhook.rbac.records import BasisLostError, Record, text_id
from webhook.rbac.state import AuthState
from webhook.server.request.caller import Callers
from webhook.server.request.message import Caller, Request, basis_of
from webhook.server.request.refreshing import basis_in_thread
from webhook.telemetry.audit import DENIED, DONE, FAILED, UNKNOWN, Audit


@dataclass(frozen=True, slots=True)
class AuthAPI:
    """The calls of the API. Each takes the caller (NOBODY for none) and a parsed body.

    Invariants:

    1. What is only read, and a refusal, rests on the basis of the request.
    2. A change is decided, the caller's permission included, on the state that it is written on.
       From then on nothing rests on the basis: a change that is stored is answered with success.
    """

    store: AuthStore
    callers: Callers
    passwords: Passwords
    tokens: TokenProvider
    clock: Callable[[], float]
    require_proven_keys: Callable[[], None]

    def call(self, name: str, caller: Caller, request: Request, audit: Audit) -> bytes | None:
        """Make a call (``user/add``) and return its answer, or None where there is no such call.

        A change, one that is refused too, and a log-in get a line of ``audit``. Raises AuthError,
        InvalidReviewError, InvalidPasswordError, BasisLostError, OutcomeUnknownError or
        StoreUnavailableError.
        """
        found = _CALLS.get(name)
        if found is None:
            return None
        parsed = wire.parse_request(request.body, found.request)
        sent = _Sent(caller, request, basis_of(request).state)
        try:
            if found.admin:
                _require_admin(sent.state, caller)
            fields = found.run(self, sent, parsed) or {}
        except LeewayError as error:
            if found.action:
                self.callers.confirm(request)  # Invariant 1.
                audit(found.action, _outcome_of(error), {**parsed.audited(), "reason": str(error)})
            raise
        if not found.action:
            return wire.render(sent.state.meta.revision, **fields)
        if not found.admin:
            # A log-in changes nothing that has a revision.
            audit(found.action, DONE, parsed.audited())
            return wire.render(sent.state.meta.revision, **fields)
        revision = self.store.own_revision
        audit(found.action, DONE, {**parsed.audited(), "revision": revision})
        return wire.render(revision, **fields)

    def status(self, sent: "_Sent", _parsed: wire.AuthRequest) -> dict[str, Any]:
        """AuthStatus."""
        meta = sent.state.meta
        return {"enabled": meta.enabled, "authRevision": str(meta.revision)}

    def authenticate(self, sent: "_Sent", parsed: wire.PasswordRequest) -> dict[str, Any]:
        """Authenticate: check the password, and make a token."""
        state = sent.state
        if not state.meta.enabled:
            raise AuthNotEnabledError
        user = state.users.get(parsed.user)
        password_hash = user.password_hash if user else None
        try:
            self.passwords.check(parsed.password, password_hash, state.highest_password_cost)
        finally:
            # That took as long as several changes, which matter only if they are of this user.
            basis = sent.request.basis = basis_in_thread(self.store)
            if basis.state.users.get(parsed.user) != user:
                raise BasisLostError
        if user is None:
            raise AuthFailedError
        self.require_proven_keys()
        self.callers.confirm(sent.request)
        sent.state = basis.state
        return {"token": self.tokens.assign(user, self.clock(), sent.state)}

    def user_add(self, sent: "_Sent", parsed: wire.UserAddRequest) -> None:
        """AuthUserAdd."""
        without = parsed.options is not None and parsed.options.no_password
        password_hash = b"" if without or not parsed.user else self._hash(parsed.password)
        self.change(sent, changes.add_user, parsed.user, password_hash)

    def user_get(self, sent: "_Sent", parsed: wire.UserRequest) -> dict[str, Any]:
        """AuthUserGet: root, or the user itself."""
        name = sent.caller.username
        if parsed.user != name or not name:
            _require_admin(sent.state, sent.caller)
        return {"roles": changes.user_of(sent.state, parsed.user).roles}

    def user_list(self, sent: "_Sent", _parsed: wire.AuthRequest) -> dict[str, Any]:
        """AuthUserList."""
        return {"users": sorted(sent.state.users, key=text_id)}

    def user_change_password(self, sent: "_Sent", parsed: wire.PasswordRequest) -> None:
        """AuthUserChangePassword."""
        changes.user_of(sent.state, parsed.user)
        self.change(sent, changes.change_password, parsed.user, self._hash(parsed.password))

    def role_get(self, sent: "_Sent", parsed: wire.RoleRequest) -> dict[str, Any]:
        """AuthRoleGet: root, or a user that has the role."""
        if parsed.role not in _roles_of(sent.state, sent.caller):
            _require_admin(sent.state, sent.caller)
        permissions = changes.role_of(sent.state, parsed.role).permissions
        if parsed.role == ROOT:
            permissions = (ROOT_PERMISSION,)
        return {"perm": wire.render_permissions(permissions)}

    def role_list(self, sent: "_Sent", _parsed: wire.AuthRequest) -> dict[str, Any]:
        """AuthRoleList."""
        return {"roles": sorted(sent.state.roles, key=text_id)}

    def change(self, sent: "_Sent", decide: Callable[..., Iterable[Record]], *args: object) -> None:
        """Write what ``decide(state, *args)`` returns, if the caller may by that state."""

        def permitted(state: AuthState) -> Iterable[Record]:
            sent.request.basis = None  # Invariant 2.
            _require_admin(state, sent.caller)
            return decide(state, *args)

        self.store.change(permitted)

    def _hash(self, password: str) -> bytes:
        return self.passwords.hash(password)


@dataclass(slots=True)
class _Sent:
    """A request with its caller, NOBODY for none, and the state that the answer rests on."""

    caller: Caller
    request: Request
    state: AuthState


def _require_admin(state: AuthState, caller: Caller) -> None:
    require_admin(state, caller.username, caller.groups)
    # Auth may have been disabled since the token was looked at: then only certificates count.
    if caller.by_token and ROOT not in _roles_of(state, caller):
        raise PermissionDeniedError


def _roles_of(state: AuthState, caller: Caller) -> RoleSet:
    return roles_of(state, caller.username, caller.groups)


def _outcome_of(error: LeewayError) -> str:
    if isinstance(error, OutcomeUnknownError):
        return UNKNOWN
    return DENIED if isinstance(error, _DENIALS) else FAILED


@dataclass(frozen=True, slots=True)
class _Call:
    """``action`` is what audit lines call it, empty for a call that changes nothing."""

    request: type[wire.AuthRequest]
    run: Callable[[AuthAPI, _Sent, Any], dict[str, Any] | None]
    action: str = ""
    admin: bool = True


def _change(
    request: type[wire.AuthRequest], decide: Callable[..., Iterable[Record]], action: str
) -> _Call:
    """Return a call that does nothing but write what ``decide`` decides."""

    def run(api: AuthAPI, sent: _Sent, parsed: wire.AuthRequest) -> None:
        api.change(sent, decide, *parsed.arguments())

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
