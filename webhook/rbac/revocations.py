"""Answers whether a token has been revoked: the hot path.

By ``jti`` and ``sub`` of claims whose signature holds, never by the bytes of a token: a token in
another encoding is the same token.
"""

from keys.messages import utc
from webhook.rbac.auth_store import AuthStore
from webhook.token.claims import Claims


class StoreRevocations:
    """The revocations in a store, as of its last change or ``refresh``."""

    def __init__(self, store: AuthStore) -> None:
        self._store = store

    def find(self, claims: Claims) -> str:
        """Return by what a token has been revoked, empty where it has not. Never waits.

        A revocation counts as long as it is kept: by a clock that was put back its end may be over.
        """
        state = self._store.state
        revocation = state.revoked_jtis.get(claims.jti)
        if revocation is not None:
            return f"jti {claims.jti} was revoked at {utc(revocation.before)}"
        revocation = state.revoked_subjects.get(claims.subject)
        if revocation is None:
            return ""
        issued = claims.issued_at
        if issued is None:
            return f"it has no iat, and the tokens of {claims.subject} were revoked"
        # Of that second too: what came first within it cannot be told.
        if issued <= revocation.before:
            return (
                f"the tokens of {claims.subject} issued up to {utc(revocation.before)} were "
                f"revoked, this one is of {utc(issued)}"
            )
        return ""
