"""A state built from the records of a backend in the simplest way."""

from webhook.rbac.auth_store import AuthStore
from webhook.rbac.model import Group, Permission, PermissionType, Role, User
from webhook.rbac.permissions import Permissions
from webhook.rbac.records import (
    AuthMeta,
    Backend,
    Lifetime,
    Revocation,
    TokenRecord,
    read_group,
    read_permission_id,
    read_revocation_id,
    read_user,
    read_value,
)


class Scratch:
    """The state of a backend's records, with nothing kept from before."""

    def __init__(self, backend: Backend) -> None:
        self.revision, records = backend.load()
        self.meta = AuthMeta()
        self.users: dict[str, User] = {}
        self.groups: dict[str, Group] = {}
        self.tokens: dict[bytes, TokenRecord] = {}
        self.lifetime = Lifetime()
        self.revoked: dict[str, dict[str, Revocation]] = {"jti": {}, "subject": {}}
        self.sealed: dict[tuple[str, bytes], bytes] = {}
        permissions: dict[str, list[Permission]] = {}
        for kind, record_id, value in records:
            assert value is not None
            if kind == "meta":
                self.meta = read_value(value, AuthMeta)
            elif kind == "user":
                self.users[record_id.decode()] = read_user(record_id, value)
            elif kind == "role":
                permissions.setdefault(record_id.decode(), [])
            elif kind == "permission":
                role, key, range_end = read_permission_id(record_id)
                held = permissions.setdefault(role, [])
                held.append(Permission(key, range_end, PermissionType(value[0])))
            elif kind == "group":
                self.groups[record_id.decode()] = read_group(record_id, value)
            elif kind == "revocation":
                what, name = read_revocation_id(record_id)
                self.revoked[what][name] = read_value(value, Revocation)
            elif kind in {"key", "schedule", "replica"}:
                self.sealed[kind, record_id] = value
            elif kind == "lifetime":
                self.lifetime = read_value(value, Lifetime)
            else:
                assert kind == "token"
                self.tokens[record_id] = read_value(value, TokenRecord)
        self.roles = {name: Role(name, tuple(sorted(p))) for name, p in permissions.items()}


def assert_same(store: AuthStore, scratch: Scratch) -> None:
    """Assert that a store knows what its backend holds, indexes and snapshots included."""
    state = store.state
    assert state.revision == scratch.revision
    assert state.meta == scratch.meta
    assert state.users == scratch.users
    assert state.roles == scratch.roles
    assert state.groups == scratch.groups
    assert state.tokens == scratch.tokens
    assert state.lifetime == scratch.lifetime
    assert state.sealed == scratch.sealed
    assert state.revoked_jtis == scratch.revoked["jti"]
    assert state.revoked_subjects == scratch.revoked["subject"]
    roles_held = {role for user in scratch.users.values() for role in user.roles}
    assert state.users_of_role == {
        role: {user.name for user in scratch.users.values() if role in user.roles}
        for role in roles_held
    }
    costs = [user.password_cost for user in scratch.users.values()]
    assert state.highest_password_cost == max(costs, default=0)
    assert state.tokens_of_user == {
        owner: {digest for digest, token in scratch.tokens.items() if token.user == owner}
        for owner in {token.user for token in scratch.tokens.values()}
    }
    asked = {frozenset(user.roles) for user in scratch.users.values()}
    asked |= {frozenset([role]) for role in scratch.roles}
    # Twice: made, and kept.
    for role_set in [*asked, *asked, *list(state._snapshots._snapshots)]:
        snapshot = state.permissions(role_set)
        fresh = Permissions(scratch.roles[name] for name in role_set if name in scratch.roles)
        assert (snapshot.read, snapshot.write) == (fresh.read, fresh.write)
