"""What makes a store equal to a document, as the changes of single commands.

``plan_import`` returns the differences between a state and a document, and the records that remove
them: those of ``changes`` and ``revocations``. So an import changes auth revisions, ends tokens and
refuses what breaks etcd's rules exactly as the single commands do.

Invariants:

1. Without ``prune`` no user, role or group is deleted and auth is not disabled; what the document
   lists becomes equal to it.
2. No auth token of the store that was exported is accepted because of the import.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from keys.messages import counted, shown
from webhook.rbac.document import revocations_of
from webhook.rbac.document_reading import StoreContent, WantedUser
from webhook.rbac.errors import DocumentError
from webhook.rbac.import_changes import ImportChanges, missing, missing_roles
from webhook.rbac.import_plan import Difference, Draft, ImportPlan
from webhook.rbac.model import ROOT, Group
from webhook.rbac.records import Record, meta_record
from webhook.rbac.state import AuthState

_OTHER_STORE: Final = 1 << 20
"""More changes than a store makes until its last auth tokens expire."""


def plan_import(
    state: AuthState,
    content: StoreContent,
    *,
    prune: bool = False,
    prune_revocations: bool = False,
    restored: bool = False,
    max_records: int | None = None,
) -> ImportPlan:
    """Return what makes a state equal to the content of a document. The state is not changed.

    1. Every role that a user or a group of the document has exists afterwards.
    2. If auth is enabled afterwards, the user root has the role root: nobody is locked out.
    3. Each change passes the checks of its single command.

    If the document is of a store with a later auth revision, or the store was ``restored``, so that
    its own auth revision ran backwards, all auth tokens end (invariant 2). Each step is divided
    into some of ``max_records`` at most, where it can be.

    Raises DocumentError for 1 and 2, and the errors of ``changes`` for 3.
    """
    _require_roles(state, content, prune=prune)  # 1.
    _require_root(state, content, prune=prune)  # 2.
    draft = Draft(state, max_records)
    options = {"prune": prune, "prune_revocations": prune_revocations}
    ImportChanges(state, draft, content, **options).run()  # 3.
    revision = state.meta.revision
    is_moved = prune or draft.state.meta.revision > revision
    if restored or (is_moved and revision < content.auth_revision):
        draft = Draft(state, max_records)
        raised = max(revision, content.auth_revision) + _OTHER_STORE
        text = f"~ auth revision: {raised}, and all auth tokens end"
        # First, so that an import that is killed after it and repeated does not raise it again.
        draft.change(Difference.of(text, "store.end-tokens"), _end_tokens, raised)
        ImportChanges(state, draft, content, **options).run()
    return ImportPlan(
        tuple(draft.differences),
        tuple(draft.revisions),
        tuple(draft.steps),
        tuple(_kept(state, content, prune=prune, prune_revocations=prune_revocations)),
    )


def _end_tokens(state: AuthState, revision: int) -> list[Record]:
    epoch = state.meta.token_epoch + 1
    return [
        meta_record(
            msgspec.structs.replace(
                state.meta, revision=revision, floor=revision, token_epoch=epoch
            )
        )
    ]


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


def _kept(
    state: AuthState, content: StoreContent, *, prune: bool, prune_revocations: bool
) -> Iterator[tuple[str, str]]:
    if not prune:
        for word, names in (
            ("user", missing(state.users, content.users)),
            ("role", missing_roles(state, content)),
            ("group", missing(state.groups, content.groups)),
        ):
            if names:
                yield "--prune", counted(len(names), word)
        if state.meta.enabled and not content.enabled:
            yield "--prune", "auth, which stays enabled"
    if content.revocations is not None and not prune_revocations:
        count = len(revocations_of(state).keys() - content.revocations.keys())
        if count:
            yield "--prune-revocations", counted(count, "revocation")
