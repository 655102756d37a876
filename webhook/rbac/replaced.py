"""What a store lacks that takes the place of another one; pure."""

from collections.abc import Collection, Iterator
from typing import Final

from webhook.rbac.state import AuthState

_NAMED: Final = 10


def lacking(before: AuthState, after: AuthState) -> list[str]:
    """Return what the state before has and the one after has not, in words, revocations first."""
    pairs: list[tuple[str, Collection[str], Collection[str]]] = [
        ("revoked jti", before.revoked_jtis, after.revoked_jtis),
        ("revoked subject", before.revoked_subjects, _as_late(before, after)),
        ("user", before.users, after.users),
        ("role", before.roles, after.roles),
        ("group", before.groups, after.groups),
    ]
    found = [text for kind, old, new in pairs for text in _missing(kind, old, new)]
    if before.meta.enabled and not after.meta.enabled:
        found.append("auth is disabled in it")
    return found


def _as_late(before: AuthState, after: AuthState) -> list[str]:
    # One of an earlier second leaves tokens that the later one revoked.
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
