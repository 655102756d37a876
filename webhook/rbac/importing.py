"""What makes a store equal to a document, as the changes of single commands.

``plan_import`` returns the differences between a state and a document, and the records that remove
them: those of ``changes`` and ``revocations``, in one transaction. So an import changes auth
revisions, ends tokens and refuses what breaks etcd's rules exactly as the single commands do.

Invariants:

1. Without ``prune`` no user, role or group is deleted and auth is not disabled; what the document
   lists becomes equal to it. A section that the document does not have is never changed, except
   that a role which is deleted is taken from all of its holders. The role root is never deleted.
2. Without ``prune_revocations`` the state revokes at least what it revoked before: of two
   revocations, the later second and the later end count.
3. The lifetime of tokens, from which the end of revocations is computed, never gets shorter.
4. No auth token of the store that was exported is accepted because of the import.
5. The texts of the differences contain no password hash.
6. Different changes have different texts: what is not one plain word is quoted.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isinf
from typing import Concatenate, Final, NamedTuple, ParamSpec

from keys.messages import counted, shown, utc
from webhook.rbac import changes
from webhook.rbac.document import revocation_order, revocations_of, whole_seconds
from webhook.rbac.document_reading import StoreContent, WantedUser
from webhook.rbac.errors import DocumentError
from webhook.rbac.model import ROOT, Group, Permission, Role
from webhook.rbac.ranges import OPEN_END, format_range
from webhook.rbac.records import (
    REVOKED_JTI,
    AuthMeta,
    Lifetime,
    Record,
    Revocation,
    lifetime_record,
    meta_record,
    revocation_record,
    text_id,
)
from webhook.rbac.revocations import Lifetimes, revoke_subject
from webhook.rbac.state import AuthState

_OTHER_STORE: Final = 1 << 20
"""More changes than the store that was exported makes until its last auth tokens expire."""
_QUOTED: Final = frozenset(" '\"\\")
_P = ParamSpec("_P")


class Difference(NamedTuple):
    """A difference in words, and the audit line of the command that would remove it."""

    text: str
    action: str
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """The differences in the order of their changes, and what removes all of them.

    ``revisions`` has the auth revision after each change, and ``steps`` the records that it writes.
    Each step leads from one valid state to another, and those in between allow nothing that the
    first and the last do not. ``kept`` has what pruning would take away, each with the option that
    does.
    """

    differences: tuple[Difference, ...]
    revisions: tuple[int, ...]
    steps: tuple[tuple[Record, ...], ...]
    kept: tuple[tuple[str, str], ...]

    @property
    def records(self) -> list[Record]:
        """The records of all steps as one transaction: of several of one id, the last."""
        last = {(record.kind, record.id): record for step in self.steps for record in step}
        return list(last.values())


def plan_import(
    state: AuthState,
    content: StoreContent,
    *,
    prune: bool = False,
    prune_revocations: bool = False,
) -> ImportPlan:
    """Return what makes a state equal to the content of a document. The state is not changed.

    1. Every role that a user or a group of the document has exists afterwards.
    2. If auth is enabled afterwards, the user root has the role root: nobody is locked out.
    3. Each change passes the checks of its single command.

    Raises DocumentError for 1 and 2, and the errors of ``changes`` for 3.
    """
    _require_roles(state, content, prune=prune)  # 1.
    _require_root(state, content, prune=prune)  # 2.
    draft = _Draft(state, state.meta.revision)
    options = {"prune": prune, "prune_revocations": prune_revocations}
    _Import(state, draft, content, **options).run()  # 3.
    is_moved = prune or draft.state.meta.revision > state.meta.revision
    if is_moved and state.meta.revision < content.auth_revision:
        draft = _Draft(state, content.auth_revision + _OTHER_STORE)
        again = _Import(state, draft, content, **options)
        again.run()
        again.end_tokens()  # Invariant 4.
    return ImportPlan(
        tuple(draft.differences),
        tuple(draft.revisions),
        tuple(draft.steps),
        tuple(_kept(state, content, prune=prune, prune_revocations=prune_revocations)),
    )


def _require_roles(state: AuthState, content: StoreContent, *, prune: bool) -> None:
    known = {ROOT, *(content.roles or ())}
    if content.roles is None or not prune:
        known.update(state.roles)
    for section in ("users", "groups"):
        entries: Mapping[str, WantedUser | Group] | None = getattr(content, section)
        for index, entry in enumerate((entries or {}).values()):
            for role in entry.roles:
                if role not in known:
                    raise DocumentError(
                        f"{section}[{index}].roles names the role {shown(role)}, which would not "
                        "exist; add it to roles"
                    )


def _require_root(state: AuthState, content: StoreContent, *, prune: bool) -> None:
    if not (content.enabled or (state.meta.enabled and not prune)):
        return
    held = state.users.get(ROOT)
    roles: tuple[str, ...] | None = held.roles if held else None
    if content.users is not None and (ROOT in content.users or prune):
        wanted = content.users.get(ROOT)
        roles = wanted.roles if wanted else None
    if roles is None:
        raise DocumentError(
            "users lacks root, without which auth cannot be enabled; add root with the role root"
        )
    if ROOT not in roles:
        raise DocumentError(
            "the user root lacks the role root, without which auth cannot be enabled; add it to "
            "its roles"
        )


class _Draft:
    """A copy of a state that is changed step by step, and what the steps have written."""

    def __init__(self, state: AuthState, revision: int) -> None:
        self.state = state.copy()
        self.differences: list[Difference] = []
        self.revisions: list[int] = []
        self.steps: list[tuple[Record, ...]] = []
        self._raised: list[Record] = []
        if revision != state.meta.revision:
            self._raised.append(meta_record(AuthMeta(state.meta.enabled, revision)))
            self.state.apply(state.revision, self._raised)

    def change(
        self,
        difference: Difference,
        decide: Callable[Concatenate[AuthState, _P], Iterable[Record]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> None:
        """Make a change, and note the difference that it removes."""
        records = (*self._raised, *decide(self.state, *args, **kwargs))
        self._raised.clear()
        self.state.apply(self.state.revision, records)
        self.differences.append(difference)
        self.revisions.append(self.state.meta.revision)
        self.steps.append(records)


class _Import:
    """Makes the changes of an import in an order in which no state in between allows too much.

    Revocations come first, then what takes permissions away or deletes their holders, and last what
    grants them: to roles, and then roles to users.
    """

    def __init__(
        self,
        before: AuthState,
        draft: _Draft,
        content: StoreContent,
        *,
        prune: bool,
        prune_revocations: bool,
    ) -> None:
        self._before = before
        self._draft = draft
        self._content = content
        self._prune = prune
        self._prune_revocations = prune_revocations

    def run(self) -> None:
        """Make all changes."""
        content, state = self._content, self._draft.state
        self._extend_lifetime()
        self._merge_revocations()
        if self._prune and state.meta.enabled and not content.enabled:
            self._draft.change(_difference("- auth: disabled", "auth.disable"), changes.disable)
        users, roles, groups = content.users or {}, content.roles or {}, content.groups or {}
        for name in _sorted(roles):
            self._revoke_permissions(roles[name])
        for name in _sorted(users):
            user = state.users.get(name)
            self._revoke_from_user(name, user.roles if user else (), users[name].roles)
        for name in _sorted(groups):
            group = state.groups.get(name, Group(name))
            self._revoke_from_group(name, group.roles, groups[name].roles)
        if self._prune:  # Invariant 1.
            self._delete()
        for name in _sorted(roles):
            self._grant_permissions(roles[name])
        for name in _sorted(users):
            self._put_user(users[name])
        for name in _sorted(groups):
            self._grant_to_group(groups[name])
        if content.enabled and not state.meta.enabled:
            self._draft.change(_difference("~ auth: enabled", "auth.enable"), changes.enable)

    def _extend_lifetime(self) -> None:
        wanted, held = self._content.lifetime, self._draft.state.lifetime
        if wanted is None:
            return
        # Invariant 3.
        until = held.earlier_until
        if wanted.earlier_until > whole_seconds(until):
            until = wanted.earlier_until
        longest = Lifetime(max(held.seconds, wanted.seconds), until)
        if longest != held:
            text = f"~ lifetime of tokens: up to {longest.seconds:.15g}s"
            if until:
                text += f", of earlier ones until {utc(whole_seconds(until))}"
            fields = {"seconds": longest.seconds}
            difference = _difference(text, "store.lifetime", **fields)
            self._draft.change(difference, lambda _: [lifetime_record(longest)])

    def _merge_revocations(self) -> None:
        wanted = self._content.revocations
        if wanted is None:
            return
        held = revocations_of(self._before)
        for what, name in sorted(wanted, key=revocation_order):
            entry, before = wanted[what, name], held.get((what, name))
            if before is not None:
                if whole_seconds(before.until) == entry.until:
                    # The document has its end in whole seconds.
                    entry = Revocation(entry.before, before.until)
                if not self._prune_revocations:
                    # Invariant 2.
                    entry = Revocation(
                        max(entry.before, before.before), max(entry.until, before.until)
                    )
            if entry != before:
                self._put_revocation("+" if before is None else "~", what, name, entry)
        if self._prune_revocations:
            for what, name in sorted(held.keys() - wanted.keys(), key=revocation_order):
                self._put_revocation("-", what, name, None)

    def _put_revocation(
        self, mark: str, what: str, name: str, revocation: Revocation | None
    ) -> None:
        text = f"{mark} revocation of {what} {_named(name)}"
        if revocation is not None:
            text += f": tokens issued up to {utc(revocation.before)}, kept "
            until = whole_seconds(revocation.until)
            text += "for ever" if isinf(until) else f"until {utc(until)}"
            action = "revoke.jti" if what == REVOKED_JTI else "revoke.serviceaccount"
        else:
            action = "revoke.delete"
        difference = _difference(text, action, **{what: name})
        self._draft.change(difference, lambda _: [revocation_record(what, name, revocation)])

    def _revoke_permissions(self, role: Role) -> None:
        wanted = {(p.key, p.range_end) for p in role.permissions}
        for permission in self._before.roles.get(role.name, role).permissions:
            key, end = permission.key, permission.range_end
            if (key, end) not in wanted:
                keys = format_range(key, end)
                self._draft.change(
                    _difference(
                        f"- role {_named(role.name)}: {_granted(permission)}",
                        "role.revoke-permission",
                        role=role.name,
                        keys=keys,
                    ),
                    changes.revoke_permission,
                    role.name,
                    key,
                    end,
                )

    def _grant_permissions(self, role: Role) -> None:
        name, before = role.name, self._before.roles.get(role.name)
        if before is None:
            self._draft.change(
                _difference(f"+ role {_named(name)}", "role.add", role=name), changes.add_role, name
            )
        held = {(p.key, p.range_end): p.type for p in before.permissions} if before else {}
        for permission in role.permissions:
            kind = held.get((permission.key, permission.range_end))
            if kind is not permission.type:
                self._grant_permission(name, permission, "" if kind is None else kind.name)

    def _grant_permission(self, role: str, permission: Permission, before: str) -> None:
        keys = format_range(permission.key, permission.range_end)
        named, text = _named(role), _granted(permission)
        fields = {"role": role, "permission": permission.type.name, "keys": keys}
        difference = _difference(
            f"~ role {named}: {text}, was {before}" if before else f"+ role {named}: {text}",
            "role.grant-permission",
            **fields,
        )
        self._draft.change(difference, changes.grant_permission, role, permission)

    def _put_user(self, wanted: WantedUser) -> None:
        name, before = wanted.name, self._before.users.get(wanted.name)
        if before is None:
            password_hash = wanted.password_hash or b""
            with_password = "with a password" if password_hash else "without a password"
            difference = _difference(
                f"+ user {_named(name)}, {with_password}", "user.add", user=name
            )
            self._draft.change(difference, changes.add_user, name, password_hash)
        elif wanted.password_hash not in (None, before.password_hash):
            # Invariant 5.
            word = "changed" if wanted.password_hash else "removed"
            difference = _difference(
                f"~ user {_named(name)}: password: {word}", "user.passwd", user=name
            )
            self._draft.change(
                difference, changes.replace_password, name, wanted.password_hash or b""
            )
        for role in wanted.roles:
            if before is None or role not in before.roles:
                difference = _difference(
                    f"+ user {_named(name)}: role {_named(role)}",
                    "user.grant-role",
                    user=name,
                    role=role,
                )
                self._draft.change(difference, changes.grant_role, name, role)

    def _revoke_from_user(self, name: str, held: Iterable[str], wanted: Iterable[str]) -> None:
        for role in held:
            if role not in wanted:
                difference = _difference(
                    f"- user {_named(name)}: role {_named(role)}",
                    "user.revoke-role",
                    user=name,
                    role=role,
                )
                self._draft.change(difference, changes.revoke_role, name, role)

    def _revoke_from_group(self, name: str, held: Iterable[str], wanted: Iterable[str]) -> None:
        for role in held:
            if role not in wanted:
                difference = _difference(
                    f"- group {_named(name)}: role {_named(role)}",
                    "group.revoke-role",
                    group=name,
                    role=role,
                )
                self._draft.change(difference, changes.revoke_group_role, name, role)

    def _grant_to_group(self, wanted: Group) -> None:
        held = self._before.groups.get(wanted.name, Group(wanted.name)).roles
        for role in wanted.roles:
            if role not in held:
                difference = _difference(
                    f"+ group {_named(wanted.name)}: role {_named(role)}",
                    "group.grant-role",
                    group=wanted.name,
                    role=role,
                )
                self._draft.change(difference, changes.grant_group_role, wanted.name, role)

    def _delete(self) -> None:
        content, before, draft = self._content, self._before, self._draft
        for name in _missing(before.groups, content.groups):
            self._revoke_from_group(name, before.groups[name].roles, ())
        for name in _missing(before.users, content.users):
            difference = _difference(f"- user {_named(name)}", "user.delete", user=name)
            draft.change(difference, changes.delete_user, name)
        for role in _missing_roles(before, content):
            # Those that the document does not list may have it.
            for name in _sorted(draft.state.users_of_role.get(role, ())):
                self._revoke_from_user(name, (role,), ())
            for name in _sorted(draft.state.groups):
                if role in draft.state.groups[name].roles:
                    self._revoke_from_group(name, (role,), ())
            difference = _difference(f"- role {_named(role)}", "role.delete", role=role)
            draft.change(difference, changes.delete_role, role)

    def end_tokens(self) -> None:
        """End the auth tokens of the users that have kept theirs (invariant 4)."""
        for name in _sorted(self._draft.state.users):
            if self._draft.state.users[name].generation <= self._content.auth_revision:
                self._draft.change(
                    _difference(
                        f"~ user {_named(name)}: its auth tokens end", "revoke.user", subject=name
                    ),
                    revoke_subject,
                    name,
                    Lifetimes(0.0),
                    0.0,
                    is_account=False,
                )


def _difference(text: str, action: str, **fields: object) -> Difference:
    return Difference(text, action, fields)


def _named(name: str) -> str:
    """Return a name, quoted if it is not one plain word (invariant 6).

    >>> _named("alice"), _named("alice: role root")
    ('alice', "'alice: role root'")
    """
    return name if name.isprintable() and not _QUOTED.intersection(name) else repr(name)


def _granted(permission: Permission) -> str:
    kind, key = permission.type.name, _named_key(permission.key)
    if not permission.range_end:
        return f"{kind} {key}"
    if permission.range_end == OPEN_END:
        return f"{kind} [{key}, <open ended>"
    return f"{kind} [{key}, {_named_key(permission.range_end)})"


def _named_key(key: bytes) -> str:
    try:
        return _named(key.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(key)


def _sorted(names: Iterable[str]) -> list[str]:
    return sorted(names, key=text_id)


def _missing(held: Mapping[str, object], listed: Mapping[str, object] | None) -> list[str]:
    """Return the names of a section that the document has, and in which it does not list them."""
    return [] if listed is None else _sorted(held.keys() - listed.keys())


def _missing_roles(state: AuthState, content: StoreContent) -> list[str]:
    # Invariant 1. The role root exists without a record too, so that a document can grant it.
    return [role for role in _missing(state.roles, content.roles) if role != ROOT]


def _kept(
    state: AuthState, content: StoreContent, *, prune: bool, prune_revocations: bool
) -> Iterator[tuple[str, str]]:
    if not prune:
        for word, missing in (
            ("user", _missing(state.users, content.users)),
            ("role", _missing_roles(state, content)),
            ("group", _missing(state.groups, content.groups)),
        ):
            if missing:
                yield "--prune", counted(len(missing), word)
        if state.meta.enabled and not content.enabled:
            yield "--prune", "auth, which stays enabled"
    if content.revocations is not None and not prune_revocations:
        count = len(revocations_of(state).keys() - content.revocations.keys())
        if count:
            yield "--prune-revocations", counted(count, "revocation")
