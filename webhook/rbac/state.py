"""The users, roles, tokens and revocations in memory, updated by records.

Invariants:

1. The state is a function of the records applied to it, in any order of their kinds.
2. ``users_of_role`` contains exactly the users that have the role, ``_users_of_cost`` the number of
   users with a password of each cost.
3. A snapshot that is returned after ``apply`` has returned contains what was applied.
4. A record of a kind that this version does not know is an error: nothing is ignored.
"""

from bisect import bisect_left
from collections.abc import Iterable
from threading import RLock

import msgspec

from keys.messages import utc
from webhook.rbac.errors import StoreError
from webhook.rbac.model import MAX_PASSWORD_COST, Group, Permission, PermissionType, Role, User
from webhook.rbac.permissions import Permissions, RoleSet, SnapshotCache
from webhook.rbac.records import (
    GROUP,
    KINDS,
    LIFETIME,
    META,
    PERMISSION,
    REVOCATION,
    REVOKED_JTI,
    ROLE,
    SEALED,
    TOKEN,
    USER,
    AuthMeta,
    Lifetime,
    Record,
    Revocation,
    TokenRecord,
    read_group,
    read_permission_id,
    read_revocation_id,
    read_user,
    read_value,
    text_of,
)
from webhook.token.claims import Claims


class AuthState:
    """Users, roles, groups, simple tokens and revocations as of one revision of the store."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.revision = 0
        self.meta = AuthMeta()
        self.users: dict[str, User] = {}
        self.roles: dict[str, Role] = {}
        self.groups: dict[str, Group] = {}
        self.tokens: dict[bytes, TokenRecord] = {}
        self.users_of_role: dict[str, set[str]] = {}
        self.tokens_of_user: dict[str, set[bytes]] = {}
        self.lifetime = Lifetime()
        self.revoked_jtis: dict[str, Revocation] = {}
        self.revoked_subjects: dict[str, Revocation] = {}
        self.sealed: dict[tuple[str, bytes], bytes] = {}
        """The records about signing keys as they are stored, by kind and id."""
        self.sealed_revision = 0
        """The revision of the store at which ``sealed`` changed last."""
        self._users_of_cost = [0] * (MAX_PASSWORD_COST + 1)
        self._snapshots = SnapshotCache(self.roles.get)

    def copy(self) -> "AuthState":
        """Return another state with the same content."""
        copied = AuthState()
        with self.lock:
            copied.revision, copied.meta, copied.lifetime = self.revision, self.meta, self.lifetime
            # The cache of snapshots refers to the dictionary of roles.
            copied.roles.update(self.roles)
            copied.users, copied.groups = dict(self.users), dict(self.groups)
            copied.tokens = dict(self.tokens)
            copied.users_of_role = {role: set(names) for role, names in self.users_of_role.items()}
            copied.tokens_of_user = {user: set(held) for user, held in self.tokens_of_user.items()}
            copied.revoked_jtis = dict(self.revoked_jtis)
            copied.revoked_subjects = dict(self.revoked_subjects)
            copied.sealed, copied.sealed_revision = dict(self.sealed), self.sealed_revision
            copied._users_of_cost = list(self._users_of_cost)
        return copied

    def permissions(self, roles: RoleSet) -> Permissions:
        """Return what a set of roles is allowed to do."""
        snapshot = self._snapshots.get(roles)
        if snapshot is None:
            with self.lock:  # Invariant 3: never between the records of one `apply`.
                snapshot = self._snapshots.make(roles)
        return snapshot

    def find_revocation(self, claims: Claims) -> str:
        """Return why a token is revoked, empty where it is not.

        A token is revoked by the ``jti`` and ``sub`` of its verified claims, never by its bytes: in
        another encoding it is the same token.

        A revocation applies while it is stored, even after its ``until``: the clock may have been
        wrong when that was written (invariant 3 of ``revocations.py``).
        """
        revocation = self.revoked_jtis.get(claims.jti)
        if revocation is not None:
            return f"jti {claims.jti} was revoked at {utc(revocation.before)}"
        revocation = self.revoked_subjects.get(claims.subject)
        if revocation is None:
            return ""
        issued = claims.issued_at
        if issued is None:
            return f"it has no iat, and the tokens of {claims.subject} were revoked"
        # Tokens of that very second too: which came first within it is not known.
        if issued <= revocation.before:
            return (
                f"the tokens of {claims.subject} issued up to {utc(revocation.before)} were "
                f"revoked, this one is of {utc(issued)}"
            )
        return ""

    @property
    def highest_password_cost(self) -> int:
        """The highest cost of any user's password, 0 without passwords."""
        return max((cost for cost, users in enumerate(self._users_of_cost) if users), default=0)

    def apply(self, revision: int, records: Iterable[Record]) -> None:
        """Apply the records written up to a revision of the store.

        Raises StoreError for a kind that is not known and for a record that cannot be read; then
        this state must not be used any more.
        """
        grants: dict[str, list[tuple[bytes, bytes, PermissionType | None]]] = {}
        with self.lock:
            for kind, record_id, value in records:
                try:
                    if kind == PERMISSION:
                        role, key, range_end = read_permission_id(record_id)
                        granted = None if value is None else PermissionType(value[0])
                        grants.setdefault(role, []).append((key, range_end, granted))
                    elif kind in SEALED:
                        self._put_sealed(revision, (kind, record_id), value)
                    else:
                        self._apply_one(kind, record_id, value)
                except (msgspec.MsgspecError, ValueError, IndexError, RecursionError) as error:
                    raise StoreError(
                        f"the store has a record of the kind {kind!r} that cannot be read; restore "
                        "it from a backup"
                    ) from error
            # Invariant 1: after the roles, wherever those were among the records.
            for name, changes in grants.items():
                if name in self.roles:
                    self._put_role(Role(name, _merged(self.roles[name].permissions, changes)))
            self.revision = revision

    def _apply_one(self, kind: str, record_id: bytes, value: bytes | None) -> None:
        if kind == USER:
            name = text_of(record_id)
            self._put_user(name, None if value is None else read_user(record_id, value))
        elif kind == ROLE:
            name = text_of(record_id)
            if value is None:
                self.roles.pop(name, None)
                self._snapshots.drop(name)
            elif name not in self.roles:
                self._put_role(Role(name))
        elif kind == GROUP:
            name = text_of(record_id)
            if value is None:
                self.groups.pop(name, None)
            else:
                self.groups[name] = read_group(record_id, value)
        elif kind == TOKEN:
            self._put_token(record_id, value)
        elif kind == REVOCATION:
            self._put_revocation(record_id, value)
        elif kind == META and value is not None:
            self.meta = read_value(value, AuthMeta)
        elif kind == LIFETIME and value is not None:
            self.lifetime = read_value(value, Lifetime)
        elif kind not in KINDS:  # Invariant 4.
            raise StoreError(
                f"the store has a record of the kind {kind!r}, which this version does not know; "
                "use the version of Leeway that wrote it"
            )

    def _put_sealed(self, revision: int, key: tuple[str, bytes], value: bytes | None) -> None:
        if value is None:
            self.sealed.pop(key, None)
        else:
            self.sealed[key] = value
        self.sealed_revision = revision

    def _put_role(self, role: Role) -> None:
        self.roles[role.name] = role
        self._snapshots.drop(role.name)

    def _put_user(self, name: str, user: User | None) -> None:
        # Invariant 2.
        before = self.users.get(name)
        old = set(before.roles) if before else set()
        new = set(user.roles) if user else set()
        for role in old - new:
            self.users_of_role[role].discard(name)
            if not self.users_of_role[role]:
                del self.users_of_role[role]
        for role in new - old:
            self.users_of_role.setdefault(role, set()).add(name)
        if user is None:
            self.users.pop(name, None)
        else:
            self._users_of_cost[user.password_cost] += 1
            self.users[name] = user
        if before is not None:
            self._users_of_cost[before.password_cost] -= 1

    def _put_revocation(self, record_id: bytes, value: bytes | None) -> None:
        what, name = read_revocation_id(record_id)
        revoked = self.revoked_jtis if what == REVOKED_JTI else self.revoked_subjects
        if value is None:
            revoked.pop(name, None)
        else:
            revoked[name] = read_value(value, Revocation)

    def _put_token(self, digest: bytes, value: bytes | None) -> None:
        token = None if value is None else read_value(value, TokenRecord)
        before = self.tokens.get(digest)
        if before is not None and (token is None or token.user != before.user):
            owned = self.tokens_of_user[before.user]
            owned.discard(digest)
            if not owned:
                del self.tokens_of_user[before.user]
        if token is None:
            self.tokens.pop(digest, None)
        else:
            # Replaced in one step, because another thread may read it meanwhile.
            self.tokens[digest] = token
            self.tokens_of_user.setdefault(token.user, set()).add(digest)


def _merged(
    permissions: tuple[Permission, ...],
    changes: list[tuple[bytes, bytes, PermissionType | None]],
) -> tuple[Permission, ...]:
    if len(changes) > 1:
        merged = {(p.key, p.range_end): p.type for p in permissions}
        for key, range_end, granted in changes:
            if granted is None:
                merged.pop((key, range_end), None)
            else:
                merged[key, range_end] = granted
        return tuple(Permission(*span, merged[span]) for span in sorted(merged))
    key, range_end, granted = changes[0]
    place = bisect_left(permissions, (key, range_end), key=lambda p: (p.key, p.range_end))
    there = permissions[place : place + 1]
    after = place + bool(there and there[0].key == key and there[0].range_end == range_end)
    put = () if granted is None else (Permission(key, range_end, granted),)
    return (*permissions[:place], *put, *permissions[after:])
