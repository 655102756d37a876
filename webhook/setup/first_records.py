"""The first records of a store: the users of the certificates, their roles, and auth enabled."""

from collections.abc import Iterable
from typing import Final

from webhook.kube.request_keys import ACCESS_REVIEWS_KEY, TOKEN_REVIEWS_KEY
from webhook.rbac import changes
from webhook.rbac.model import ROOT, Permission, PermissionType
from webhook.rbac.records import Record
from webhook.rbac.state import AuthState

ROOT_USER: Final = ROOT
API_SERVER_USER: Final = "kube-apiserver"


def first_records() -> list[Record]:
    """Return the records of a new store, to be written in one transaction.

    In a store with only a part of them auth would be disabled. The single commands would write the
    same.

    >>> from collections import Counter
    >>> sorted(Counter(record.kind for record in first_records()).items())
    [('meta', 1), ('permission', 2), ('role', 2), ('user', 2)]
    """
    state = AuthState()
    written: dict[tuple[str, bytes], Record] = {}

    def change(records: Iterable[Record]) -> None:
        made = list(records)
        state.apply(state.revision, made)
        written.update({(record.kind, record.id): record for record in made})

    change(changes.add_role(state, ROOT))
    change(changes.add_user(state, ROOT_USER))
    change(changes.grant_role(state, ROOT_USER, ROOT))
    change(changes.add_role(state, API_SERVER_USER))
    for key in (TOKEN_REVIEWS_KEY, ACCESS_REVIEWS_KEY):
        permission = Permission(key, b"", PermissionType.WRITE)
        change(changes.grant_permission(state, API_SERVER_USER, permission))
    change(changes.add_user(state, API_SERVER_USER))
    change(changes.grant_role(state, API_SERVER_USER, API_SERVER_USER))
    change(changes.enable(state))
    return list(written.values())
