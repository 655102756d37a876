"""The changes of an import, in an order in which no state in between allows too much.

Invariants:

1. What is allowed only shrinks until everything is taken away, and then only grows: so each state
   in between allows nothing that neither the first nor the last does. Revocations come first, and
   those that end or become weaker come last.
2. A section that the document does not have is never changed, except that a role which is deleted
   is taken from all of its holders. The role root is never deleted.
3. Without ``prune_revocations`` the state revokes at least what it revoked before: of two
   revocations, the later second and the later end count.
4. The lifetime of tokens, from which the end of revocations is computed, never gets shorter.
5. What is left to do after some of the changes is the same, in the same words and order, if it is
   planned again from there: an import that was killed can be repeated.
"""

from collections.abc import Iterable, Mapping
from math import isinf

from keys.messages import utc
from webhook.rbac import changes
from webhook.rbac.document import revocation_order, revocations_of, whole_seconds
from webhook.rbac.document_reading import StoreContent, WantedUser
from webhook.rbac.import_plan import Difference, Draft, granted, named
from webhook.rbac.model import ROOT, Group, Permission, PermissionType, Role
from webhook.rbac.ranges import format_range
from webhook.rbac.records import (
    REVOKED_JTI,
    Lifetime,
    Revocation,
    lifetime_record,
    revocation_record,
    text_id,
)
from webhook.rbac.state import AuthState


class ImportChanges:
    """Makes the changes that a document asks for, in a draft."""

    def __init__(
        self,
        before: AuthState,
        draft: Draft,
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
        """Make all changes. Raises the errors of ``changes`` for one that etcd's rules forbid."""
        content, state = self._content, self._draft.state
        self._extend_lifetime()
        self._merge_revocations(weakens=False)
        if self._prune and state.meta.enabled and not content.enabled:
            self._draft.change(Difference.of("- auth: disabled", "auth.disable"), changes.disable)
        users, roles, groups = content.users or {}, content.roles or {}, content.groups or {}
        for name in names_in_order(roles):
            self._revoke_permissions(roles[name])
        for name in names_in_order(users):
            user = state.users.get(name)
            self._revoke_from_user(name, user.roles if user else (), users[name].roles)
        for name in names_in_order(groups):
            group = state.groups.get(name, Group(name))
            self._revoke_from_group(name, group.roles, groups[name].roles)
        if self._prune:
            self._delete()
        # Invariant 1: only now is anything granted.
        for name in names_in_order(roles):
            self._grant_permissions(roles[name])
        for name in names_in_order(users):
            self._put_user(users[name])
        for name in names_in_order(groups):
            self._grant_to_group(groups[name])
        if content.enabled and not state.meta.enabled:
            self._draft.change(Difference.of("~ auth: enabled", "auth.enable"), changes.enable)
        self._merge_revocations(weakens=True)

    def _extend_lifetime(self) -> None:
        wanted, held = self._content.lifetime, self._draft.state.lifetime
        if wanted is None:
            return
        # Invariant 4.
        until = held.earlier_until
        if wanted.earlier_until > whole_seconds(until):
            until = wanted.earlier_until
        longest = Lifetime(max(held.seconds, wanted.seconds), until)
        if longest != held:
            text = f"~ lifetime of tokens: up to {longest.seconds:.15g}s"
            if until:
                text += f", of earlier ones until {utc(whole_seconds(until))}"
            fields = {"seconds": longest.seconds}
            difference = Difference.of(text, "store.lifetime", **fields)
            self._draft.change(difference, lambda _: [lifetime_record(longest)])

    def _merge_revocations(self, *, weakens: bool) -> None:
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
                    # Invariant 3.
                    entry = Revocation(
                        max(entry.before, before.before), max(entry.until, before.until)
                    )
            is_weaker = before and (entry.before < before.before or entry.until < before.until)
            if entry != before and bool(is_weaker) is weakens:
                self._put_revocation("+" if before is None else "~", what, name, entry)
        if weakens and self._prune_revocations:
            for what, name in sorted(held.keys() - wanted.keys(), key=revocation_order):
                self._put_revocation("-", what, name, None)

    def _put_revocation(
        self, mark: str, what: str, name: str, revocation: Revocation | None
    ) -> None:
        text = f"{mark} revocation of {what} {named(name)}"
        if revocation is not None:
            text += f": tokens issued up to {utc(revocation.before)}, kept "
            until = whole_seconds(revocation.until)
            text += "for ever" if isinf(until) else f"until {utc(until)}"
            action = "revoke.jti" if what == REVOKED_JTI else "revoke.serviceaccount"
        else:
            action = "revoke.delete"
        difference = Difference.of(text, action, **{what: name})
        self._draft.change(difference, lambda _: [revocation_record(what, name, revocation)])

    def _revoke_permissions(self, role: Role) -> None:
        wanted = {(p.key, p.range_end): p for p in role.permissions}
        for permission in self._before.roles.get(role.name, role).permissions:
            key, end, kind = permission.key, permission.range_end, permission.type
            new = wanted.get((key, end))
            if new is None or not (_is_in(new.type, kind) or _is_in(kind, new.type)):
                text = f"- role {named(role.name)}: {granted(permission)}"
                fields = {"role": role.name, "keys": format_range(key, end)}
                self._draft.change(
                    Difference.of(text, "role.revoke-permission", **fields),
                    changes.revoke_permission,
                    role.name,
                    key,
                    end,
                )
            elif new.type is not kind and _is_in(new.type, kind):
                # It takes something away, too.
                self._grant_permission(role.name, new, kind.name)

    def _grant_permissions(self, role: Role) -> None:
        name, before = role.name, self._before.roles.get(role.name)
        if before is None:
            self._draft.change(
                Difference.of(f"+ role {named(name)}", "role.add", role=name),
                changes.add_role,
                name,
            )
        present = self._draft.state.roles[name].permissions
        held = {(p.key, p.range_end): p.type for p in present}
        for permission in role.permissions:
            kind = held.get((permission.key, permission.range_end))
            if kind is not permission.type:
                self._grant_permission(name, permission, "" if kind is None else kind.name)

    def _grant_permission(self, role: str, permission: Permission, before: str) -> None:
        keys = format_range(permission.key, permission.range_end)
        name, text = named(role), granted(permission)
        fields = {"role": role, "permission": permission.type.name, "keys": keys}
        difference = Difference.of(
            f"~ role {name}: {text}, was {before}" if before else f"+ role {name}: {text}",
            "role.grant-permission",
            **fields,
        )
        self._draft.change(difference, changes.grant_permission, role, permission)

    def _put_user(self, wanted: WantedUser) -> None:
        name, before = wanted.name, self._before.users.get(wanted.name)
        if before is None:
            password_hash = wanted.password_hash or b""
            with_password = "with a password" if password_hash else "without a password"
            difference = Difference.of(
                f"+ user {named(name)}, {with_password}", "user.add", user=name
            )
            self._draft.change(difference, changes.add_user, name, password_hash)
        elif wanted.password_hash not in (None, before.password_hash):
            word = "changed" if wanted.password_hash else "removed"
            difference = Difference.of(
                f"~ user {named(name)}: password: {word}", "user.passwd", user=name
            )
            self._draft.change(
                difference, changes.replace_password, name, wanted.password_hash or b""
            )
        for role in wanted.roles:
            if before is None or role not in before.roles:
                difference = Difference.of(
                    f"+ user {named(name)}: role {named(role)}",
                    "user.grant-role",
                    user=name,
                    role=role,
                )
                self._draft.change(difference, changes.grant_role, name, role)

    def _revoke_from_user(self, name: str, held: Iterable[str], wanted: Iterable[str]) -> None:
        for role in held:
            if role not in wanted:
                difference = Difference.of(
                    f"- user {named(name)}: role {named(role)}",
                    "user.revoke-role",
                    user=name,
                    role=role,
                )
                self._draft.change(difference, changes.revoke_role, name, role)

    def _revoke_from_group(self, name: str, held: Iterable[str], wanted: Iterable[str]) -> None:
        for role in held:
            if role not in wanted:
                difference = Difference.of(
                    f"- group {named(name)}: role {named(role)}",
                    "group.revoke-role",
                    group=name,
                    role=role,
                )
                self._draft.change(difference, changes.revoke_group_role, name, role)

    def _grant_to_group(self, wanted: Group) -> None:
        held = self._before.groups.get(wanted.name, Group(wanted.name)).roles
        for role in wanted.roles:
            if role not in held:
                difference = Difference.of(
                    f"+ group {named(wanted.name)}: role {named(role)}",
                    "group.grant-role",
                    group=wanted.name,
                    role=role,
                )
                self._draft.change(difference, changes.grant_group_role, wanted.name, role)

    def _delete(self) -> None:
        content, before, draft = self._content, self._before, self._draft
        for name in missing(before.groups, content.groups):
            self._revoke_from_group(name, before.groups[name].roles, ())
        for name in missing(before.users, content.users):
            difference = Difference.of(f"- user {named(name)}", "user.delete", user=name)
            draft.change(difference, changes.delete_user, name)
        for role in missing_roles(before, content):
            # Those that the document does not list may have it.
            for name in names_in_order(draft.state.users_of_role.get(role, ())):
                self._revoke_from_user(name, (role,), ())
            for name in names_in_order(draft.state.groups):
                if role in draft.state.groups[name].roles:
                    self._revoke_from_group(name, (role,), ())
            difference = Difference.of(f"- role {named(role)}", "role.delete", role=role)
            draft.change(difference, changes.delete_role, role)


def _is_in(kind: PermissionType, other: PermissionType) -> bool:
    return other.reads >= kind.reads and other.writes >= kind.writes


def names_in_order(names: Iterable[str]) -> list[str]:
    """Return names in the order of their bytes."""
    return sorted(names, key=text_id)


def missing(held: Mapping[str, object], listed: Mapping[str, object] | None) -> list[str]:
    """Return the names of a section that the document has, and in which it does not list them."""
    return [] if listed is None else names_in_order(held.keys() - listed.keys())


def missing_roles(state: AuthState, content: StoreContent) -> list[str]:
    """Return the roles that pruning deletes."""
    # Invariant 2. The role root exists without a record too, so that a document can grant it.
    return [role for role in missing(state.roles, content.roles) if role != ROOT]
