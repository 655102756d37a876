"""Lists what is missing from a store that has replaced another."""

from collections.abc import Collection, Iterator
from typing import Final

from webhook.rbac.state import AuthState

_NAMED: Final = 10


def lacking(before: AuthState, after: AuthState) -> list[str]:
    """Return what ``before`` has and ``after`` lacks, revocations first.

    Each text is a kind and its names, such as ``user ann, bob``.
    """
    pairs: list[tuple[str, Collection[str], Collection[str]]] = [
        ("revoked jti", before.revoked_jtis, after.revoked_jtis),
        ("revoked subject", before.revoked_subjects, _as_late_as(before, after)),
        ("user", before.users, after.users),
        ("role", before.roles, after.roles),
        ("group", before.groups, after.groups),
    ]
    found = [text for kind, old, new in pairs for text in _missing(kind, old, new)]
    if before.meta.enabled and not after.meta.enabled:
        found.append("auth is disabled in it")
    return found


def _as_late_as(before: AuthState, after: AuthState) -> list[str]:
    # An earlier revocation of a subject concerns fewer tokens, so it does not replace a later one.
    return [
        subject
        for subject, revocation in after.revoked_subjects.items()
        if subject not in before.revoked_subjects
        or revocation.before >= before.revoked_subjects[subject].before
    ]


def _missing(kind: str, old: Collection[str], new: Collection[str]) -> Iterator[str]:
    names = sorted(set(old).difference(new))
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield f"{kind} {', '.join(names[:_NAMED])}{more}"
